"""Pointing accuracy as a plain function of tensors."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..localization import check_maps_and_masks, positive_on_masks

ROUNDING = 4
"""Pixels this many times the type's precision below the maximum count as equal to it: enlarging repeats a border cell
with rounding errors."""


def pointing_accuracy(maps: Tensor, masks: Tensor, tolerance: int = 0) -> Tensor:
    """The pointing game: 1 where a map's largest value lies on the object.

    The map is resized bilinearly to the mask, and its positive part is taken there. Of several equally large pixels,
    the share on the object counts: the first of them alone would favour the upper left corner, and an even map would
    always be right or always wrong. A map without positive values points nowhere, and an empty mask is never hit: both
    count 0.

    References:
        Zhang et al., "Top-Down Neural Attention by Excitation Backprop", ECCV 2016 (with a tolerance of 15 pixels).
        The share of equal pixels is ours.

    Args:
        maps: `(B, h, w)`, signed or not, of any scale.
        masks: `(B, H, W)`, bool or 0 and 1; `boxes_to_masks` makes them from boxes.
        tolerance: distance from the object that still counts, in pixels of the mask, from centre to centre.

    Returns:
        `(B,)`, 1 where the map points at the object and 0 where not, between them where several pixels are equally
        large; at least float32.

    Raises:
        ValueError: an input is not of the axes above, the batches differ in length, a map is NaN or infinite, a mask
            has other values than 0 and 1, or the tolerance is negative.

    Example:
        >>> import torch
        >>> maps = torch.tensor([[[3.0, 1.0], [-5.0, 2.0]], [[1.0, 1.0], [0.0, 1.0]]])
        >>> masks = torch.tensor([[[True, False], [True, False]]]).repeat(2, 1, 1)
        >>> pointing_accuracy(maps, masks)
        tensor([1.0000, 0.3333])
        >>> pointing_accuracy(maps, masks, tolerance=1)
        tensor([1., 1.])
    """
    if tolerance < 0:
        raise ValueError(f"tolerance is {tolerance}. Give a number of pixels, from 0.")
    check_maps_and_masks(maps, masks)
    strength = positive_on_masks(maps, masks).flatten(1)
    peak = strength.amax(dim=1, keepdim=True)
    largest = (strength >= peak * (1 - ROUNDING * torch.finfo(strength.dtype).eps)) & (peak > 0)
    hits = largest & _grown(masks != 0, int(tolerance)).flatten(1)
    return hits.sum(dim=1) / largest.sum(dim=1).clamp(min=1).to(strength.dtype)


def _grown(masks: Tensor, radius: int) -> Tensor:
    """The pixels at most `radius` away from one of the masks' `(B, H, W)`."""
    if radius == 0:
        return masks
    offset = torch.arange(-radius, radius + 1, device=masks.device, dtype=torch.float32)
    disc = (offset[:, None] ** 2 + offset**2 <= radius**2).float()
    return F.conv2d(masks[:, None].float(), disc[None, None], padding=radius)[:, 0] > 0.5
