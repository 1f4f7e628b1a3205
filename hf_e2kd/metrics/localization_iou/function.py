"""The localisation IoU as a plain function of tensors."""

import math

import torch
from torch import Tensor

from ..localization import check_maps_and_masks, positive_on_masks

THRESHOLDS = ("mean", "median", "top5")
"""The thresholds that each map sets itself."""

EVEN = 1e-7
"""A map whose smallest value is this near to its largest is even: it isn't stretched to [0, 1] [the official code]."""


def localization_iou(maps: Tensor, masks: Tensor, threshold: float | str = 0.5) -> Tensor:
    """The intersection over union of a map's strong part with the object's mask, sample by sample.

    The map is resized bilinearly to the mask; its positive part is taken there and stretched so that its smallest value
    is 0 and its largest 1; what lies above the threshold is the prediction. A map without positive values, and an empty
    mask, score 0. An even map, which can't be stretched, predicts the whole image at a fixed threshold and nothing at
    the others.

    References:
        Rao et al., "Studying How to Efficiently and Effectively Guide Models with Explanations", ICCV 2023 (threshold
        .5). The paper's result depends on the threshold; the thresholds that follow the map are ours.

    Args:
        maps: `(B, h, w)`, signed or not, of any scale.
        masks: `(B, H, W)`, bool or 0 and 1; `boxes_to_masks` makes them from boxes.
        threshold: from 0 up to 1 exclusively, for all maps alike; or "mean", "median" (the lower one) or "top5" (the
            5 % largest pixels, fewer where several are equal), each map's own over all its pixels.

    Returns:
        `(B,)` between 0 and 1, at least float32.

    Raises:
        ValueError: an input is not of the axes above, the batches differ in length, a map is NaN or infinite, a mask
            has other values than 0 and 1, or the threshold is none.

    Example:
        >>> import torch
        >>> maps = torch.tensor([[[3.0, 1.0], [-5.0, 2.0]]])
        >>> masks = torch.tensor([[[True, False], [True, False]]])
        >>> localization_iou(maps, masks)
        tensor([0.3333])
        >>> localization_iou(maps, masks, threshold=0.7)
        tensor([0.5000])
    """
    if isinstance(threshold, str):
        if threshold not in THRESHOLDS:
            raise ValueError(f"There is no threshold {threshold!r}. Give a number, or one of {', '.join(THRESHOLDS)}.")
    elif not 0 <= threshold < 1:
        raise ValueError(f"threshold is {threshold}. Give a number from 0 up to 1, or one of {', '.join(THRESHOLDS)}.")
    check_maps_and_masks(maps, masks)
    strength = _stretched(positive_on_masks(maps, masks).flatten(1))
    predicted, inside = strength > _limits(strength, threshold), masks.flatten(1) != 0
    union = (predicted | inside).sum(dim=1).to(strength.dtype)
    return (predicted & inside).sum(dim=1) / union.where(union > 0, 1)


def _stretched(strength: Tensor) -> Tensor:
    """`(B, pixels)` to smallest 0 and largest 1; even maps to 1, and all-zero maps stay zero."""
    low, high = strength.amin(dim=1, keepdim=True), strength.amax(dim=1, keepdim=True)
    even = high - low < EVEN * high
    return torch.where(even, strength / high, (strength - low) / (high - low).where(~even, 1)).nan_to_num(0)


def _limits(strength: Tensor, threshold: float | str) -> Tensor | float:
    """The thresholds of the pixels: `(B, 1)`, or one number for all maps."""
    if threshold == "mean":
        return strength.mean(dim=1, keepdim=True)
    if threshold == "median":
        return strength.median(dim=1, keepdim=True).values
    if threshold == "top5":
        pixels = strength.shape[1]
        # `torch.quantile` refuses batches of more than 16 million values.
        rank = max(1, pixels - math.ceil(0.05 * pixels))
        return strength.kthvalue(rank, dim=1, keepdim=True).values
    return float(threshold)
