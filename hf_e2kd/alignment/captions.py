"""Names of classes for captions: those of samples' labels, and those that a model predicts."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from .labels import class_names, data_labels, is_multi_label, is_score


def named_labels(
    labels: Sequence[Any], dataset: Any, model: nn.Module, label_column: str | None = None
) -> list[str | None] | None:
    """Name the labels of a data set's samples as a model's classes, for captions.

    Args:
        labels: Numbers (N,) as the data set has them, −100 where a sample has none; or, of several labels a sample,
            vectors (classes,) of zeros and ones. None of either kind where a sample has none.
        dataset, model, label_column: As of `data_labels`.

    Returns:
        Names (N,), joined where there are several, None for a sample without a label; None of a model of scores, and of
        other labels than classes of the model.
    """
    match = data_labels(dataset, model, label_column)
    if match is None or is_score(model):
        return None
    known = [torch.as_tensor(label) for label in labels if label is not None]
    if not known:
        return [None] * len(labels)
    numbers, names = match(torch.stack(known)), class_names(model)
    found: Iterator[str | None]
    if numbers.ndim == 2:
        found = iter(joined_names(numbers > 0, names or [str(number) for number in range(numbers.shape[1])]))
    else:
        found = (None if n < 0 else str(n) if names is None else names[n] for n in numbers.tolist())
    return [None if label is None else next(found) for label in labels]


def predicted_names(logits: torch.Tensor, model: nn.Module, classes: Sequence[int] | None = None) -> list[str]:
    """Name the top class of each sample, or all classes that a multi-label model predicts.

    Args:
        logits: Logits (B, C).
        model: Model whose classes they are of.
        classes: Which of its classes (C,); all in their order by default.
    """
    known, numbers = class_names(model), range(logits.shape[1]) if classes is None else classes
    names = [str(number) if known is None else known[number] for number in numbers]
    several = is_multi_label(model)
    return joined_names(logits >= 0 if several else nn.functional.one_hot(logits.argmax(1), len(names)), names)


def joined_names(chosen: torch.Tensor, names: Sequence[str]) -> list[str]:
    """Join the names of each sample's classes, chosen (B, C)."""
    return [", ".join(names[number] for number in row.nonzero().flatten().tolist()) or "none" for row in chosen]
