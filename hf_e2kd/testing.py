"""Checks for explainers of your own, without a test framework: each failure is an `AssertionError` that says why."""

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from .architectures import call_model
from .explainers import Explainer, Explanation, build_explainer
from .losses import explanation_loss

GROUPS = 12
"""Of parameters, whose gradients are compared with finite differences each."""

STEPS = (1e-7, 1e-5, 1e-4, 1e-3)
"""Of the finite differences, in float64. Models that compute a part in float32 need the long ones, kinks the short."""


def check_explainer(
    explainer: str | Explainer,
    model: nn.Module,
    inputs: Mapping[str, Any],
    target: torch.Tensor | None = None,
    tolerance: float = 1e-4,
) -> None:
    """Checks on one model what the trainer relies on. The model is copied, and stays as it is.

    - *Result*: the logits are those of the plain forward, and the maps finite, at least float32 and one a target.
    - *Modes*: no module's training mode, no parameter's gradient and no `requires_grad` is touched.
    - *Hooks*: none is left behind, after an error in the model neither.
    - *Gradient*: that of a loss of the maps equals finite differences in float64, in the parameters before the layer
      that is explained and in those behind it.

    Args:
        explainer: The explainer, or the name that it was registered by.
        model: A small classifier, on the CPU. Its weights must let the maps vary; random ones do.
        inputs: The forward's keyword arguments for a batch of at least two samples, without labels.
        target: (B,) explained classes; the top ones by default.
        tolerance: Of the gradient's error, relative to the norm of the whole.

    Raises:
        AssertionError: naming what failed, and the likely cause.

    Example:
        >>> import torch
        >>> from transformers import ResNetConfig, ResNetForImageClassification
        >>> from hf_e2kd.testing import check_explainer
        >>> config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        >>> model = ResNetForImageClassification(config)
        >>> check_explainer("gradcam", model, {"pixel_values": torch.randn(2, 3, 32, 32)})
    """
    explainer = build_explainer(explainer) if isinstance(explainer, str) else explainer
    name = getattr(explainer, "name", type(explainer).__name__)
    for check in (_check_result, _check_modes, _check_hooks, _check_gradient):
        try:
            check(explainer, copy.deepcopy(model).eval(), dict(inputs), target, tolerance)
        except AssertionError as error:
            raise AssertionError(f"The explainer '{name}' on {type(model).__name__}: {error}") from error.__cause__


# ---- What it gives ------------------------------------------------------------------------------------------------


def _check_result(
    explainer: Explainer, model: nn.Module, inputs: dict[str, Any], target: torch.Tensor | None, tolerance: float
) -> None:
    with torch.no_grad():
        logits = call_model(model, inputs)
    found = explainer(model, inputs, target)
    _require(
        found.logits.shape == logits.shape and torch.allclose(found.logits, logits, rtol=1e-4, atol=1e-5),
        "its logits are not those of the model's plain forward. It may call the model in another mode or on other "
        "inputs, or a hook of it changes what a layer gives.",
    )
    expected = logits.argmax(1) if target is None else target
    _require(
        found.target.shape == expected.shape and torch.equal(found.target, expected),
        f"it says that it explains the classes {found.target.tolist()} where {expected.tolist()} were asked for. Give "
        "`resolve_target(target, logits)` as the explanation's target.",
    )
    _require(
        len(found.maps) == len(logits) and found.maps.ndim >= 2,
        f"its maps have the shape {tuple(found.maps.shape)} for {len(logits)} samples, where one map a sample, "
        "(B, *grid), is expected.",
    )
    _require(bool(found.maps.isfinite().all()), "its maps hold NaN or infinite values. A division by zero is likely.")
    _require(
        bool(found.maps.flatten(1).any(1).all()),
        "its map of a sample is zero everywhere, so nothing can be checked on it. Give other inputs, a model with "
        "other weights or another target.",
    )
    with torch.autocast(logits.device.type, torch.bfloat16):
        dtype = explainer(model, inputs, target).maps.dtype
    _require(
        dtype in (torch.float32, torch.float64),
        f"its maps are {dtype} in mixed precision, where gradients of an explanation underflow. Give "
        "`maps.float()` where they are in half precision.",
    )
    _require(
        explainer(copy.deepcopy(model).double(), _double(inputs), target).maps.dtype == torch.float64,
        "its maps of a float64 model are not float64. Cast half precision alone.",
    )
    none = torch.full_like(expected, -1)
    several = explainer(model, inputs, torch.stack([expected, none], dim=1))
    _require(
        several.maps.shape == (len(logits), 2, *found.maps.shape[1:]),
        f"for two targets a sample, (B, 2), its maps have the shape {tuple(several.maps.shape)}, where "
        f"{(len(logits), 2, *found.maps.shape[1:])} is expected: one map a target.",
    )
    _require(
        torch.allclose(several.maps[:, 0], found.maps, rtol=1e-4, atol=1e-6 * float(found.maps.abs().max())),
        "the first of two targets has another map than the same target alone. The second may be mixed into it.",
    )
    _require(
        not several.maps[:, 1].any(),
        "the map of the target −1, which explains nothing, is not zero. Multiply each map by `target >= 0`, or take "
        "the logits by `one_hots(target, logits)`.",
    )


# ---- What it leaves behind ----------------------------------------------------------------------------------------


def _check_modes(
    explainer: Explainer, model: nn.Module, inputs: dict[str, Any], target: torch.Tensor | None, tolerance: float
) -> None:
    model.train()
    # A mixed state, as a frozen batch norm makes it.
    next(iter(model.children()), model).eval()
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    modes = {path: module.training for path, module in modules.items()}
    trainable = {path: parameter.requires_grad for path, parameter in parameters.items()}
    for create_graph in (False, True):
        explainer(model, inputs, target, create_graph=create_graph)
        changed = [path or "the model itself" for path, module in modules.items() if module.training != modes[path]]
        _require(
            not changed,
            f"it changes the training mode of {_some(changed)}. Dropout and batch norms would then train otherwise: "
            "leave out its call of `model.eval()` or `model.train()`.",
        )
        changed = [path for path, parameter in parameters.items() if parameter.requires_grad != trainable[path]]
        _require(not changed, f"it changes `requires_grad` of {_some(changed)}, so other parameters would be trained.")
        changed = [path for path, parameter in parameters.items() if parameter.grad is not None]
        _require(
            not changed,
            f"it writes the gradient of {_some(changed)}, which is added to that of the loss. Take gradients by "
            "`torch.autograd.grad` instead of `backward`.",
        )


def _check_hooks(
    explainer: Explainer, model: nn.Module, inputs: dict[str, Any], target: torch.Tensor | None, tolerance: float
) -> None:
    before = _hooks(model)
    for create_graph in (False, True):
        explainer(model, inputs, target, create_graph=create_graph)
        _require_no_hooks(model, before, "")

    def fails(*_: Any, **__: Any) -> Any:
        raise _Injected

    def explain_with_an_error(wrong: Any = target) -> None:
        with suppress(_Injected):
            explainer(model, inputs, wrong)

    explain_with_an_error(wrong=fails)
    _require_no_hooks(model, before, " after an error in the choice of the class")
    last = _modules_in_order(model, inputs)[-1]
    with patch.object(last, "forward", fails):
        explain_with_an_error()
    _require_no_hooks(model, before, " after an error in the model")


class _Injected(Exception):
    """An error that a check has put into the model."""


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _hooks(model: nn.Module) -> dict[str, int]:
    """How many hooks hang on each module and parameter, a replaced forward counted as one."""
    counts = {
        f"the module '{path}'": sum(len(getattr(module, kind)) for kind in _HOOKS) + ("forward" in vars(module))
        for path, module in model.named_modules()
    }
    return counts | {
        f"the parameter '{path}'": len(parameter._backward_hooks or ()) for path, parameter in model.named_parameters()
    }


def _require_no_hooks(model: nn.Module, before: Mapping[str, int], when: str) -> None:
    left = [place for place, count in _hooks(model).items() if count != before[place]]
    _require(
        not left,
        f"it leaves a hook or a replaced forward on {_some(left)}{when}. Remove it in a `finally`, or use a context "
        "manager such as `hf_e2kd.explainers.hooks.captured_output`.",
    )


# ---- Its gradient -------------------------------------------------------------------------------------------------


def _check_gradient(
    explainer: Explainer, model: nn.Module, inputs: dict[str, Any], target: torch.Tensor | None, tolerance: float
) -> None:
    model, inputs = model.double().requires_grad_(True), _double(inputs)
    if target is None:
        with torch.no_grad():
            target = call_model(model, inputs).argmax(1)
    explained = explainer(model, inputs, target, create_graph=True)
    _require(
        explained.maps.requires_grad,
        "its maps carry no gradient, so a loss of them trains nothing. It may `detach` them, take them through "
        "`.data` or numpy, compute under `no_grad`, or call `torch.autograd.grad` without `create_graph=True`.",
    )
    _require(
        explained.logits.requires_grad,
        "its logits carry no gradient, and the trainer takes the losses on logits from the same pass. Don't detach "
        "them.",
    )
    try:
        _, gradients = explained_gradients(model, explainer, inputs, target)
    except RuntimeError as error:
        raise AssertionError(
            f"its maps can't be differentiated: {error}. A layer behind the explained one may have no second "
            "derivative (fused attention: use eager attention or `sdpa_kernel(SDPBackend.MATH)`), or a graph was "
            "freed: give `torch.autograd.grad` `create_graph=True`."
        ) from error
    parameters = dict(model.named_parameters())

    def loss() -> torch.Tensor:
        return loss_of(explainer(model, inputs, target))

    generator = torch.Generator().manual_seed(1)
    groups, norm = _groups(model, inputs), max(total_norm(gradients), 1e-30)
    found, expected = torch.zeros(2, len(groups), dtype=torch.float64)
    for number, group in enumerate(groups):
        # The gradient itself, which stands out from rounding errors, and where it may be missing.
        random = {name: torch.randn(gradients[name].shape, generator=generator, dtype=torch.float64) for name in group}
        direction = {name: gradients[name] / norm + random[name] / total_norm(random) for name in group}
        found[number] = sum((gradients[name] * change).sum() for name, change in direction.items())
        expected[number] = torch.inf
        for step in STEPS:
            value = directional_derivative(loss, parameters, direction, step)
            if abs(value - found[number]) < abs(expected[number] - found[number]):
                expected[number] = value
            if abs(value - found[number]) < tolerance / 10 * norm:
                break
    # Relative to the whole: single parameters, as a key's bias, may have next to no gradient.
    errors = (found - expected) / expected.norm()
    if errors.norm() <= tolerance:
        return
    worst = int(errors.abs().argmax())
    missing = (found == 0) & (errors.abs() > tolerance)
    without = [name for group, is_missing in zip(groups, missing, strict=True) if is_missing for name in group]
    if without:
        cause = (
            f"no gradient reaches {_some(without)}, though the maps depend on it. A gradient taken without "
            "`create_graph=True` is a constant to the loss, and so is what was detached: only a part of the parameters "
            "would be trained to explain"
        )
    else:
        cause = (
            f"the gradient of {_some(groups[worst])} is wrong. A part of the graph may be detached, or a "
            "`torch.autograd.Function` written by hand lacks its second derivative"
        )
    raise AssertionError(
        f"{cause}. Along a random direction of these parameters the loss's derivative is {expected[worst]:.3e} by "
        f"finite differences and {found[worst]:.3e} by the gradient; the error of all is {errors.norm():.1e} of their "
        f"norm, and {tolerance:.0e} is allowed."
    )


def loss_of(explanation: Explanation) -> torch.Tensor:
    """The mean cosine loss of the maps against a fixed random reference, ()."""
    reference = torch.rand(explanation.maps.shape, generator=torch.Generator().manual_seed(5))
    return explanation_loss(explanation.maps, reference)[0].mean()


def explained_gradients(
    model: nn.Module, explainer: Explainer, inputs: Mapping[str, Any], target: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """`loss_of` an explanation and its gradient by parameter, zero where a parameter has none."""
    model.zero_grad()
    loss = loss_of(explainer(model, inputs, target, create_graph=True))
    loss.backward()
    gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }
    model.zero_grad()
    return loss.detach(), gradients


def total_norm(gradients: Mapping[str, torch.Tensor]) -> float:
    """The norm of all tensors together."""
    return float(torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt())


def relative_error(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """Of all gradients together, relative to their total norm: single ones (a key's bias) may be almost zero."""
    assert found.keys() == expected.keys()
    difference = {name: found[name] - expected[name] for name in found}
    return total_norm(difference) / total_norm(expected)


@torch.no_grad()
def directional_derivative(
    loss: Callable[[], torch.Tensor],
    parameters: Mapping[str, torch.Tensor],
    direction: Mapping[str, torch.Tensor],
    step: float = STEPS[0],
) -> float:
    """A loss's derivative along a direction of some of the parameters (float64), by central differences."""
    values = []
    for sign in (1, -2, 1):
        for name, change in direction.items():
            parameters[name].add_(sign * step * change)
        values.append(loss().item())
    return (values[0] - values[1]) / (2 * step)


# ---- Helpers ------------------------------------------------------------------------------------------------------


def _require(condition: bool, message: str) -> None:
    # Not `assert`, which Python leaves out under -O.
    if not condition:
        raise AssertionError(message)


def _double(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }


def _modules_in_order(model: nn.Module, inputs: Mapping[str, Any]) -> list[nn.Module]:
    """The modules that hold no others, in the order in which the plain forward calls them."""
    called: list[nn.Module] = []
    leaves = [module for module in model.modules() if not list(module.children())]
    handles = [module.register_forward_pre_hook(lambda module, _: called.append(module)) for module in leaves]
    try:
        with torch.no_grad():
            call_model(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(called))


def _groups(model: nn.Module, inputs: Mapping[str, Any]) -> list[list[str]]:
    """At most `GROUPS` groups of neighbouring parameters, in the order in which the forward meets them."""
    paths = {module: path for path, module in model.named_modules()}
    own = [
        f"{paths[module]}.{name}" if paths[module] else name
        for module in _modules_in_order(model, inputs)
        for name, _ in module.named_parameters()
    ]
    known = dict(model.named_parameters())
    # Those that hang on a module with children, as a class token, come first; tied ones count once.
    ordered = [name for name in [*(name for name in known if name not in set(own)), *own] if name in known]
    size = -(-len(ordered) // GROUPS)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _some(names: Iterable[str]) -> str:
    """Up to three names."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")
