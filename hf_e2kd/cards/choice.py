"""Choice of the samples that a picture shows."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def at_quantiles(values: Sequence[float] | Tensor, count: int) -> list[int]:
    """Choose samples at evenly spaced quantiles of a value: for three those at the 1/6, 3/6 and 5/6 quantile.

    Unlike the first samples, or the best, they show the whole range of what was measured.

    Args:
        values: A number a sample (N,), such as its similarity; samples of NaN are passed over.
        count: Number of samples, at least 1.

    Returns:
        Positions, from the lowest value to the highest; all with a value where they are no more than `count`.

    Example:
        >>> at_quantiles([0.9, 0.1, 0.5, 0.7, 0.3], 1)
        [2]
        >>> at_quantiles([0.9, 0.1, 0.5, 0.7, 0.3, float("nan")], 3)
        [1, 2, 0]
    """
    values = torch.as_tensor(values, dtype=torch.float64).flatten()
    ordered = [row for row in values.argsort(stable=True).tolist() if not values[row].isnan()]
    if len(ordered) <= count:
        return ordered
    return [ordered[int((number + 0.5) * len(ordered) / count)] for number in range(count)]


def gain(similarities: Mapping[str, Tensor]) -> tuple[str, Tensor]:
    """Take the last student's gain in similarity over the first, or its similarity where there is no other.

    Args:
        similarities: Similarities (N,) to the teacher, by student.

    Returns:
        Its name for `rule`, and the values (N,) for `at_quantiles`.

    Example:
        >>> gain({"KD student": torch.tensor([0.25]), "e²KD student": torch.tensor([0.75])})
        ('the gain in similarity of e²KD student over KD student', tensor([0.5000]))
    """
    first, last = list(similarities)[0], list(similarities)[-1]
    if first == last:
        return "similarity", similarities[last]
    return f"the gain in similarity of {last} over {first}", similarities[last] - similarities[first]


def rule(count: int, of: int, value: str) -> str:
    """State the choice of `at_quantiles` in words.

    Example:
        >>> rule(3, 64, "similarity")
        'Of 64 samples those at the 1/6, 3/6 and 5/6 quantile of similarity, lowest first.'
    """
    if count >= of:
        return f"All {of} samples, by {value}, lowest first."
    if count == 1:
        return f"Of {of} samples the one with the median {value}."
    places = [f"{2 * number + 1}/{2 * count}" for number in range(count)]
    return f"Of {of} samples those at the {', '.join(places[:-1])} and {places[-1]} quantile of {value}, lowest first."
