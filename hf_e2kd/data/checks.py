"""Checks of the arguments of data that is generated."""

from collections.abc import Mapping

import numpy as np


def all_sizes(sizes: Mapping[str, int] | None, known: Mapping[str, int]) -> dict[str, int]:
    """The size of every known split, where none is given the known one.

    Raises:
        ValueError: a split is unknown, or a size negative.
    """
    merged = {**known, **(sizes or {})}
    unknown = sorted(set(merged) - set(known))
    if unknown:
        raise ValueError(f"sizes names the splits {unknown}, which don't exist. Valid splits: {list(known)}.")
    for name, size in merged.items():
        check_whole(f"sizes[{name!r}]", size, 0, None)
    return merged


def check_whole(name: str, value: int, low: int, high: int | None) -> None:
    """Refuse a value that is no whole number from low to high.

    Raises:
        ValueError: it is no whole number, or out of the range.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} is {value!r}. Give a whole number.")
    check_range(name, float(value), low, high)


def check_range(name: str, value: float, low: float, high: float | None) -> None:
    """Refuse a number that isn't from low to high; None is no limit.

    Raises:
        ValueError: it is out of the range, or NaN.
    """
    # Written so that a NaN fails too.
    if not (value >= low and (high is None or value <= high)):
        raise ValueError(
            f"{name} is {value}. Give a number {f'of at least {low}' if high is None else f'from {low} to {high}'}."
        )
