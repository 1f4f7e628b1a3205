"""Layers of B-cos networks (Böhle et al., CVPR 2022 and TPAMI 2024), whose explanations can be trained.

A B-cos network is linear in its input once its scalings are held: logit = W(x)·x + bias, with x the image and its
inverse. W(x), the dynamic weights, is the explanation: the logit's gradient with every scaling held constant. A scaling
that is detached in the forward pass gives the same W(x), yet a loss of W(x) then misses the part of its gradient that
passes through the scalings. Here the forward pass detaches nothing: `holdable` marks the scalings, and while
`dynamic_weights()` lasts a backward pass stops at them. An ordinary backward pass (of a task loss, of the logits'
distillation, of a loss of W(x)) passes through them in full, as in the official training code.

Names of parameters are those of the `bcos` package, so that its weights fit (`load_bcos_weights`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..alignment.precision import at_least_float32

# --- What is held while W(x) is taken --------------------------------------------------------------------------------

# Counts open contexts. Not thread-local: on accelerators a backward pass runs in threads of its own.
_holding = 0


@contextmanager
def dynamic_weights() -> Iterator[None]:
    """Within it, backward passes take the scalings of B-cos networks for constants, so that input gradients are W(x).

    For the inner `torch.autograd.grad` alone: a loss's own backward belongs outside. It acts on all threads.
    """
    global _holding
    _holding += 1
    try:
        yield
    finally:
        _holding -= 1


class _Holdable(torch.autograd.Function):
    """The identity, whose derivative is decided when the backward pass reaches it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return None if _holding else gradients[0]


def holdable(scaling: torch.Tensor) -> torch.Tensor:
    """The same values; a constant to backward passes within `dynamic_weights()`, and to no other."""
    # A compiled region has one backward, made beforehand. The explainer refuses compiled models.
    return scaling if torch.compiler.is_compiling() else _Holdable.apply(scaling)


# --- Layers ----------------------------------------------------------------------------------------------------------


class _UnitConv2d(nn.Conv2d):
    """A convolution without bias, each of whose filters is used at norm 1."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        unit = self.weight / torch.linalg.vector_norm(self.weight, dim=(1, 2, 3), keepdim=True)
        return self._conv_forward(input, unit, None)


class _UnitLinear(nn.Linear):
    """A linear map without bias, each of whose rows is used at norm 1."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.linear(input, self.weight / torch.linalg.vector_norm(self.weight, dim=1, keepdim=True))


def _scaled(projection: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    """Scale a projection: |cos| · projection (b = 2), with cos = projection / norm."""
    return projection * holdable((projection.abs() / norm).to(projection.dtype))


class BcosConv2d(nn.Module):
    """B-cos convolution (B, C, H, W) → (B, out, h, w): |cos(patch, w)| · (w/‖w‖)·patch, without bias.

    Args:
        max_out: Filters an output channel has; the largest projection counts (MaxOut).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        max_out: int = 1,
    ):
        super().__init__()
        self.max_out = max_out
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.linear = _UnitConv2d(in_channels, out_channels * max_out, kernel_size, stride, padding, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        projection = self.linear(features)
        if self.max_out > 1:
            projection = projection.unflatten(1, (-1, self.max_out)).amax(2)
        return _scaled(projection, self._patch_norms(features))

    def _patch_norms(self, features: torch.Tensor) -> torch.Tensor:
        """Compute norms (B, 1, h, w), in at least float32: half precision overflows at the square of 256."""
        squares = at_least_float32(features).square().sum(1, keepdim=True)
        means = F.avg_pool2d(squares, self.kernel_size, self.stride, self.padding)
        return (means * self.kernel_size**2 + 1e-6).sqrt()


class BcosLinear(nn.Module):
    """B-cos linear layer (…, in) → (…, out): |cos(x, w)| · (w/‖w‖)·x, without bias. `max_out` as in `BcosConv2d`."""

    def __init__(self, in_features: int, out_features: int, max_out: int = 1):
        super().__init__()
        self.max_out = max_out
        self.linear = _UnitLinear(in_features, out_features * max_out, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        projection = self.linear(features)
        if self.max_out > 1:
            projection = projection.unflatten(-1, (-1, self.max_out)).amax(-1)
        # A lower bound instead of the package's addition: the same numbers, and no 0/0 in second derivatives.
        squares = at_least_float32(features).square().sum(-1, keepdim=True)
        return _scaled(projection, squares.clamp(min=1e-24).sqrt())


class UncenteredBatchNorm2d(nn.Module):
    """Batch norm of (B, C, H, W) without mean and bias: division by the channel's standard deviation, times a weight.

    In training mode the deviation is the batch's (about its mean), of which a running average is kept.
    """

    running_var: torch.Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.track_running_stats = True
        self.weight = nn.Parameter(torch.ones(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        variance = self.running_var
        if self.training:
            variance = at_least_float32(features).var(dim=(0, 2, 3), unbiased=False)
            if self.track_running_stats:
                with torch.no_grad():
                    self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)
        scaling = holdable((variance + self.eps).rsqrt()) * self.weight
        return features * scaling.to(features.dtype)[:, None, None]


class BiaslessNorm(nn.Module):
    """Each sample's features less their mean, divided by their standard deviation, times a weight; without bias.

    Args:
        channels: Size of the channels' axis.
        layout: `"last"`: every place of (…, C) by itself (layer norm). `"image"`: (B, C, H, W) as a whole (group norm
            of one group).
    """

    def __init__(self, channels: int, layout: str = "last", eps: float = 1e-5):
        super().__init__()
        self.layout, self.eps = layout, eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        axes = (-1,) if self.layout == "last" else (1, 2, 3)
        weight = self.weight if self.layout == "last" else self.weight[:, None, None]
        # The mean is linear in the features, so that it belongs to W(x).
        centred = at_least_float32(features)
        centred = centred - centred.mean(axes, keepdim=True)
        variance = centred.square().mean(axes, keepdim=True)
        return (centred * holdable((variance + self.eps).rsqrt()) * weight).to(features.dtype)


class AddInverse(nn.Module):
    """Concatenate RGB in [0, 1], (B, 3, H, W), to [x, 1 − x], (B, 6, H, W): all colours have the same norm."""

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return torch.cat([pixel_values, 1 - pixel_values], dim=1)


class LogitLayer(nn.Module):
    """Logits scaled as logits / temperature + bias. A bias of −log(classes − 1) starts classes near 1/classes."""

    def __init__(self, temperature: float, bias: float):
        super().__init__()
        self.temperature, self.bias = temperature, bias

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits / self.temperature + self.bias
