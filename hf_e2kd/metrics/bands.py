"""Attribution maps against a ground truth of three regions: background, localisation, discriminative feature."""

import torch
from torch import Tensor

from .inputs import check_batch, check_maps, check_same_length, unit_peak


def check_truth(maps: Tensor, truth: Tensor) -> None:
    """Refuse maps and ground truths that aren't one another's.

    Args:
        maps: Attribution maps (B, H, W).
        truth: Ground truths (B, H, W) of 0, 1 and 2.

    Raises:
        ValueError: the shapes differ, a map is NaN or infinite, or a ground truth has other values; with the remedy.
    """
    check_maps("maps", maps)
    check_batch("truth", truth, "(B, H, W)")
    check_same_length("maps", maps, "truth", truth)
    if maps.shape != truth.shape:
        raise ValueError(
            f"The maps have {maps.shape[1]}×{maps.shape[2]} cells and the ground truth {truth.shape[1]}×"
            f"{truth.shape[2]} pixels, which are compared one by one. Resize the maps: "
            "hf_e2kd.alignment.grids.resize_maps(maps, truth.shape[1:])."
        )
    known = torch.zeros_like(truth, dtype=torch.bool)
    for value in range(3):
        known |= truth == value
    if not known.all():
        values = truth[~known].unique().tolist()
        raise ValueError(
            f"truth holds {values[:5]}. Give 0 for the background, 1 for the localisation and 2 for the discriminative "
            "feature; heatmaps of 0, .4 and .9 become that by (heatmap > 0).int() + (heatmap > .5)."
        )


def normalised(maps: Tensor) -> Tensor:
    """Each map (B, H, W) over its largest magnitude, in double precision, from −1 to 1; all-zero maps stay zero."""
    return unit_peak(maps.double())
