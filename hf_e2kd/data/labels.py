"""Labels that a file states by their names, as the numbers of a model's classes."""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import ClassLabel, Dataset, Value

from ..alignment.labels import name_key


def holds_names(dataset: Dataset, column: str) -> bool:
    """Tell whether a data set has labels, and states them as texts."""
    feature = dataset.features.get(column)
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def encode_labels(dataset: Dataset, column: str, names: Sequence[str] | None) -> Dataset:
    """Turn labels that are names into the numbers of a model's classes; others stay as they are.

    Args:
        dataset: With or without the column.
        column: Column of the labels.
        names: Names of the classes by their number (`model.config.id2label`), upper and lower case alike; None where
            the model has none.

    Raises:
        ValueError: a label is no class's name, or that of several; both are listed, and the remedies.

    Example:
        >>> data = Dataset.from_dict({"label": ["good", "bad"]})
        >>> encode_labels(data, "label", ["bad", "good"])["label"][:]
        [1, 0]
    """
    if not holds_names(dataset, column):
        return dataset
    numbers: dict[str, list[int]] = {}
    for number, name in enumerate(names or ()):
        numbers.setdefault(name_key(name), []).append(number)
    labels = dataset.with_format(None)[column][:]
    stated = {label for label in labels if label is not None}
    unknown = sorted(label for label in stated if name_key(label) not in numbers)
    if unknown:
        known = f"are {', '.join(list(names)[:8])}{', …' * (len(names) > 8)}" if names else "have no names"
        raise ValueError(
            f"The column '{column}' holds labels by name, among them {unknown[:4]}, and the model's classes {known}. "
            "Give the model these names in `id2label`, in the order of its logits, or write the classes' numbers; "
            f"new classes are numbered by dataset.class_encode_column('{column}')."
        )
    for label in sorted(stated):
        if len(found := numbers[name_key(label)]) > 1:
            raise ValueError(
                f"The column '{column}' holds '{label}', which the model calls its classes {found} alike. Write the "
                "classes' numbers, or give each class a name of its own in `id2label`."
            )
    encoded = [None if label is None else numbers[name_key(label)][0] for label in labels]
    # Beside the other columns, which a cast would write anew; first, as a data set may have no others.
    named = list(names or ())
    # A `ClassLabel` can't have a name twice; without it the numbers are the model's all the same.
    feature = ClassLabel(names=named) if len(set(named)) == len(named) else Value("int64")
    numbered = dataset.add_column(f"{column} numbers", encoded, feature=feature)
    return numbered.remove_columns(column).rename_column(f"{column} numbers", column)


def encode_new_labels(splits: Sequence[Dataset], column: str) -> list[Dataset]:
    """Number the labels' names of several splits alike, in alphabetical order; labels that are numbers stay."""
    if not any(holds_names(split, column) for split in splits):
        return list(splits)
    names = sorted({label for split in splits for label in split.unique(column) if label is not None})
    return [encode_labels(split, column, names) for split in splits]


def refuse_names(labels: Sequence[Any], column: str) -> None:
    """Refuse labels that are names and not numbers.

    Raises:
        ValueError: naming one, and the remedy.
    """
    named = next((label for label in labels if isinstance(label, str)), None)
    if named is not None:
        raise ValueError(
            f"The column '{column}' holds {named!r} where a class's number is expected. Number the labels before: "
            f"hf_e2kd.data.encode_labels(dataset, '{column}', names), with the names in the order of the model's "
            "classes."
        )


def several_labels(label: Sequence[Any], classes: int | None, column: str) -> torch.Tensor:
    """Make a vector of zeros and ones of the several labels of one sample.

    Args:
        label: Numbers of its classes; or the vector itself, as floats or booleans.
        classes: Number of classes; a vector says it itself.
        column: Column of the labels, for the errors.

    Returns:
        (classes,) float32.

    Raises:
        ValueError: names, labels beyond the classes, a vector of another length, or whole numbers that may be either.

    Example:
        >>> several_labels([0, 2], 3, "labels"), several_labels([0.0, 1.0, 0.0], 3, "labels")
        (tensor([1., 0., 1.]), tensor([0., 1., 0.]))
    """
    refuse_lists_of_names(label, column)
    shown = str(list(label[:8]))[:80]
    if any(isinstance(each, float | bool) for each in label):
        if classes is not None and len(label) != classes:
            raise ValueError(f"A row has a vector of {len(label)} labels, {shown}, and there are {classes} classes.")
        return torch.tensor(label, dtype=torch.float32)
    if classes is None:
        raise ValueError(
            f"The labels of a row are several ({shown}). Give the number of `classes`, as in "
            "DistillationTransform(processor, classes=20)."
        )
    if any(not 0 <= number < classes for number in label):
        raise ValueError(f"A row has the labels {list(label)}, and there are {classes} classes, from 0 on.")
    if len(label) == classes and max(label) <= 1 and list(label) != sorted(set(label)):
        raise ValueError(
            f"The labels of a row, {shown}, may be a vector of zeros and ones, or the numbers of classes. Give a "
            f"vector as floats, dataset.cast_column('{column}', datasets.List(datasets.Value('float32'))), and numbers "
            "once each, in ascending order."
        )
    several = torch.zeros(classes)
    several[torch.as_tensor(label, dtype=torch.long)] = 1
    return several


def refuse_lists_of_names(label: Sequence[Any], column: str) -> None:
    """Refuse one sample's several labels that are names and not numbers.

    Raises:
        ValueError: showing them, and the remedy.
    """
    if any(isinstance(each, str) for each in label):
        raise ValueError(
            f"The column '{column}' holds {str(list(label[:8]))[:80]} where numbers of classes are expected. Number "
            f"them before: dataset.cast_column('{column}', datasets.List(datasets.ClassLabel(names=names))), with the "
            "names in the order of the model's classes."
        )


def refuse_unequal(labels: Sequence[Any], column: str) -> None:
    """Refuse a batch's labels that are lists of different lengths, as of the numbers of each sample's classes.

    Raises:
        ValueError: showing two, and the remedy.
    """
    lists = [label for label in labels if isinstance(label, list | tuple) or getattr(label, "ndim", 0) == 1]
    other = next((label for label in lists if len(label) != len(lists[0])), None)
    if other is not None:
        raise ValueError(
            f"The column '{column}' holds lists of different lengths, such as {list(lists[0])[:8]} and "
            f"{list(other)[:8]}. Several labels a sample are a vector, 1 for its classes and 0 for the others: "
            f"dataset.map(lambda row: {{'{column}': [int(n in row['{column}']) for n in range(classes)]}}). Of images, "
            "DistillationTransform(processor, classes=…) makes it of the classes' numbers."
        )


def refuse_missing(labels: Sequence[Any], column: str) -> None:
    """Refuse a batch's labels of which some are there and some are None.

    Raises:
        ValueError: naming the first sample without one, and the remedy.
    """
    missing = [row for row, label in enumerate(labels) if label is None]
    if 0 < len(missing) < len(labels):
        raise ValueError(
            f"Some samples of the batch have a label in the column '{column}' and some, such as number {missing[0]}, "
            "have none. Mark these by -100."
        )


def refuse_partly_labelled(splits: Sequence[Dataset], column: str) -> None:
    """Refuse splits of which some samples have a label and some have none, before a batch of both ends a training.

    Raises:
        ValueError: naming the first sample without one, and the remedy.
    """
    for split in splits:
        labels = split.with_format(None)[column][:] if column in split.column_names else []
        missing = [row for row, label in enumerate(labels) if label is None]
        if 0 < len(missing) < len(labels):
            raise ValueError(
                f"{len(missing)} of {len(labels)} samples have no label in the column '{column}', the first is number "
                f"{missing[0]}, from 0 on. Leave them out: dataset.filter(lambda row: row['{column}'] is not None)."
                " Of labels that are numbers, -100 says that there is none."
            )
