"""GradCAM (Selvaraju et al., ICCV 2017), differentiable."""

import torch

from ..alignment.precision import at_least_float32
from .cam import CAM


class GradCAM(CAM):
    """GradCAM: ReLU(Σ_c mean_hw(∂z/∂A)·A), a layer's features A weighted by the raw logit's mean gradient.

    Where the architecture's head is known, the gradient is taken inside the forward pass (`CAM`).

    Args:
        target_layer: Path of the layer A. By default the architecture's own, or the one found by tracing.
    """

    name = "gradcam"

    @staticmethod
    def map(activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        return gradcam_map(activations, gradients)


def gradcam_map(activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """Compute the map (B, h, w) of activations and gradients (B, h, w, C), in at least float32."""
    activations, gradients = at_least_float32(activations), at_least_float32(gradients)
    weights = gradients.mean(dim=(1, 2), keepdim=True)
    return (weights * activations).sum(dim=-1).relu()
