"""A data set whose samples carry what a store says of them; rows are joined in the DataLoader's workers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset, Subset

from .errors import StoreError
from .ids import IdIndex, sample_id
from .rows import RowDecoder
from .samples import distillation_transform, samples_of


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
        stored: RowDecoder,
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
        transform = distillation_transform(self.dataset)
        # At every reading, because a transform may be set later than the store is attached.
        if transform is not None and transform.augmentation is not None and not transform.record_view:
            raise StoreError(
                "The images are augmented, and nothing says where in them the places of the stored maps are. Set the "
                "data's transform to DistillationTransform(..., augmentation=..., record_view=True)."
            )
        samples = samples_of(self.dataset, list(places))
        if self.rows is not None:
            rows = self.rows[np.asarray(places)]
        else:
            rows = _rows_by_id(samples, self.index, self.id_column, places)
        return _joined(samples, self.stored(rows))


def unattached(dataset: Any) -> Any:
    """The data set to which a store's columns were attached, or the data set itself.

    Samples have the same order and number in it, and their lengths can be asked without reading the store.
    """
    while isinstance(dataset, AttachedDataset):
        dataset = dataset.dataset
    return dataset


class AttachedStream(IterableDataset):
    """The same of a data set that is read from its beginning, whose samples bear their ids."""

    def __init__(self, dataset: Any, stored: RowDecoder, index: IdIndex, id_column: str):
        self.dataset = dataset
        self.stored = stored
        self.index = index
        self.id_column = id_column

    @property
    def features(self) -> Any:
        return getattr(self.dataset, "features", None)

    def __getattr__(self, name: str) -> Any:
        # Its place and its order are the stream's own, where that can be set.
        if name in ("set_epoch", "state_dict", "load_state_dict"):
            return getattr(self.dataset, name)
        raise AttributeError(f"{type(self).__name__} has no attribute '{name}'.")

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
