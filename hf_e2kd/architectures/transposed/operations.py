"""Layers with their transposes: each gives its output and the function that takes a cotangent of it to its input.

Everything is plain operations on recorded activations, so a pass through the transposes is first order: a loss of what
comes out of it is trained by one ordinary backward pass, which knows nothing of the rules.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ...alignment.precision import at_least_float32
from .refusals import TransposeError
from .rules import Rules

Pullback = Callable[[torch.Tensor], torch.Tensor]
"""Takes a cotangent of a layer's output, of its shape, to one of its input."""

Step = tuple[torch.Tensor, Pullback]
"""A layer's output and its pullback."""


@dataclass
class Affine:
    """Weight (out, in) and bias (out) of a linear layer."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)

    def transposed(self, cotangent: torch.Tensor) -> torch.Tensor:
        return F.linear(cotangent, self.weight.t())


def affine(module: nn.Module) -> Affine:
    """Read a plain linear layer.

    Raises:
        TransposeError: it is of another class, such as an adapter's or a quantized one, whose weight isn't all of it.
    """
    if type(module) is not nn.Linear:
        raise TransposeError(
            f"Relevance is propagated through plain linear layers (torch's), and here is a {type(module).__name__} of "
            f"{type(module).__module__}. Merge an adapter into its model (merge_and_unload), or load the model without "
            "quantization."
        )
    return Affine(module.weight, module.bias)


def split_affine(module: nn.Module, parts: int) -> list[Affine]:
    """Read a linear layer whose output holds several projections of equal size, one after the other."""
    whole = affine(module)
    biases = [None] * parts if whole.bias is None else whole.bias.chunk(parts)
    return [Affine(*part) for part in zip(whole.weight.chunk(parts), biases, strict=True)]


def unchanged(cotangent: torch.Tensor) -> torch.Tensor:
    """Hand a cotangent on as it is."""
    return cotangent


def linear(module: nn.Module, x: torch.Tensor) -> Step:
    """Apply a plain linear layer."""
    layer = affine(module)
    return layer(x), layer.transposed


def norm(module: nn.Module, x: torch.Tensor, rules: Rules) -> Step:
    """Apply a layer norm over the last dimension, or an identity.

    Raises:
        TransposeError: the norm is of another kind.
    """
    if isinstance(module, nn.Identity):
        return x, unchanged
    if not isinstance(module, nn.LayerNorm) or len(module.normalized_shape) != 1:
        raise TransposeError(f"Relevance is propagated through layer norms, and here is a {type(module).__name__}.")
    weight = module.weight
    values = at_least_float32(x)
    values = values - values.mean(-1, keepdim=True)
    scale = (values.square().mean(-1, keepdim=True) + module.eps).rsqrt()

    def pullback(cotangent: torch.Tensor) -> torch.Tensor:
        scaled = at_least_float32(cotangent) * scale
        if weight is not None:
            scaled = scaled * weight
        centred = scaled - scaled.mean(-1, keepdim=True)
        if not rules.linearised:
            normalised = values * scale
            centred = centred - normalised * (scaled * normalised).mean(-1, keepdim=True)
        return centred.to(cotangent.dtype)

    return module(x), pullback


def dropout(probability: float, x: torch.Tensor) -> Step:
    """Drop values with a probability, 0 outside training.

    What was dropped in the forward pass is dropped in the transposed one too: both are of the same network.
    """
    if probability == 0:
        return x, unchanged
    factors = F.dropout(torch.ones_like(x), probability)
    return x * factors, lambda cotangent: cotangent * factors


def active(module: Any) -> float:
    """Return the probability with which a dropout layer drops values now."""
    return module.p if module.training else 0.0


def factor(module: nn.Module, x: torch.Tensor) -> Step:
    """Apply a dropout, a stochastic depth or a layer scale: a factor that doesn't depend on the activation."""
    if isinstance(module, nn.Dropout):
        return dropout(active(module), x)
    if isinstance(module, nn.Identity) or not (module.training or list(module.parameters())):
        return x, unchanged
    factors = module(torch.ones_like(x))
    return x * factors, lambda cotangent: cotangent * factors


def activation(function: Any, x: torch.Tensor, rules: Rules) -> Step:
    """Apply an activation, given as a module, a function or a name of transformers' configurations.

    Raises:
        TransposeError: its transpose isn't known; the message lists those that are.
    """
    value, ratio, slope = _known_activation(function)(x)
    return value, lambda cotangent: cotangent * (ratio() if rules.linearised else slope())


# --- Activations: value, f(x)/x and f'(x) ---------------------------------------------------------------------------

Curve = Callable[[torch.Tensor], tuple[torch.Tensor, Callable[[], torch.Tensor], Callable[[], torch.Tensor]]]
_ROOT_TWO_OVER_PI = (2 / torch.pi) ** 0.5


def _gelu(x: torch.Tensor) -> Any:
    gate = torch.add(x.new_tensor(0.5), torch.erf(x * 0.5**0.5), alpha=0.5)
    return x * gate, lambda: gate, lambda: gate + x * torch.exp(-x.square() / 2) / (2 * torch.pi) ** 0.5


def _gelu_tanh(x: torch.Tensor) -> Any:
    gate = torch.sigmoid(2 * _ROOT_TWO_OVER_PI * (x + 0.044715 * x**3))
    inner = 2 * _ROOT_TWO_OVER_PI * (1 + 3 * 0.044715 * x.square())
    return x * gate, lambda: gate, lambda: gate + x * gate * (1 - gate) * inner


def _sigmoid_gated(steepness: float) -> Curve:
    def curve(x: torch.Tensor) -> Any:
        gate = torch.sigmoid(steepness * x)
        return x * gate, lambda: gate, lambda: gate + steepness * x * gate * (1 - gate)

    return curve


def _relu(x: torch.Tensor) -> Any:
    return x.relu(), lambda: (x > 0).to(x.dtype), lambda: (x > 0).to(x.dtype)


def _tanh(x: torch.Tensor) -> Any:
    value = x.tanh()

    def ratio() -> torch.Tensor:
        near = x.abs() < 1e-2  # by its series there, where the quotient loses digits
        return torch.where(near, 1 - x.square() / 3 + 2 * x**4 / 15, value / x.where(~near, 1.0))

    return value, ratio, lambda: 1 - value.square()


def _identity(x: torch.Tensor) -> Any:
    return x, lambda: torch.ones_like(x), lambda: torch.ones_like(x)


_CURVES: dict[str, Curve] = {
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "quick_gelu": _sigmoid_gated(1.702),
    "silu": _sigmoid_gated(1.0),
    "relu": _relu,
    "tanh": _tanh,
    "identity": _identity,
}
# By the names in configurations, and by those of classes and functions of torch, transformers and timm.
_NAMES = {
    **{name: name for name in _CURVES},
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), "gelu_tanh"),
    **dict.fromkeys(("GELUTanh", "NewGELUActivation", "FastGELUActivation", "PytorchGELUTanh"), "gelu_tanh"),
    **dict.fromkeys(("QuickGELU", "QuickGELUActivation"), "quick_gelu"),
    **dict.fromkeys(("GELU", "GELUActivation", "gelu_python"), "gelu"),
    **dict.fromkeys(("SiLU", "SiLUActivation", "Swish", "swish"), "silu"),
    **{"ReLU": "relu", "Tanh": "tanh", "Identity": "identity", "linear": "identity"},
}


def _known_activation(function: Any) -> Curve:
    name = function if isinstance(function, str) else getattr(function, "__name__", type(function).__name__)
    if name == "GELU" and getattr(function, "approximate", "none") == "tanh":
        name = "gelu_tanh"
    if name == "GELUTanh" and getattr(function, "approximate", "tanh") == "none":
        name = "gelu"
    if name not in _NAMES:
        raise TransposeError(
            f"Relevance can't be propagated through the activation {name}. Known are {', '.join(sorted(_CURVES))}."
        )
    return _CURVES[_NAMES[name]]
