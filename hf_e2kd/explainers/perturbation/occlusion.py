"""Occlusion (Zeiler & Fergus, 2014): the fall of a logit when a part of the input is taken out."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .base import PerturbationExplainer
from .variants import BATCH_SIZE, all_variants, is_padded_before, text_units, unit_counts, variant_values


class Occlusion(PerturbationExplainer):
    """Occlusion: z(x) − z(x without a part), by a patch that slides over an image, or word by word of a text.

    A pixel's score is the mean over the patches that cover it, as in captum's `Occlusion`. Of a text, each word is
    taken out alone; without words, each token.

    Args:
        patch: Side of the patch, as a share of the image's, so that models of other image sizes are explained alike.
        stride: Step between patches, as a share of the image's side; half the patch by default, which makes 15 × 15
            patches of the default size.
        words, filling, batch_size: As in `PerturbationExplainer`.

    References:
        Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.2; of texts Li et
        al., "Understanding Neural Networks through Representation Erasure", 2016.
    """

    name = "occlusion"
    forward_passes = None

    def __init__(
        self,
        patch: float = 0.125,
        stride: float | None = None,
        words: str = "left_out",
        filling: float = 0.0,
        batch_size: int = BATCH_SIZE,
    ):
        super().__init__(words, filling, batch_size)
        if not 0 < patch <= 1:
            raise ValueError(f"patch is a share of the image's side, above 0 and at most 1, not {patch!r}.")
        if stride is not None and not 0 < stride <= patch:
            raise ValueError(f"stride must be above 0 and at most the patch of {patch}, not {stride!r}.")
        self.patch = patch
        self.stride = stride

    def passes(self, inputs: Mapping[str, Any]) -> int:
        if inputs.get("pixel_values") is None:
            counts = unit_counts(text_units(inputs))
            return len(counts) + int(counts.sum())
        batch, (height, width) = len(inputs["pixel_values"]), inputs["pixel_values"].shape[-2:]
        return batch * (1 + len(self._spans(height)) * len(self._spans(width)))

    def image_scores(
        self, model: nn.Module, inputs: Mapping[str, Any], target: torch.Tensor, whole: torch.Tensor
    ) -> torch.Tensor:
        pixels = inputs["pixel_values"]
        down, across = (self._spans(side).to(pixels.device) for side in pixels.shape[-2:])

        def vary(some: dict[str, Any], _: torch.Tensor, numbers: torch.Tensor) -> dict[str, Any]:
            covered = down[numbers // len(across)][:, :, None] & across[numbers % len(across)][:, None]
            return self.image_without(some, ~covered)

        variants = all_variants(len(down) * len(across), len(pixels), pixels.device)
        values = variant_values(model, inputs, target, *variants, vary, batch_size=self.batch_size, title=self.name)
        falls = whole - values.view(len(down), len(across), *target.shape)
        down, across = down.to(falls), across.to(falls)
        return torch.einsum("rcbk,rh,cw->bkhw", falls, down, across) / (down.sum(0)[:, None] * across.sum(0))

    def text_scores(
        self, model: nn.Module, inputs: Mapping[str, Any], target: torch.Tensor, whole: torch.Tensor
    ) -> torch.Tensor:
        counts = unit_counts(text_units(inputs))
        places = torch.arange(int(counts.max()), device=counts.device)
        rows, numbers = (places < counts[:, None]).nonzero().unbind(1)
        before = is_padded_before(model, inputs)

        def vary(some: dict[str, Any], _: torch.Tensor, numbers: torch.Tensor) -> dict[str, Any]:
            return self.text_without(model, some, places != numbers[:, None], before)

        values = variant_values(model, inputs, target, rows, numbers, vary, batch_size=self.batch_size, title=self.name)
        scores = whole.new_zeros(*whole.shape, len(places))
        scores[rows, :, numbers] = whole[rows] - values
        return scores

    def _spans(self, side: int) -> torch.Tensor:
        """The pixels (places, side) bool that each place of the patch covers along one side of the image."""
        patch = max(1, round(self.patch * side))
        stride = max(1, round((self.patch / 2 if self.stride is None else self.stride) * side))
        places = math.ceil((side - patch) / stride) + 1
        starts = torch.arange(places)[:, None] * stride
        at = torch.arange(side)
        return (at >= starts) & (at < starts + patch)
