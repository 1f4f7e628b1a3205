"""LayerCAM (Jiang et al., IEEE TIP 2021), differentiable."""

import torch

from ..alignment.precision import at_least_float32
from .cam import CAM


class LayerCAM(CAM):
    """LayerCAM: ReLU(Σ_c ReLU(∂z/∂A) · A), each place's features A weighted by the raw logit's positive gradient there.

    It is meant for early layers too, whose maps are finer.

    Args:
        target_layer: Path of the layer A. By default the architecture's own, or the one found by tracing.
    """

    name = "layer_cam"

    @staticmethod
    def map(activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        return (at_least_float32(gradients).relu() * at_least_float32(activations)).sum(dim=-1).relu()
