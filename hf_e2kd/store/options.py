"""Options of a store's building, and refusals of those that can't be."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..alignment.labels import class_count
from ..choices import unknown_choice
from .files import StoreError

DTYPES = ("float16", "float32")
"""Precisions of stored logits and maps."""


def refuse_unknown(choices: Mapping[str, tuple[str, Sequence[str]]]) -> None:
    """Refuse options, by name, that aren't among the valid ones."""
    for name, (value, valid) in choices.items():
        if value not in valid:
            raise StoreError(unknown_choice(name, value, valid))


def refuse_counts(counts: Mapping[str, Any]) -> None:
    """Refuse options, by name, that aren't whole numbers of at least 1; None is an option that isn't given."""
    for name, count in counts.items():
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise StoreError(f"{name} must be a whole number of at least 1, not {count!r}.")


def refuse_all_logits(top_k: int, teacher: nn.Module) -> None:
    """Refuse to store so many of a teacher's logits, where that is all of them or their number isn't known."""
    known = class_count(teacher)
    if known is None:
        raise StoreError(
            f"top_k needs the number of classes, which {type(teacher).__name__} doesn't state: it has no "
            "`config` and no `num_classes`. Set teacher.num_classes, or leave top_k out to store all logits."
        )
    if top_k >= known:
        raise StoreError(f"top_k={top_k} of {known} classes saves nothing. Leave it out to store all logits.")
