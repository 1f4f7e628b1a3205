"""Checks of the metrics' inputs, and the conversion of an `evaluate` column to a tensor."""

import torch
from torch import Tensor

from ..alignment.precision import at_least_float32


def check_batch(name: str, values: Tensor, axes: str) -> None:
    """Refuse a tensor of another number of axes than `axes` names, or one that holds a NaN.

    Args:
        name: the argument's name, which opens the message.
        values: the tensor.
        axes: the expected axes, as "(B, h, w)".

    Raises:
        ValueError: the number of axes differs, or a value is NaN.
    """
    if values.ndim != axes.rstrip(",)").count(",") + 1:
        raise ValueError(f"{name} must have the axes {axes}, but its shape is {tuple(values.shape)}.")
    if values.isnan().any():
        samples = values.isnan().reshape(len(values), -1).any(dim=1).nonzero().flatten().tolist()
        raise ValueError(f"{name} holds NaN in the samples {samples[:8]} of the batch; leave these samples out.")


def check_maps(name: str, maps: Tensor) -> None:
    """Refuse maps that are not `(B, h, w)` or not finite, since shares and cosines of infinite values are undefined.

    Raises:
        ValueError: the number of axes differs, or a value is NaN or infinite.
    """
    check_batch(name, maps, "(B, h, w)")
    if maps.isinf().any():
        raise ValueError(f"{name} holds infinite values; explain in float32, where half precision overflows.")


def check_same_length(first_name: str, first: Tensor, second_name: str, second: Tensor) -> None:
    """Refuse two batches of different length.

    Raises:
        ValueError: the first axes differ.
    """
    if len(first) != len(second):
        raise ValueError(
            f"{first_name} and {second_name} must describe the same samples, "
            f"but there are {len(first)} of the one and {len(second)} of the other."
        )


def unit_peak(maps: Tensor) -> Tensor:
    """Each map `(B, h, w)` over its largest magnitude, at least float32; all-zero maps stay zero.

    Cosines and shares don't change, and the squares and sums of tiny values no longer underflow.
    """
    maps = at_least_float32(maps)
    peak = maps.abs().amax(dim=(1, 2), keepdim=True)
    return maps / peak.where(peak > 0, 1)


def column_to_tensor(name: str, column: list) -> Tensor:
    """One column of an `evaluate` module, a nested list of numbers a sample, as a float64 tensor `(B, ...)`.

    Raises:
        ValueError: the samples differ in shape.
    """
    try:
        return torch.tensor(column, dtype=torch.float64)
    except ValueError as error:
        raise ValueError(
            f"All {name} of one computation must have one shape ({error}). Resize the others first."
        ) from error
