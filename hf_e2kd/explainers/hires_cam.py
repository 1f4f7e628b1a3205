"""HiResCAM (Draelos & Carin, 2020), differentiable."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..alignment.precision import at_least_float32
from .base import Explanation, Target
from .cam import CAM
from .scale_free import refuse_scale_free_layer


class HiResCAM(CAM):
    """HiResCAM: ReLU(Σ_c ∂z/∂A · A), each place's features A weighted by the raw logit's gradient at that place.

    Of features that are pooled into a linear head it equals GradCAM: the gradient is the same everywhere. Before such a
    layer GradCAM's mean gradient may mark places that the model doesn't use; HiResCAM shows each one's contribution.

    Args:
        target_layer: Path of the layer A. By default the architecture's own, or the one found by tracing. One that goes
            straight into a norm, where the map would be zero, is refused.
    """

    name = "hires_cam"

    def forward(self, model: nn.Module, inputs: Mapping[str, Any], target: Target) -> Explanation:
        if self.target_layer is not None:
            refuse_scale_free_layer(model, self.target_layer, inputs, self.name)
        return super().forward(model, inputs, target)

    @staticmethod
    def map(activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        return (at_least_float32(gradients) * at_least_float32(activations)).sum(dim=-1).relu()
