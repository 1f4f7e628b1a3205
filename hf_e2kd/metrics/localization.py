"""The common part of the localisation metrics: checks, the map on the mask's grid, and means by class."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .inputs import check_batch, check_maps, check_same_length, unit_peak


def check_maps_and_masks(maps: Tensor, masks: Tensor) -> None:
    """Refuse maps and masks that don't fit together.

    Raises:
        ValueError: the maps are not `(B, h, w)`, NaN or infinite, the masks are not `(B, H, W)` of the same samples, or
            hold other values than 0 and 1.
    """
    check_maps("maps", maps)
    check_batch("masks", masks, "(B, H, W)")
    check_same_length("maps", maps, "masks", masks)
    if masks.dtype != torch.bool and not ((masks == 0) | (masks == 1)).all():
        raise ValueError(
            f"masks must be bool or hold 0 and 1 alone, but values from {masks.min().item():g} to "
            f"{masks.max().item():g} were found; threshold a soft mask first (masks > 0.5)."
        )


def positive_on_masks(maps: Tensor, masks: Tensor) -> Tensor:
    """Resize maps bilinearly to the masks and take their positive part, as the official code and `energy_loss` do.

    Returns:
        `(B, H, W)`, at least float32, each over its maximum; all zero where nothing is positive.
    """
    # Antialiasing changes nothing where the map is enlarged; where it is finer than the mask, no cell is skipped.
    resized = F.interpolate(unit_peak(maps)[:, None], size=masks.shape[1:], mode="bilinear", antialias=True)[:, 0]
    return unit_peak(resized.clamp(min=0))


def class_means(values: Tensor | Sequence[float], classes: Tensor | Sequence[int]) -> dict[int, float]:
    """The mean over each class's samples, where a sample is a pair of an image and one of its classes.

    The mean over all samples, which the papers report, weights a class by its number of images; the mean of these
    means weights all classes alike.

    Args:
        values: `(B,)`, one value a sample, as a localisation metric gives it.
        classes: `(B,)`, the class that each sample's map explains.

    Returns:
        Class → mean, in the classes' order, of the classes that occur.

    Raises:
        ValueError: there are more values than classes, or fewer.

    Example:
        >>> class_means([1.0, 0.0, 0.5], [2, 2, 0])
        {0: 0.5, 2: 0.5}
    """
    values, classes = torch.as_tensor(values).double(), torch.as_tensor(classes)
    check_same_length("values", values, "classes", classes)
    return {int(number): values[classes == number].mean().item() for number in classes.unique()}
