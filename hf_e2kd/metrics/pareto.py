"""The Pareto front: the models that no other one beats in every respect."""

from collections.abc import Mapping, Sequence

import numpy as np


def pareto_front(
    points: Sequence[Mapping[str, float]], maximise: Sequence[str], rounding: float | None = 0.005
) -> list[int]:
    """The points that no other point dominates: at least as good in every measure, and better in one.

    Measures are first rounded, so that a model doesn't stay for a gain within the noise. Of points equal after
    rounding the first is kept. A front updated epoch by epoch, from the points of the last front and the new ones, is
    therefore the front of all points.

    References:
        Rao et al., "Studying How to Efficiently and Effectively Guide Models with Explanations", ICCV 2023: the front
        over F1, EPG and IoU on validation, rounded to .005.

    Args:
        points: the measures of each point by name; others than those of `maximise` may stand beside them.
        maximise: the names of the measures that count, all better the larger (negate the others).
        rounding: the step to which they are rounded; None or 0 for none.

    Returns:
        The positions of the points of the front, ascending.

    Raises:
        ValueError: no measure is named, a point lacks one or has NaN for it, or the rounding is negative.

    Example:
        >>> points = [{"f1": 0.70, "epg": 0.50}, {"f1": 0.65, "epg": 0.60}, {"f1": 0.64, "epg": 0.55}]
        >>> pareto_front(points, maximise=["f1", "epg"])
        [0, 1]
    """
    if not maximise or isinstance(maximise, str):
        raise ValueError(f"maximise is {maximise!r}. Give a list with the names of one or more measures.")
    if rounding is not None and not rounding >= 0:
        raise ValueError(f"rounding is {rounding}. Give a step such as 0.005, or None.")
    for number, point in enumerate(points):
        missing = [name for name in maximise if name not in point]
        if missing:
            raise ValueError(f"Point {number} has no {', '.join(missing)}. Its measures: {', '.join(point)}.")
        if any(np.isnan(point[name]) for name in maximise):
            raise ValueError(f"Point {number} holds NaN ({dict(point)}), which can't be compared. Leave it out.")
    values = np.array([[point[name] for name in maximise] for point in points], dtype=np.float64)
    if rounding:
        values = np.round(values / rounding)
    return [number for number, value in enumerate(values) if not _is_beaten(value, number, values)]


def _is_beaten(value: np.ndarray, number: int, values: np.ndarray) -> bool:
    """Tell whether a row dominates this one, or an earlier row equals it."""
    as_good = np.all(values >= value, axis=1)
    better = np.any(values > value, axis=1)
    return bool(np.any(as_good & better) or np.any(as_good[:number]))
