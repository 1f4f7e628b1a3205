"""The object in a mask of any type."""

import warnings

import torch

HALF = 127
"""Above this, of 255, is the object."""


def object_masks(masks: torch.Tensor) -> torch.Tensor:
    """Convert masks of any type to bool, of the same shape: True on the object, where the value is above a half.

    bool stays. Numbers of which none is above 1 are shares of 1 (0 and 1, or soft masks of floats); others are a grey
    image's values, from 0 to 255, so that above 127 is the object.

    Args:
        masks: One mask or several, of any shape.

    Raises:
        ValueError: a value is NaN, below 0 or above 255.

    Example:
        >>> object_masks(torch.tensor([0, 51, 128, 255], dtype=torch.uint8))
        tensor([False, False,  True,  True])
        >>> object_masks(torch.tensor([0, 1]))
        tensor([False,  True])
    """
    if masks.dtype == torch.bool or not masks.numel():
        return masks.bool()
    least, largest = (value.item() for value in masks.float().aminmax())
    if not (least >= 0 and largest <= 255):
        raise ValueError(
            f"A mask holds values from {least:g} to {largest:g}. Give bool, 0 and 1, or a grey image's 0 to 255, of "
            f"which above {HALF} is the object."
        )
    if largest <= 1:
        return masks > 0.5
    if largest <= HALF:
        warnings.warn(
            f"A mask reaches {largest:g} of 255, and what is above {HALF} is the object, so it shows none. Where its "
            "values are class ids, give one class's mask: mask == id.",
            stacklevel=2,
        )
    return masks > HALF
