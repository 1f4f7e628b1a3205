"""Derivatives of a logit with respect to a layer's activation, which is laid out in space or by a text's tokens."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..alignment.precision import at_least_float32
from ..architectures import Grid, call_model
from ..architectures.discovery import image_size
from ..architectures.grids import layer_grid
from ..architectures.layers import LayerName, layer_place
from ..architectures.refusals import refuse_dropped_patches
from .attention_kernels import refuse_fused_recomputation
from .base import Explanation, Target, one_hots, resolve_target
from .hard_gates import differentiable_gates
from .hooks import Move, captured_input, captured_output, refuse_single_derivatives, unmoved
from .input_gradients import gradient_scale, in_full_precision

LayerGradients = tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], torch.Tensor, Grid]
"""Logits (B, classes), activation, its gradient for each of the K targets, target (B,) or (B, K), and the layout."""


# Within a compiled region a hook registered now captures nothing, so this forward is run as it is.
@torch.compiler.disable
def differentiate_layer(
    model: nn.Module, layer: LayerName, inputs: Mapping[str, Any], target: Target, move: Move = unmoved
) -> LayerGradients:
    """Run the model's own forward, by a kernel whose attention can be differentiated twice, and read a layer of it.

    Args:
        layer: Path of the layer, as in `model.get_submodule`, or another word of `layer_place`.
        move: Function of the layer's activation that gives what stands in its place.

    Raises:
        ValueError: the layer isn't called, has no spatial grid, doesn't reach the logits, or only by an operation that
            can't be differentiated twice.
    """
    create_graph = torch.is_grad_enabled()
    with _read(model, layer, inputs, move) as (logits, activation, grid):
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
            raise unreached(model, str(layer))
    return logits, activation, [in_full_precision(each, scale) for each in gradients], target, grid


@torch.compiler.disable
def run_to_layer(
    model: nn.Module, layer: LayerName, inputs: Mapping[str, Any]
) -> tuple[torch.Tensor, torch.Tensor, Grid]:
    """Run the model's own forward and return the logits (B, classes), a layer's activation and its layout.

    Raises:
        ValueError: as of `differentiate_layer`.
    """
    with _read(model, layer, inputs, unmoved) as read:
        return read


@contextmanager
def _read(
    model: nn.Module, layer: LayerName, inputs: Mapping[str, Any], move: Move
) -> Iterator[tuple[torch.Tensor, torch.Tensor, Grid]]:
    """Give the logits, a layer's moved activation and its layout, in a context in which they can be differentiated.

    What activation checkpointing recomputes then is computed in it too.
    """
    path, is_input = layer_place(model, layer)
    create_graph = torch.is_grad_enabled()
    size = image_size(model, inputs) if inputs.get("pixel_values") is not None else None
    if size is not None:
        refuse_dropped_patches(model)
    if create_graph:
        refuse_fused_recomputation(model)
    capture = captured_input if is_input else captured_output
    gates = differentiable_gates(model)
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), gates, capture(model, path, move) as captured:
        logits = call_model(model, inputs)
        if size is None:
            activation = _lay_out_tokens(model, path, captured, inputs)
            grid = Grid(1, activation.shape[1], "tokens")
        else:
            activation, grid = lay_out_layer(model, path, captured, logits, size)
        if create_graph:
            refuse_single_derivatives(model, f"{path}'s input" if is_input else path, logits, activation)
        yield logits, activation, grid


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
    grid = layer_grid(model, path, activation, *size)
    if grid is None or len(activation) != len(logits):
        raise ValueError(
            f"The layer '{path}' of {type(model).__name__} has no spatial grid: its output's shape is "
            f"{tuple(activation.shape)} for {len(logits)} images of {size[0]}×{size[1]} pixels."
        )
    return activation, grid


def _lay_out_tokens(
    model: nn.Module, path: str, captured: list[torch.Tensor], inputs: Mapping[str, Any]
) -> torch.Tensor:
    """Return the last captured activation (B, T, C) of a layer of a text classifier."""
    ids = inputs.get("input_ids")
    if not captured or ids is None or captured[-1].shape[:-1] != ids.shape:
        found = tuple(captured[-1].shape) if captured else "none"
        raise ValueError(
            f"The layer '{path}' of {type(model).__name__} has no activation (batch, tokens, channels) for the "
            f"`input_ids`, but {found}. Name another layer, such as a whole block."
        )
    return captured[-1]


def layer_maps(
    activation: torch.Tensor, gradients: list[torch.Tensor], grid: Grid, target: torch.Tensor
) -> torch.Tensor:
    """Sum activation times gradient over the channels: maps (B, h, w), or (B, K, h, w) of several targets.

    Args:
        grid: The layout; of a text's tokens one row, which gives (B, 1, T).
    """
    cells = grid.cells(at_least_float32(activation))
    maps = torch.stack([(cells * grid.cells(at_least_float32(each))).sum(-1) for each in gradients], 1)
    return maps if target.ndim == 2 else maps[:, 0]


def check_layer(model: nn.Module, layer: LayerName | None, compiled: bool) -> None:
    """Refuse, before training, a layer that doesn't exist, and one that a compiled model would hide.

    Raises:
        ValueError: with the valid layers, or the remedy.
    """
    if layer is None:
        return
    layer_place(model, layer)
    if compiled:
        raise ValueError("torch_compile can't read a layer through a hook. Train without torch_compile.")


def layer_explanation(
    logits: torch.Tensor, maps: torch.Tensor, target: torch.Tensor, inputs: Mapping[str, Any]
) -> Explanation:
    """Make the explanation of `layer_maps`: of an image a map, of a text its tokens' scores (B, [K,] T)."""
    if inputs.get("pixel_values") is not None:
        return Explanation(logits, maps, target)
    return Explanation(logits, maps.squeeze(-2), target, layout="tokens")


def unreached(model: nn.Module, path: str) -> ValueError:
    """Make the error of a layer from which no gradient comes."""
    return ValueError(f"The layer '{path}' of {type(model).__name__} doesn't reach the logits.")
