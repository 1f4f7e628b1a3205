"""Derivatives of a logit with respect to a layer's activation, which is laid out in space."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..architectures import Grid, call_model, grid_of
from ..architectures.discovery import image_size
from .attention_kernels import refuse_fused_recomputation
from .base import Target, one_hots, resolve_target
from .hooks import captured_output, refuse_single_derivatives

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
        if not captured:
            raise ValueError(f"The layer '{path}' of {type(model).__name__} was not called by its forward pass.")
        activation = captured[-1]
        grid = grid_of(activation, height, width)
        if grid is None or len(activation) != len(logits):
            raise ValueError(
                f"The layer '{path}' of {type(model).__name__} has no spatial grid: its output's shape is "
                f"{tuple(activation.shape)} for {len(logits)} images of {height}×{width} pixels."
            )
        if create_graph:
            refuse_single_derivatives(model, path, logits, activation)
        target = resolve_target(target, logits)
        gradients = [
            torch.autograd.grad(
                (logits * chosen).sum(), activation, create_graph=create_graph, retain_graph=True, allow_unused=True
            )[0]
            for chosen in one_hots(target, logits)
            if logits.requires_grad
        ]
        if not gradients or gradients[0] is None:
            raise ValueError(f"The layer '{path}' of {type(model).__name__} doesn't reach the logits.")
    return logits, activation, gradients, target, grid
