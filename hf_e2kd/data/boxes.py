"""Boxes between a data set and a guidance loss, as pure functions.

A box is [x0, y0, x1, y1] in pixels, x to the right and y down; the pixel in column 0 spans x from 0 to 1.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

Corners = tuple[float, float, float, float]


def box_fault(box: Sequence[float]) -> str:
    """The fault of a box by itself, as the end of a message; empty where it has an area.

    Example:
        >>> box_fault([2, 2, 2, 5]), box_fault([0, 0, float("nan"), 1]), box_fault([0, 0, 1, 1])
        ('has no area', "isn't finite", '')
    """
    if len(box) != 4:
        return f"has {len(box)} values"
    if not all(map(math.isfinite, box)):
        return "isn't finite"
    x0, y0, x1, y1 = box
    return "" if x0 < x1 and y0 < y1 else "has no area"


def clip_box(box: Sequence[float], width: float, height: float) -> Corners:
    """The part of a box inside an image of `width` × `height` pixels; without area where there is none.

    Example:
        >>> clip_box([-2, 1, 5, 9], width=4, height=8)
        (0.0, 1.0, 4.0, 8.0)
    """
    x0, y0, x1, y1 = (min(max(float(x), 0.0), float(end)) for x, end in zip(box, (width, height) * 2, strict=True))
    return x0, y0, x1, y1


def dilate_boxes(boxes: torch.Tensor, fraction: float) -> torch.Tensor:
    """Enlarge boxes on each side by a fraction of their own width or height.

    What leaves the image is cut when the boxes become masks.

    References:
        Rao et al., "Studying How to Efficiently and Effectively Guide Models with Explanations", ICCV 2023: .1, .25
        and .5, to see how coarse annotations may be. The official code cuts the margins to whole pixels; here they
        keep their fractions.

    Args:
        boxes: Boxes (..., 4), x0, y0, x1, y1 in pixels; rows of −1 are padding and stay.
        fraction: Share of the box's width to the left and to the right, and of its height above and below; from 0.

    Raises:
        ValueError: the fraction is negative.

    Example:
        >>> dilate_boxes(torch.tensor([[10.0, 10.0, 20.0, 30.0], [-1.0, -1.0, -1.0, -1.0]]), fraction=0.25)
        tensor([[ 7.5000,  5.0000, 22.5000, 35.0000],
                [-1.0000, -1.0000, -1.0000, -1.0000]])
    """
    if not fraction >= 0:
        raise ValueError(f"fraction is {fraction}. Give 0 or more, such as .1 for a tenth on each side.")
    boxes = boxes.float()
    # Padding has no area, and so no margin.
    margin = fraction * (boxes[..., 2:] - boxes[..., :2])
    return torch.cat([boxes[..., :2] - margin, boxes[..., 2:] + margin], dim=-1)


def pad_boxes(boxes: Sequence[Sequence[Sequence[float]]]) -> torch.Tensor:
    """The boxes of several images as one tensor (B, N, 4), padded by rows of −1, as `boxes_to_masks` takes it.

    N is the largest number of boxes, at least 1.

    Example:
        >>> pad_boxes([[[0, 0, 1, 1], [2, 2, 3, 3]], []])[1]
        tensor([[-1., -1., -1., -1.],
                [-1., -1., -1., -1.]])
    """
    padded = torch.full((len(boxes), max([1, *map(len, boxes)]), 4), -1.0)
    for row, own in enumerate(boxes):
        if len(own):
            padded[row, : len(own)] = torch.tensor(own, dtype=torch.float32)
    return padded


def choose_annotated(count: int, fraction: float, seed: int) -> np.ndarray:
    """Choose the samples that keep their annotations, where only a fraction of a data set is annotated.

    The samples of a smaller fraction are among those of a larger one, by the same seed, so that what more annotations
    bring isn't mixed with which they are.

    Args:
        count: the number of samples that have annotations.
        fraction: from 0 (none) to 1 (all); above 0 at least one sample is chosen.
        seed: the same seed chooses the same samples.

    Returns:
        (count,) bool.

    Raises:
        ValueError: the fraction is outside 0 to 1.

    Example:
        >>> int(choose_annotated(200, 0.01, seed=0).sum())
        2
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction is {fraction}. Give a number from 0 to 1, such as .01 for 1 %.")
    number = min(count, max(1, round(fraction * count))) if fraction > 0 else 0
    chosen = np.zeros(count, dtype=bool)
    chosen[np.random.default_rng(seed).permutation(count)[:number]] = True
    return chosen
