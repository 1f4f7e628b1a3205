"""Check of an explainer's side effects: training modes, gradients and hooks."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from ..explainers import Explainer
from .failures import require, some
from .forward_order import modules_in_order


def check_modes(
    explainer: Explainer, model: nn.Module, inputs: dict[str, Any], target: torch.Tensor | None, tolerance: float
) -> None:
    """Check that no module's training mode, no parameter's `requires_grad` and no gradient is changed."""
    model.train()
    # A mixed state, as a frozen batch norm makes it.
    next(iter(model.children()), model).eval()
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    modes = {path: module.training for path, module in modules.items()}
    trainable = {path: parameter.requires_grad for path, parameter in parameters.items()}
    for create_graph in _graphs(explainer):
        explainer(model, inputs, target, create_graph=create_graph)
        changed = [path or "the model itself" for path, module in modules.items() if module.training != modes[path]]
        require(
            not changed,
            f"it changes the training mode of {some(changed)}. Dropout and batch norms would then train otherwise: "
            "leave out its call of `model.eval()` or `model.train()`.",
        )
        changed = [path for path, parameter in parameters.items() if parameter.requires_grad != trainable[path]]
        require(not changed, f"it changes `requires_grad` of {some(changed)}, so other parameters would be trained.")
        changed = [path for path, parameter in parameters.items() if parameter.grad is not None]
        require(
            not changed,
            f"it writes the gradient of {some(changed)}, which is added to that of the loss. Take gradients by "
            "`torch.autograd.grad` instead of `backward`.",
        )


def check_hooks(
    explainer: Explainer, model: nn.Module, inputs: dict[str, Any], target: torch.Tensor | None, tolerance: float
) -> None:
    """Check that no hook is left behind, not even after an error."""
    before = _hooks(model)
    for create_graph in _graphs(explainer):
        explainer(model, inputs, target, create_graph=create_graph)
        _require_no_hooks(model, before, "")

    def fails(*_: Any, **__: Any) -> Any:
        raise _Injected

    def explain_with_an_error(wrong: Any = target) -> None:
        with suppress(_Injected):
            explainer(model, inputs, wrong)

    explain_with_an_error(wrong=fails)
    _require_no_hooks(model, before, " after an error in the choice of the class")
    last = modules_in_order(model, inputs)[-1]
    with patch.object(last, "forward", fails):
        explain_with_an_error()
    _require_no_hooks(model, before, " after an error in the model")


def _graphs(explainer: Explainer) -> tuple[bool, ...]:
    return (False, True) if explainer.trainable else (False,)


class _Injected(Exception):
    """Error that a check has put into the model."""


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _hooks(model: nn.Module) -> dict[str, int]:
    """Count the hooks on each module and parameter, a replaced forward as one."""
    counts = {
        f"the module '{path}'": sum(len(getattr(module, kind)) for kind in _HOOKS) + ("forward" in vars(module))
        for path, module in model.named_modules()
    }
    return counts | {
        f"the parameter '{path}'": len(parameter._backward_hooks or ()) for path, parameter in model.named_parameters()
    }


def _require_no_hooks(model: nn.Module, before: Mapping[str, int], when: str) -> None:
    left = [place for place, count in _hooks(model).items() if count != before[place]]
    require(
        not left,
        f"it leaves a hook or a replaced forward on {some(left)}{when}. Remove it in a `finally`, or use a context "
        "manager such as `hf_e2kd.explainers.hooks.captured_output`.",
    )
