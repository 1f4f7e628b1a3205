"""The runtime that computes a model's logits, and the number format of its weights."""

from typing import Any

import torch
from torch import nn

from ..architectures import FunctionModel


def runtime_of(model: Any) -> str:
    """Name what runs a model: "torch", or what a function or an exported file says of itself."""
    if isinstance(model, FunctionModel):
        return model.runtime or "a function"
    return getattr(model, "runtime", "torch")


def precision_of(model: Any) -> str | None:
    """Name the number formats of a model's weights, as "float32" or "Int8Tensor, float32"; None where unknown.

    Weights that torchao has quantised are tensors of a class of their own; torch's integer layers are no parameters.
    """
    if hasattr(model, "runtime"):
        return model.precision
    kinds = {_kind(parameter.data) for parameter in model.parameters()}
    if any(".quantized" in type(module).__module__ for module in model.modules()):
        kinds.add("int8")
    return ", ".join(sorted(kinds)) or None


def _kind(weight: torch.Tensor) -> str:
    is_plain = type(weight) in (torch.Tensor, nn.Parameter)
    return str(weight.dtype).removeprefix("torch.") if is_plain else type(weight).__name__
