"""Layers whose activation goes straight into a norm, where activation times gradient is zero up to rounding."""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..alignment.precision import at_least_float32
from ..architectures.base import evaluating
from ..architectures.layers import LayerName
from ..architectures.sharding import is_sharded
from ..architectures.taps import untapped
from .layer_gradients import differentiate_layer

ROUNDING = 1e-3
"""Size of a sum over channels, as a share of its terms' sizes, below which it is what rounding, or a norm's ε, leaves.
Of C channels with any signs it is about 1/√C."""

# Layers that were looked at and found to have a map.
_MEASURED: WeakKeyDictionary[nn.Module, set[LayerName]] = WeakKeyDictionary()


def refuse_scale_free_layer(model: nn.Module, layer: LayerName, inputs: Mapping[str, Any], method: str) -> None:
    """Refuse a layer at most of whose places Σ_c x_c · ∂z/∂x_c is zero up to rounding, on a model's first batch.

    Where a place reaches the logits through norms alone, its activation's length says nothing, and the gradient is
    orthogonal to it: of patches in front of the last block of a vision transformer that reads a class token, of a
    decoder's tokens but the last, and of ConvNeXt's stages in front of the norm that begins the next one. One forward
    and backward pass in evaluation mode; a compiled or sharded model isn't looked at.

    Args:
        layer: As of `layer_place`.
        inputs: The batch.
        method: Name of the method, for the error.

    Raises:
        ValueError: with the remedies.
    """
    if torch.compiler.is_compiling() or is_sharded(model) or layer in _MEASURED.setdefault(model, set()):
        return
    device = next(value.device for value in inputs.values() if isinstance(value, torch.Tensor))
    with torch.no_grad(), evaluating(model), untapped(), torch.autocast(device.type, enabled=False):
        _, activation, (gradient,), _, grid = differentiate_layer(model, layer, inputs, None)
        terms = grid.cells(at_least_float32(activation)) * grid.cells(gradient)
        sizes = terms.abs().sum(-1)
        shares = (terms.sum(-1).abs() / sizes)[sizes > 0]
    if not len(shares):  # a classifier that begins at zero, say
        return
    if shares.median() < ROUNDING:
        raise ValueError(
            f"'{method}' at the layer {layer!r} of {type(model).__name__} would be rounding errors: what the layer "
            "gives goes straight into a norm at most places, and the logits don't depend on its length. Name the "
            "norm's output by its path, or an earlier layer; or explain it by 'gradcam' (images), 'lrp' or "
            "'integrated_gradients'."
        )
    _MEASURED[model].add(layer)
