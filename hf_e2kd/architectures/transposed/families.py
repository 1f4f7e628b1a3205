"""Families of transformers whose blocks can be opened for a transposed pass, and their registry."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..grids import Grid
from .operations import Pullback, Step
from .rules import Rules

Move = Callable[[torch.Tensor], torch.Tensor]
"""Function of word embeddings (B, T, C) or pixels (B, C, H, W) that gives what stands in their place."""


@dataclass
class Embedded:
    """A batch in front of the first block, or of a later one.

    Args:
        hidden: Activation (B, tokens, C).
        value: What the model reads: word embeddings (B, T, C) before positions are added, or pixels (B, C, H, W).
        pullback: Takes a cotangent of `hidden` to one of `value`.
        context: What blocks are given beside the activation, such as masks.
        grid: Layout of an image's tokens; None for a text's.
    """

    hidden: torch.Tensor
    value: torch.Tensor
    pullback: Pullback
    context: Any = None
    grid: Grid | None = None


class Family(ABC):
    """One model, as a row of blocks between its embeddings and its classifier."""

    read: int | None = 1
    """Number of tokens at the start that the classifier reads; None for all."""

    def __init__(self, model: Any):
        self.model = model

    @property
    @abstractmethod
    def blocks(self) -> dict[str, Any]:
        """The blocks by their paths, the first one first."""

    @abstractmethod
    def embed(self, inputs: Mapping[str, Any], rules: Rules, move: Move) -> Embedded:
        """Embed a batch, whose word embeddings or pixels are moved."""

    def context(self, hidden: torch.Tensor, inputs: Mapping[str, Any]) -> Any:
        """Make what blocks are given beside the activation `hidden` (B, tokens, C), such as masks."""
        return None

    @abstractmethod
    def run(self, block: Any, hidden: torch.Tensor, context: Any) -> torch.Tensor:
        """Run a block as the model does."""

    @abstractmethod
    def open(self, block: Any, hidden: torch.Tensor, context: Any, read: int | None, rules: Rules) -> Step:
        """Run a block in the open: its output (B, read, C), and the pullback to its input (B, tokens, C)."""

    @abstractmethod
    def classify(self, tokens: torch.Tensor, context: Any, rules: Rules) -> Step:
        """Compute the logits (B, classes) of the tokens (B, read, C) behind the last block."""


_FAMILIES: dict[str, Callable[[Any], Family | None]] = {}


def register_family(model_class: str, family: Callable[[Any], Family | None]) -> None:
    """Register how a class of models is opened; subclasses inherit it.

    Args:
        model_class: Name of the class.
        family: Makes the family of a model; None for a model of this class whose parts can't be opened.
    """
    _FAMILIES[model_class] = family


def find_family(model: nn.Module) -> Family | None:
    """Return the family of a model; None where its class isn't known, or where it has a forward of its own."""
    for cls in type(model).__mro__:
        if cls.__name__ in _FAMILIES:
            return None if own_forward(model) is not None else _FAMILIES[cls.__name__](model)
    return None


_PACKAGES = frozenset({"hf_e2kd", "peft", "timm", "torch", "transformers"})


def own_forward(model: nn.Module) -> str | None:
    """Name the first part of a model whose forward none of the packages has written, which alone are opened.

    A user's subclass that pools otherwise, or a head that was put in a model's own, has a parent's name and perhaps its
    layers. Linear layers and other modules without parts are looked at where they are opened.
    """
    if torch.compiler.is_compiling():  # `check` has looked before
        return None
    for path, module in model.named_modules():
        is_layer = isinstance(module, nn.Linear) or hasattr(module, "base_layer")
        if not is_layer and (module is model or module._modules) and _has_own_forward(type(module)):
            return f"its {path}, a {type(module).__name__}," if path else f"{type(module).__name__}.forward"
    return None


def _has_own_forward(kind: type) -> bool:
    others = [base for base in kind.__mro__ if base.__module__.partition(".")[0] not in _PACKAGES]
    return any(name.startswith("forward") for base in others for name in vars(base))


def known_families() -> list[str]:
    """List the classes whose blocks can be opened."""
    return sorted(_FAMILIES)
