"""KernelSHAP (Lundberg & Lee, 2017) through captum: Shapley values of an image's squares or a text's words."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .base import require_count
from .coalitions import CoalitionExplainer
from .variants import BATCH_SIZE


class KernelShap(CoalitionExplainer):
    """KernelSHAP: Shapley values of the parts of an input for a logit, estimated by captum from random coalitions.

    An image's parts are the squares of a grid, which is the map; a text's are its words, or its tokens without them.
    The scores sum to the logit's rise from the input without any part.

    Args:
        samples: Number of coalitions: more than there are parts, and for good estimates several times as many.
        cells: Squares along each side of an image.
        seed: Seed of the coalitions.
        words, filling, batch_size: As in `PerturbationExplainer`.

    Raises:
        ValueError: more parts than coalitions; or captum isn't installed: `pip install 'hf-e2kd[perturbation]'`.

    References:
        Lundberg & Lee, "A Unified Approach to Interpreting Model Predictions", NeurIPS 2017, section 4.1.
    """

    name = "kernel_shap"

    def __init__(
        self,
        samples: int = 512,
        cells: int = 7,
        seed: int = 0,
        words: str = "left_out",
        filling: float = 0.0,
        batch_size: int = BATCH_SIZE,
    ):
        super().__init__(samples, seed, words, filling, batch_size)
        require_count("cells", cells)
        self.cells = cells

    def estimator(self, values: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        from captum.attr import KernelShap as CaptumKernelShap

        return CaptumKernelShap(values)

    def image_scores(
        self, model: nn.Module, inputs: Mapping[str, Any], target: torch.Tensor, whole: torch.Tensor
    ) -> torch.Tensor:
        pixels = inputs["pixel_values"]

        def without(some: dict[str, Any], _: torch.Tensor, kept: torch.Tensor) -> dict[str, Any]:
            squares = kept.view(len(kept), 1, self.cells, self.cells).to(pixels.dtype)
            # By the pixels' middles: plain "nearest" would make the squares on the left and above larger.
            kept_pixels = F.interpolate(squares, size=pixels.shape[-2:], mode="nearest-exact")[:, 0]
            return self.image_without(some, kept_pixels)

        counts = [self.cells**2] * len(pixels)
        scores = self.coalition_scores(model, inputs, target, counts, without).to(whole)
        return scores.view(*target.shape, self.cells, self.cells)
