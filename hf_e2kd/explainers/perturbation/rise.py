"""RISE (Petsiuk et al., 2018): the mean of random masks, weighted by the class's probability under each."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .base import PerturbationExplainer, require_count
from .variants import BATCH_SIZE, all_variants, variant_values


class Rise(PerturbationExplainer):
    """RISE: Σ_n p(class | x ⊙ M_n) · M_n / (N · share), over random masks M_n, of images.

    A mask is a coarse grid of zeros and ones, enlarged bilinearly and cropped at a random offset. Every model sees the
    same masks, at the size of its images. The map is never negative, and even where the model is blind it is about its
    mean probability: compare similarities with their chance levels.

    Args:
        masks: Number N of masks; the paper takes 4,000 to 8,000.
        cells: Cells of the coarse grid along each side.
        share: Chance of a cell to be kept.
        seed: Seed of the masks.
        filling, batch_size: As in `PerturbationExplainer`.

    References:
        Petsiuk, Das & Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018, eq. 6.
    """

    name = "rise"
    explains_any_output = False  # probabilities as it is

    def __init__(
        self,
        masks: int = 1000,
        cells: int = 7,
        share: float = 0.5,
        seed: int = 0,
        filling: float = 0.0,
        batch_size: int = BATCH_SIZE,
    ):
        super().__init__(filling=filling, batch_size=batch_size)
        require_count("masks", masks)
        require_count("cells", cells)
        if not 0 < share < 1:
            raise ValueError(f"share is the chance of a cell to be kept, between 0 and 1, not {share!r}.")
        self.masks = masks
        self.cells = cells
        self.share = share
        self.seed = seed

    @property
    def forward_passes(self) -> int:  # type: ignore[override]
        return 1 + self.masks

    def passes(self, inputs: Mapping[str, Any]) -> int:
        return len(inputs["pixel_values"]) * self.forward_passes

    def check(self, model: nn.Module, compiled: bool = False, trained: bool = True) -> None:
        super().check(model, compiled, trained)
        if getattr(model, "main_input_name", None) == "input_ids":
            raise self._for_images()

    def image_scores(
        self, model: nn.Module, inputs: Mapping[str, Any], target: torch.Tensor, whole: torch.Tensor
    ) -> torch.Tensor:
        pixels = inputs["pixel_values"]
        size, draw = pixels.shape[-2:], torch.Generator().manual_seed(self.seed)
        kept = torch.rand(self.masks, self.cells, self.cells, generator=draw) < self.share
        offsets = torch.rand(self.masks, 2, generator=draw)

        def masks_of(numbers: torch.Tensor) -> torch.Tensor:
            numbers, places = numbers.cpu().unique(return_inverse=True)
            return enlarged_masks(kept[numbers], offsets[numbers], size).to(pixels.device)[places]

        def vary(some: dict[str, Any], _: torch.Tensor, numbers: torch.Tensor) -> dict[str, Any]:
            return self.image_without(some, masks_of(numbers))

        variants = all_variants(self.masks, len(pixels), pixels.device)
        values = variant_values(
            model,
            inputs,
            target,
            *variants,
            vary,
            batch_size=self.batch_size,
            probabilities=True,
            title=self.name,
        ).view(self.masks, *target.shape)
        maps = values.new_zeros(*target.shape, *size)
        for part in torch.arange(self.masks).split(self.batch_size):
            maps += torch.einsum("nbk,nhw->bkhw", values[part], masks_of(part).to(values.dtype))
        return maps / (self.masks * self.share)

    def text_scores(self, *_: Any) -> torch.Tensor:
        raise self._for_images()

    def _for_images(self) -> ValueError:
        return ValueError("'rise' masks images. Explain texts by 'occlusion' or 'kernel_shap'.")


def enlarged_masks(kept: torch.Tensor, offsets: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Enlarge coarse masks to images, each shifted by a part of a cell.

    Args:
        kept: (n, cells, cells) bool.
        offsets: (n, 2) down and across, in cells, in [0, 1).
        size: Rows and columns (H, W) of the images.

    Returns:
        (n, H, W) in [0, 1].
    """
    cells = kept.shape[-1]
    steps = [-(-side // cells) for side in size]
    whole = [(cells + 1) * step for step in steps]
    large = F.interpolate(kept[:, None].float(), size=whole, mode="bilinear", align_corners=False)[:, 0]
    starts = (offsets * torch.tensor(steps)).long().tolist()
    return torch.stack(
        [mask[top : top + size[0], left : left + size[1]] for mask, (top, left) in zip(large, starts, strict=True)]
    )
