"""Derivatives of a logit with respect to a layer's activation, which is laid out in space."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..alignment.precision import at_least_float32
from ..architectures import Grid, call_model, grid_of
from ..architectures.discovery import image_size
from .attention_kernels import refuse_fused_recomputation
from .base import Target, one_hots, resolve_target
from .hooks import captured_output, refuse_single_derivatives
from .input_gradients import gradient_scale, in_full_precision

LayerGradients = tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], torch.Tensor, Grid]
"""Logits (B, classes), activation, its gradient for each of the K targets, target (B,) or (B, K), and the layout."""


# Within a compiled region a hook registered now captures nothing, so this forward is run as it is.
@torch.compiler.disable
def differentiate_layer(model: nn.Module, path: str, inputs: Mapping[str, Any], target: Target) -> LayerGradients:
    """Run the model's own forward, by a kernel whose attention can be differentiated twice, and read a layer of it.

    Args:
        path: The layer's, as in `model.get_submodule`.

    Raises:
        ValueError: the layer isn't called, has no spatial grid, doesn't reach the logits, or only by an operation that
            can't be differentiated twice.
    """
    create_graph = torch.is_grad_enabled()
    height, width = image_size(model, inputs)
    if create_graph:
        refuse_fused_recomputation(model)
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), captured_output(model, path) as captured:
        logits = call_model(model, inputs)
        activation, grid = lay_out_layer(model, path, captured, logits, (height, width))
        if create_graph:
            refuse_single_derivatives(model, path, logits, activation)
        target = resolve_target(target, logits)
        scale = gradient_scale(logits, activation)
        gradients = [
            torch.autograd.grad(
                logits,
                activation,
                scale * chosen,
                create_graph=create_graph,
                retain_graph=True,
                allow_unused=True,
            )[0]
            for chosen in one_hots(target, logits)
            if logits.requires_grad
        ]
        if not gradients or gradients[0] is None:
            raise unreached(model, path)
    return logits, activation, [in_full_precision(each, scale) for each in gradients], target, grid


def lay_out_layer(
    model: nn.Module, path: str, captured: list[torch.Tensor], logits: torch.Tensor, size: tuple[int, int]
) -> tuple[torch.Tensor, Grid]:
    """Return the last captured output of a layer, and its layout for images of a size (height, width) in pixels.

    Raises:
        ValueError: the layer isn't called, or has no spatial grid.
    """
    if not captured:
        raise ValueError(f"The layer '{path}' of {type(model).__name__} was not called by its forward pass.")
    activation = captured[-1]
    grid = grid_of(activation, *size)
    if grid is None or len(activation) != len(logits):
        raise ValueError(
            f"The layer '{path}' of {type(model).__name__} has no spatial grid: its output's shape is "
            f"{tuple(activation.shape)} for {len(logits)} images of {size[0]}×{size[1]} pixels."
        )
    return activation, grid


def layer_maps(
    activation: torch.Tensor, gradients: list[torch.Tensor], grid: Grid, target: torch.Tensor
) -> torch.Tensor:
    """Sum activation times gradient over the channels: maps (B, h, w), or (B, K, h, w) of several targets."""
    cells = grid.cells(at_least_float32(activation))
    maps = torch.stack([(cells * grid.cells(at_least_float32(each))).sum(-1) for each in gradients], 1)
    return maps if target.ndim == 2 else maps[:, 0]


def unreached(model: nn.Module, path: str) -> ValueError:
    """Make the error of a layer from which no gradient comes."""
    return ValueError(f"The layer '{path}' of {type(model).__name__} doesn't reach the logits.")
