"""Joining a store with a data set: its rows become columns of the samples, in the DataLoader's workers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset

from ..alignment.labels import without_subsets
from .files import StoreError
from .ids import IdIndex, sample_id
from .rows import RowDecoder
from .samples import IndexedDataset, distillation_transform, refuse_unsaid_moves, samples_of


class AttachedDataset(Dataset):
    """A data set with a store's columns in its samples.

    Args:
        dataset: A map-style data set of dictionaries.
        decoder: Reads the store's rows.
        rows: Row (N,) of each sample; None where only the sample itself states its id.
        index: Rows by id, needed then.
        id_column: Column of the ids, needed then.
    """

    def __init__(
        self,
        dataset: Any,
        decoder: RowDecoder,
        rows: np.ndarray | None = None,
        index: IdIndex | None = None,
        id_column: str | None = None,
    ):
        _refuse_same_columns(dataset, decoder)
        self.dataset = dataset
        self.decoder = decoder
        self.rows = rows
        self.index = index
        self.id_column = id_column

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

    @property
    def column_names(self) -> list[str]:
        return [*(getattr(self.dataset, "column_names", None) or ()), *self.decoder.columns]

    def select(self, places: Sequence[int]) -> "AttachedDataset":
        """The samples at these positions, as those of a `datasets.Dataset`: their columns can still be read."""
        own = self.dataset
        part = own.select(places) if hasattr(own, "select") else Subset(own, list(places))
        rows = None if self.rows is None else self.rows[np.asarray(places, dtype=int)]
        return AttachedDataset(part, self.decoder, rows, self.index, self.id_column)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[int]) -> list[dict[str, Any]]:
        # At every reading, because a transform may be set later than the store is attached.
        refuse_unsaid_moves(distillation_transform(self.dataset))
        samples = samples_of(self.dataset, list(places))
        if self.rows is not None:
            rows = self.rows[np.asarray(places)]
        else:
            rows = _rows_by_id(samples, self.index, self.id_column, places)
        return _joined(samples, self.decoder(rows))


def unattached(dataset: Any) -> Any:
    """The data set to which a store's columns or its samples' positions were attached, or the data set itself.

    Samples have the same order and number in it, and their lengths can be asked without reading the store.
    """
    while isinstance(dataset, AttachedDataset | AttachedStream | IndexedDataset):
        dataset = dataset.dataset
    return dataset


def attached_parts(dataset: Any) -> "list[AttachedDataset | AttachedStream]":
    """The data sets with a store's columns that a data set, or its parts, are; of several stores each."""
    dataset = without_subsets(dataset)
    if isinstance(dataset, ConcatDataset):
        return [part for own in dataset.datasets for part in attached_parts(own)]
    if isinstance(dataset, AttachedDataset | AttachedStream):
        return [dataset, *attached_parts(dataset.dataset)]
    return []


class AttachedStream(IterableDataset):
    """A stream with a store's columns in its samples, which state their ids."""

    def __init__(self, dataset: Any, decoder: RowDecoder, index: IdIndex, id_column: str):
        _refuse_same_columns(dataset, decoder)
        self.dataset = dataset
        self.decoder = decoder
        self.index = index
        self.id_column = id_column

    @property
    def labelled_dataset(self) -> Any:
        """The data set whose labels these samples have."""
        return self.dataset

    @property
    def features(self) -> Any:
        return getattr(self.dataset, "features", None)

    def __getattr__(self, name: str) -> Any:
        # Order and position are the stream's own, where it can set them.
        if name in ("set_epoch", "state_dict", "load_state_dict"):
            return getattr(self.dataset, name)
        raise AttributeError(f"{type(self).__name__} has no attribute '{name}'.")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        refuse_unsaid_moves(distillation_transform(self.dataset))
        for number, sample in enumerate(self.dataset):
            rows = _rows_by_id([sample], self.index, self.id_column, [number])
            yield _joined([sample], self.decoder(rows))[0]


def _refuse_same_columns(dataset: Any, decoder: RowDecoder) -> None:
    """Refuse to put a store's columns in the place of another's, of which nothing would be learnt."""
    while isinstance(dataset, AttachedDataset | AttachedStream):
        if set(dataset.decoder.columns) & set(decoder.columns):
            raise StoreError(
                f"The data bears the columns {', '.join(decoder.columns)} of the store {dataset.decoder.shards.folder} "
                f"already. Load the store {decoder.shards.folder} by StoredReference(folder, prefix=…), with columns "
                "of its own."
            )
        dataset = dataset.dataset


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
