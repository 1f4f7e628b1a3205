"""A data set whose samples carry what a store says of them; rows are joined in the DataLoader's workers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Subset

from .files import Shards, StoreError
from .ids import IdIndex, sample_id
from .samples import samples_of
from .text import CHECKSUM, FIRST, SCORES, SPANS


class StoredRows:
    """A store's rows as columns of samples.

    Args:
        shards: The rows as they are stored.
        classes: How many logits a row has.
        targets: The largest number of explained classes of a sample; None where each row has one.
        prefix: Of the columns' names.
    """

    def __init__(self, shards: Shards, classes: int, targets: int | None, prefix: str):
        self.shards = shards
        self.classes = classes
        self.targets = targets
        self.is_text = SPANS in shards.fields
        names = ("logits", "target", *((SPANS, SCORES, FIRST, CHECKSUM) if self.is_text else ("map",)))
        self.columns = tuple(f"{prefix}_{name}" for name in names)

    def __call__(self, rows: np.ndarray) -> list[dict[str, torch.Tensor]]:
        """The columns of each row: `logits` (classes,); `target` () or (K,); of an image `map` ([K,] h, w) float32; of
        a text its tokens' `spans` (n, 2), `scores` ([K,] n) and what else `StoredTextCollator` reads."""
        read = self.shards.read(rows)
        values: list[Any] = [self._logits(read), self._targets(read["target"])]
        if self.is_text:
            scores = [
                self._padded(
                    own.astype(np.float32).reshape(*np.shape(scale), len(spans)) * np.asarray(scale)[..., None]
                )
                for own, scale, spans in zip(read[SCORES], read["scale"], read[SPANS], strict=True)
            ]
            values += [[torch.from_numpy(own) for own in read[SPANS]], scores]
            values += [torch.from_numpy(read[name].astype(np.int64)) for name in (FIRST, CHECKSUM)]
        elif self.targets is None:
            values.append(torch.from_numpy(read["map"].astype(np.float32) * read["scale"][:, None, None]))
        else:
            values.append(
                [
                    self._padded(own.astype(np.float32) * scale[:, None, None])
                    for own, scale in zip(read["map"], read["scale"], strict=True)
                ]
            )
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*values, strict=True)]

    def _logits(self, read: Mapping[str, Any]) -> torch.Tensor:
        """All classes' logits (B, classes). Where only the largest are stored, the others share equally what is left of
        the teacher's probability."""
        logits = torch.from_numpy(read["logits"])
        if "indices" not in read:
            return logits
        others = self.classes - logits.shape[1]
        each = torch.from_numpy(read["rest"]) - float(np.log(others))
        indices = torch.from_numpy(read["indices"].astype(np.int64))
        return each[:, None].repeat(1, self.classes).scatter_(1, indices, logits.float())

    def _targets(self, targets: Any) -> torch.Tensor:
        if self.targets is None:
            return torch.from_numpy(targets.astype(np.int64))
        padded = torch.full((len(targets), self.targets), -1)
        for row, own in enumerate(targets):
            padded[row, : len(own)] = torch.from_numpy(own)
        return padded

    def _padded(self, maps: np.ndarray) -> torch.Tensor:
        """The maps of all targets that a sample may have, zero where it has fewer."""
        if self.targets is None:
            return torch.from_numpy(maps)
        padded = torch.zeros(self.targets, *maps.shape[1:])
        padded[: len(maps)] = torch.from_numpy(maps)
        return padded


class AttachedDataset(Dataset):
    """A data set with a store's columns in its samples.

    Args:
        dataset: Has a length, and dictionaries as samples.
        stored: The rows.
        rows: (N,) the row of each sample; None where only the sample itself knows its id.
        index, id_column: Find the row then.
    """

    def __init__(
        self,
        dataset: Any,
        stored: StoredRows,
        rows: np.ndarray | None = None,
        index: IdIndex | None = None,
        id_column: str | None = None,
    ):
        self.dataset = dataset
        self.stored = stored
        self.rows = rows
        self.index = index
        self.id_column = id_column

    @property
    def features(self) -> Any:
        """What the data set states of its own columns; the classes of its labels are read from it."""
        dataset = self.dataset
        while isinstance(dataset, Subset):
            dataset = dataset.dataset
        return getattr(dataset, "features", None)

    @property
    def column_names(self) -> list[str]:
        return [*(getattr(self.dataset, "column_names", None) or ()), *self.stored.columns]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[int]) -> list[dict[str, Any]]:
        samples = samples_of(self.dataset, list(places))
        if self.rows is not None:
            rows = self.rows[np.asarray(places)]
        else:
            rows = _rows_by_id(samples, self.index, self.id_column, places)
        return _joined(samples, self.stored(rows))


class AttachedStream(IterableDataset):
    """The same of a data set that is read from its beginning, whose samples bear their ids."""

    def __init__(self, dataset: Any, stored: StoredRows, index: IdIndex, id_column: str):
        self.dataset = dataset
        self.stored = stored
        self.index = index
        self.id_column = id_column

    @property
    def features(self) -> Any:
        return getattr(self.dataset, "features", None)

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number, sample in enumerate(self.dataset):
            rows = _rows_by_id([sample], self.index, self.id_column, [number])
            yield _joined([sample], self.stored(rows))[0]


def _rows_by_id(samples: Sequence[Any], index: IdIndex | None, column: str | None, places: Sequence[int]) -> np.ndarray:
    assert index is not None and column is not None
    return index.rows([sample_id(sample, column, place) for sample, place in zip(samples, places, strict=True)])


def _joined(samples: Sequence[Any], stored: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if samples and not isinstance(samples[0], Mapping):
        raise StoreError(
            f"A sample is a {type(samples[0]).__name__}; stored explanations are added to samples that are "
            "dictionaries, such as {'pixel_values': image, 'labels': 3}."
        )
    return [{**sample, **row} for sample, row in zip(samples, stored, strict=True)]
