"""Groups of a data set's samples, such as those of one place, by the values of its columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from datasets import ClassLabel
from torch.utils.data import Dataset, Subset

from ..alignment.labels import without_subsets
from ..choices import did_you_mean

GROUP = "_group"
"""Key of the groups' numbers in samples, batches and measured values."""

MOST_GROUPS = 1000
"""Largest number of groups: a column with more values is an id."""

Value = str | int | bool


@dataclass(frozen=True)
class Groups:
    """The group of each sample of a data set.

    Args:
        columns: Columns whose values make the groups.
        names: Name of each group by its number: its value, or its values joined by " × ".
        numbers: (N,) the group's number of each sample.
    """

    columns: tuple[str, ...]
    names: tuple[str, ...]
    numbers: np.ndarray


class GroupedDataset(Dataset):
    """A data set whose samples bear their group's number under the key `GROUP`."""

    def __init__(self, dataset: Any, groups: Groups):
        self.dataset = dataset
        self.groups = groups

    @property
    def labelled_dataset(self) -> Any:
        """The data set whose labels these samples have."""
        return self.dataset

    @property
    def features(self) -> Any:
        """The features of the data set itself, by which the names of its classes are read."""
        return getattr(without_subsets(self.dataset), "features", None)

    @property
    def format(self) -> Any:
        """The format of the data set itself, whose transform says which column holds the labels."""
        return getattr(without_subsets(self.dataset), "format", None)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        rows = list(rows)
        own = self.dataset
        samples = own.__getitems__(rows) if hasattr(own, "__getitems__") else [own[row] for row in rows]
        return [{**sample, GROUP: int(self.groups.numbers[row])} for sample, row in zip(samples, rows, strict=True)]


def group_columns(columns: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of one column or several as a tuple; an empty one for None."""
    return () if columns is None else (columns,) if isinstance(columns, str) else tuple(columns)


def read_groups(dataset: Any, columns: str | Sequence[str]) -> Groups:
    """Read the groups of a data set's samples, without its transform and without decoding images.

    Args:
        dataset: Data set with a length.
        columns: Column of texts, whole numbers, classes or booleans; or several, each combination of whose values is a
            group.

    Raises:
        ValueError: a stream; a column that isn't there (those that are get listed); a sample without a value; values of
            another kind; more than `MOST_GROUPS` groups.

    Example:
        >>> groups = read_groups([{"place": "sea"}, {"place": "land"}, {"place": "sea"}], "place")
        >>> groups.names, groups.numbers.tolist()
        (('land', 'sea'), [1, 0, 1])
    """
    columns = group_columns(columns)
    if not hasattr(dataset, "__len__"):
        raise ValueError("Groups are read before the samples: give a data set with a length, not a stream.")
    keys = list(zip(*(_column(dataset, column) for column in columns), strict=True))
    found = sorted(set(keys))
    if len(found) > MOST_GROUPS:
        raise ValueError(
            f"{_named(columns)} {len(found):,} values in {len(keys):,} samples, which are ids and no groups. Name a "
            f"column with at most {MOST_GROUPS:,} values."
        )
    numbers = {key: number for number, key in enumerate(found)}
    features = getattr(without_subsets(dataset), "features", None) or {}
    kinds = [features.get(column) for column in columns]
    names = tuple(" × ".join(map(_name, key, kinds)) for key in found)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{_named(columns)} several groups that are all called '{twice}'. Give them different values.")
    return Groups(columns, names, np.array([numbers[key] for key in keys], dtype=np.int64))


def _column(dataset: Any, column: str) -> list[Value]:
    values = _values(dataset, column)
    for row, value in enumerate(values):
        if value is None:
            raise ValueError(
                f"Sample {row} has no value in the column '{column}', by which the samples are grouped. Give it one, "
                f"such as 'unknown', or leave such samples out: dataset.filter(lambda row: row['{column}'] "
                "is not None)."
            )
        if not isinstance(value, Value):
            raise ValueError(
                f"The column '{column}' holds {value!r:.60} ({type(value).__name__}), by which no samples are grouped. "
                "Name a column of texts, whole numbers, classes or booleans, or make one: dataset.map(…)."
            )
    if len(kinds := {type(value) for value in values}) > 1:
        raise ValueError(f"The column '{column}' holds {' and '.join(sorted(kind.__name__ for kind in kinds))} values.")
    return values


def _values(dataset: Any, column: str) -> list[Any]:
    if isinstance(dataset, Subset):
        values = _values(dataset.dataset, column)
        return [values[row] for row in dataset.indices]
    if isinstance(dataset, datasets.Dataset):
        _require(column, dataset.column_names)
        return dataset.with_format(None)[column][:]
    samples = [dataset[row] for row in range(len(dataset))]
    for sample in samples:
        if not isinstance(sample, Mapping):
            raise ValueError(f"Samples are {type(sample).__name__}s without columns, and '{column}' is to group them.")
        _require(column, list(sample))
    # Numbers of one element, as tensors and arrays hold them, are numbers.
    found = [sample[column] for sample in samples]
    return [value.item() if getattr(value, "shape", None) == () else value for value in found]


def _require(column: str, columns: Sequence[str]) -> None:
    if column not in columns:
        raise ValueError(
            f"There is no column '{column}' to group the samples by. Columns of the data: {', '.join(columns)}. "
            f"{did_you_mean(column, columns)}".rstrip()
        )


def _name(value: Value, kind: Any) -> str:
    if isinstance(kind, ClassLabel) and isinstance(value, int) and value >= 0:
        return kind.int2str(value)
    return str(value) or "''"


def _named(columns: Sequence[str]) -> str:
    return f"The column '{columns[0]}' has" if len(columns) == 1 else f"The columns {', '.join(columns)} have"
