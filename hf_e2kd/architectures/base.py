"""The target layer and head of a class of models, and the registry of the classes for which they are known."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from .grids import Grid


@dataclass(frozen=True)
class Split:
    """One forward pass, cut at the target layer.

    Args:
        activation: Output of the target layer, laid out as `grid` says.
        head: Maps the activation to the logits (B, classes). It must be a pure function of the activation up to
            dropout, so that `torch.func` can differentiate it inside the forward pass.
        grid: The activation's layout.
    """

    activation: torch.Tensor
    head: Callable[[torch.Tensor], torch.Tensor]
    grid: Grid


@dataclass(frozen=True)
class Architecture:
    """The target layer of a family of models, and the head behind it.

    Args:
        target: Path of the target layer (as in `model.get_submodule`), or a function of the model that gives it.
        split: `split(model, inputs) -> Split`. Without it, the target layer is read by a hook, which works in eager
            mode only.
    """

    target: str | Callable[[nn.Module], str]
    split: Callable[[nn.Module, Mapping[str, Any]], Split] | None = None

    def target_path(self, model: nn.Module) -> str:
        return self.target if isinstance(self.target, str) else self.target(model)


# By the name of the model's class, so that a family costs no import until one of its models is there.
_ARCHITECTURES: dict[str, Architecture] = {}


def register_architecture(
    model_class: str | type[nn.Module],
    target: str | Callable[[nn.Module], str],
    split: Callable[[nn.Module, Mapping[str, Any]], Split] | None = None,
) -> None:
    """Register the target layer of a class of models; its subclasses inherit the entry.

    Those with a forward of their own inherit the target layer alone.

    Args:
        model_class: Class of models, or its name.
        target: Path of the layer that is explained, for example `"features.7"`, or a function of the model.
        split: `split(model, inputs) -> Split`, which cuts the forward pass at the target layer. Worth writing where
            the model is trained with `torch.compile`; without it the layer is read by a hook.

    Example:

        >>> from hf_e2kd import register_architecture
        >>> register_architecture("MyConvNet", target="stages.3")
    """
    name = model_class if isinstance(model_class, str) else model_class.__name__
    _ARCHITECTURES[name] = Architecture(target, split)


def registered_architecture(model: nn.Module) -> Architecture | None:
    """The entry of the model's class or of the nearest class it inherits from; None where there is none.

    A subclass with a forward of its own has the target layer, and not the split, which gives its parent's logits.
    """
    known: Any = next((cls for cls in type(model).__mro__ if cls.__name__ in _ARCHITECTURES), None)
    if known is None:
        return None
    architecture = _ARCHITECTURES[known.__name__]
    return architecture if keeps_forward(model, known) else replace(architecture, split=None)


def keeps_forward(model: nn.Module, known: Any) -> bool:
    """Tell whether a model runs the forward of a class that it inherits from; in a compiled graph, that is taken so."""
    # The explainers' checks have looked before anything is compiled.
    return torch.compiler.is_compiling() or type(model).forward is known.forward


def explained_part(model: nn.Module) -> str | None:
    """Name of the submodule whose target layer and stages are a composed model's; None of other models.

    A composed model's class names it (`explained_part = "backbone"`), and `model.behind_part(inputs)` gives the
    function from the part's logits to the model's own.
    """
    return getattr(model, "explained_part", None)


def available_architectures() -> list[str]:
    """Names of the model classes whose target layer and head are known."""
    return sorted(_ARCHITECTURES)


def require_inputs(inputs: Mapping[str, Any], *optional: str) -> torch.Tensor:
    """Check that a split is given only inputs it passes on, and return `pixel_values` (B, channels, H, W)."""
    unknown = sorted(
        key for key, value in inputs.items() if key not in ("pixel_values", *optional) and value is not None
    )
    if unknown:
        raise TypeError(
            f"Explaining this model takes the inputs {['pixel_values', *optional]}, not {unknown}. Remove them, or "
            "name a layer by `target_layer`, which runs the model's own forward."
        )
    return inputs["pixel_values"]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; each module's own mode is put back after it, errors included."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        # By `train` too, which some modules override: LeViT drops there what it remembers for evaluation.
        for module, mode in modes:
            if module.training != mode:
                module.train(mode)
        for module, mode in modes:
            module.training = mode


def forget_biases(model: nn.Module) -> None:
    """Empty the biases that LeViT and its like keep of a pass in evaluation mode.

    They may be those of weights that have been replaced since, and bear a graph, with which no model is copied.
    """
    for module in model.modules():
        remembered = vars(module).get("attention_bias_cache")
        if remembered:
            remembered.clear()
