"""The energy pointing game as a plain function of tensors, and masks from boxes."""

import torch
from torch import Tensor

from ..inputs import check_batch
from ..localization import check_maps_and_masks, positive_on_masks


def energy_pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """The share of a map's positive energy inside the object's mask, sample by sample.

    EPG = Σ_mask A⁺ / Σ A⁺. The map is resized bilinearly to the mask, and its positive part A⁺ is taken there, as in
    the official code. A map without positive energy counts 0. EPG = 1 − `hf_e2kd.terms.guidance.energy_loss`.

    References:
        Wang et al., "Score-CAM", CVPR Workshops 2020 (the game); Rao et al., "Studying How to Efficiently and
        Effectively Guide Models with Explanations", ICCV 2023 (positive part; an undefined share counts 0).

    Args:
        maps: `(B, h, w)`, signed or not, of any scale.
        masks: `(B, H, W)`, bool or 0 and 1; `boxes_to_masks` makes them from boxes.

    Returns:
        `(B,)` between 0 and 1, at least float32.

    Raises:
        ValueError: an input is not of the axes above, the batches differ in length, a map is NaN or infinite, or a
            mask has other values than 0 and 1.

    Example:
        >>> import torch
        >>> maps = torch.tensor([[[3.0, 1.0], [-4.0, 0.0]]])
        >>> masks = torch.tensor([[[True, False], [True, False]]])
        >>> energy_pointing_game(maps, masks)
        tensor([0.7500])
    """
    check_maps_and_masks(maps, masks)
    energy = positive_on_masks(maps, masks)
    total = energy.sum(dim=(1, 2))
    return (energy * masks).sum(dim=(1, 2)) / total.where(total > 0, 1)


def boxes_to_masks(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The union of each sample's boxes, as a mask. A pixel is inside if its centre is.

    Args:
        boxes: `(B, N, 4)`, x1, y1, x2, y2 in pixels of the mask, x to the right and y down; the pixel in column 0
            spans x from 0 to 1. Samples with fewer boxes are padded by rows of −1. Parts outside the image are cut.
        size: (H, W) of the masks, in pixels.

    Returns:
        `(B, H, W)` bool, on the boxes' device; all False for a sample without boxes.

    Raises:
        ValueError: `boxes` is not `(B, N, 4)`, holds a NaN, or a box ends before it begins (xywh instead of xyxy).

    Example:
        >>> import torch
        >>> boxes = torch.tensor([[[0, 0, 2, 1], [-1, -1, -1, -1]]])
        >>> boxes_to_masks(boxes, size=(2, 3)).int()
        tensor([[[1, 1, 0],
                 [0, 0, 0]]], dtype=torch.int32)
    """
    check_boxes(boxes)
    x1, y1, x2, y2 = boxes.unbind(dim=2)
    height, width = size
    x = torch.arange(width, device=boxes.device) + 0.5
    y = torch.arange(height, device=boxes.device) + 0.5
    columns = (x >= x1[..., None]) & (x < x2[..., None])
    rows = (y >= y1[..., None]) & (y < y2[..., None])
    return (rows[..., :, None] & columns[..., None, :]).any(dim=1)


def check_boxes(boxes: Tensor) -> None:
    """Refuse boxes that `boxes_to_masks` can't take.

    Raises:
        ValueError: `boxes` is not `(B, N, 4)`, holds a NaN, or a box ends before it begins and isn't padding.
    """
    check_batch("boxes", boxes, "(B, N, 4)")
    if boxes.shape[2] != 4:
        raise ValueError(f"boxes must have the axes (B, N, 4), but its shape is {tuple(boxes.shape)}.")
    x1, y1, x2, y2 = boxes.unbind(dim=2)
    padding = (boxes == -1).all(dim=2)
    reversed_boxes = ((x2 <= x1) | (y2 <= y1)) & ~padding
    if reversed_boxes.any():
        sample, row = reversed_boxes.nonzero()[0].tolist()
        raise ValueError(
            f"Box {row} of sample {sample} is {boxes[sample, row].tolist()}, which is empty as x1, y1, x2, y2. "
            "Convert boxes given as x, y, width, height, and pad with rows of -1."
        )
