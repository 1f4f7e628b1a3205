"""HiResCAM (Draelos & Carin, 2020), differentiable."""

import torch

from ..alignment.precision import at_least_float32
from .cam import CAM


class HiResCAM(CAM):
    """HiResCAM: ReLU(Σ_c ∂z/∂A · A), each place's features A weighted by the raw logit's gradient at that place.

    Of features that are pooled into a linear head it equals GradCAM: the gradient is the same everywhere. Before such a
    layer GradCAM's mean gradient may mark places that the model doesn't use; HiResCAM shows each one's contribution.

    Args:
        target_layer: Path of the layer A. By default the architecture's own, or the one found by tracing.
    """

    name = "hires_cam"

    @staticmethod
    def map(activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        return (at_least_float32(gradients) * at_least_float32(activations)).sum(dim=-1).relu()
