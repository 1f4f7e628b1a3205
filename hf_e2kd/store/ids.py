"""Ids of samples: reading them, finding their rows in a store, and noticing a changed order where there are none."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL.Image import Image
from torch.utils.data import Subset

from ..alignment.labels import without_subsets
from ..logs import get_logger
from .files import StoreError
from .shards import Id, Shards

logger = get_logger(__name__)

# Samples whose content is remembered, to find out later whether the data is still in the same order: so many evenly
# over it, and at most as many again, the denser the nearer to its beginning, as a small part alone may be left, and to
# its end, as few samples may be left out there.
_PROBES = 64
# Of a data set that computes its samples, and so may be slow to ask.
_SLOW_PROBES = 16
# In bytes.
_LONG = 2**16
_LABELS = {"label": "labels", "labels": "label"}
"""Names of one column of labels before and after a transform."""
_FILE_NAME = ".path"
"""What the name of an image's file is compared under, after its column."""
_VALUES = ".values"
"""What a tensor, an array or an image of a sample is compared under, after its column: augmentations change it."""


def check_id(value: Any, column: str, sample: Any) -> Id:
    """An id as the store keeps it.

    Raises:
        StoreError: it is neither a whole number of 64 bits nor a text of UTF-8.
    """
    if isinstance(value, np.generic) or (isinstance(value, torch.Tensor) and value.numel() == 1):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise StoreError(
            f"The id in the column '{column}' of sample {sample} is {value!r}; ids are whole numbers or texts. Name "
            "another column by `id_column`."
        )
    is_kept = value.isascii() or _is_utf8(value) if isinstance(value, str) else -(2**63) <= value < 2**63
    if not is_kept:
        raise StoreError(
            f"The id in the column '{column}' of sample {sample} is {value!a:.80}, which is no number of 64 bits and "
            "no text of UTF-8. Write such numbers as texts, or name another column by `id_column`."
        )
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def stated_ids(dataset: Any, column: str) -> list[Id] | None:
    """All ids of a data set that can state them without computing its samples; None for another kind.

    Raises:
        StoreError: there is no such column, or it holds something else than ids.
    """
    if isinstance(dataset, datasets.Dataset):
        if column not in dataset.column_names:
            raise no_column(column, dataset.column_names)
        # Without its transform, which may drop the column.
        values = dataset.select_columns([column]).with_format("arrow")[:].column(0).to_pylist()
    elif isinstance(dataset, list | tuple):
        values = [sample_id(sample, column, number) for number, sample in enumerate(dataset)]
    elif isinstance(dataset, Subset):
        whole = stated_ids(dataset.dataset, column)
        return None if whole is None else [whole[row] for row in dataset.indices]
    else:
        return None
    ids = [check_id(value, column, number) for number, value in enumerate(values)]
    refuse_two_kinds(ids)
    return ids


def refuse_two_kinds(ids: Sequence[Id]) -> None:
    """Refuse ids of which some are numbers and some texts, which no column of a shard can hold."""
    first = next(
        (number for number, value in enumerate(ids) if isinstance(value, str) != isinstance(ids[0], str)), None
    )
    if first is not None:
        raise StoreError(
            f"Some ids are numbers and some are texts, as {ids[0]!r} and {ids[first]!r}. Make all of them texts."
        )


def sample_id(sample: Any, column: str, number: Any) -> Id:
    """The id of a sample as the data set gives it."""
    if not isinstance(sample, Mapping) or column not in sample:
        raise no_column(column, sample if isinstance(sample, Mapping) else [type(sample).__name__])
    return check_id(sample[column], column, number)


def no_column(column: str, columns: Iterable[str]) -> StoreError:
    return StoreError(
        f"The samples have no column '{column}' of ids. Their columns: {sorted(columns)}. Name it by `id_column`."
    )


def refuse_duplicates(ids: Iterable[Id]) -> None:
    """Refuse ids that occur twice."""
    seen: set[Id] = set()
    twice: dict[Id, None] = {}
    for value in ids:
        if value in seen:
            twice[value] = None
        seen.add(value)
    if twice:
        raise StoreError(
            f"{len(twice)} ids occur more than once, such as {list(twice)[:5]}: a stored row could not be told from "
            "another. Give a column of unique ids, or leave the duplicates out."
        )


class IdIndex:
    """An index of rows by id: sorted 64-bit keys, 16 bytes a row, which forked workers share.

    Args:
        shards: The store's rows.
    """

    def __init__(self, shards: Shards):
        self.shards = shards
        first = next(iter(shards.ids()), 0)
        self.holds_text = isinstance(first, str)
        keys = _keys(shards.ids(), len(shards))
        self.order = np.argsort(keys, kind="stable")
        self.keys = keys[self.order]

    def rows(self, ids: Sequence[Id]) -> np.ndarray:
        """The rows of ids.

        Raises:
            StoreError: an id isn't in the store; it is named.
        """
        wanted = _keys(ids, len(ids))
        places = np.searchsorted(self.keys, wanted).clip(max=max(0, len(self.keys) - 1))
        rows = self.order[places] if len(self.order) else np.zeros(len(ids), np.int64)
        found = self.shards.ids_of(rows) if len(self.order) else [None] * len(ids)
        for number, (given, own) in enumerate(zip(ids, found, strict=True)):
            if given != own:
                rows[number] = self._search(given, wanted[number])
        return rows

    def _search(self, wanted: Id, key: np.uint64) -> int:
        """The row among those of one key, which two ids may share by chance."""
        first, last = np.searchsorted(self.keys, key, "left"), np.searchsorted(self.keys, key, "right")
        for row in self.order[first:last]:
            if self.shards.ids_of(np.array([row])) == [wanted]:
                return int(row)
        kind = "text" if self.holds_text else "numbers"
        other = "" if isinstance(wanted, str) == self.holds_text else f" The store's ids are {kind}."
        raise StoreError(
            f"The sample with the id {wanted!r} is not in the store {self.shards.folder}, which holds "
            f"{len(self.shards)} others.{other} Build a store of all the data that is trained on, or leave the sample "
            "out."
        )


def _keys(ids: Iterable[Id], count: int) -> np.ndarray:
    return np.fromiter((_key(value) for value in ids), np.uint64, count)


def _key(value: Id) -> int:
    if isinstance(value, int):
        return value % 2**64
    return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "little")


# ---- The order, where there are no ids -------------------------------------------------------------------------------


def order_probes(dataset: Any) -> dict[str, Any]:
    """Digests of some samples, spread over the data: `{"positions": [...], "columns": {name: [digests]}}`.

    Of a `datasets.Dataset` the rows as they are stored, whatever transform they pass; of others the numbers and texts
    of a sample, its label above all, which no augmentation changes, and its tensors and images, which may say that
    nothing has changed.
    """
    return _probes(dataset, _positions(len(dataset), isinstance(without_subsets(dataset), datasets.Dataset)))


def check_order(dataset: Any, expected: Mapping[str, Any], folder: Any) -> None:
    """Refuse a data set without ids whose samples aren't in the order of the store any more.

    One column that tells the samples looked at apart, and is the same at every place, is enough: another column may
    have been changed on purpose. A sorted one, such as the label of a folder a class, tells nothing of the order among
    its equal values, so that it doesn't excuse another.

    Raises:
        StoreError: a place with another sample is named.
    """
    positions = [position for position in expected.get("positions", ()) if position < len(dataset)]
    if not positions:
        return
    found = _probes(dataset, positions)["columns"]
    stated = {name: digests for name, digests in expected["columns"].items() if len(set(digests)) > 1}
    stated = _without_file_names(stated, found)
    differing: dict[str, int] = {}
    for name, digests in stated.items():
        own, others = _comparable(name, digests[: len(positions)], found)
        if others is None:
            continue
        wrong = [position for position, one, other in zip(positions, own, others, strict=True) if one != other]
        if not wrong and _tells_order(own):
            return
        if wrong and not name.endswith(_VALUES):  # which may have been augmented, or be another processor's
            differing[name] = wrong[0]
    if differing:
        name, position = next(iter(differing.items()))
        raise StoreError(
            f"The data is not in the order in which the store {folder} was built: sample {position} has another "
            f"'{name}'. Without an `id_column`, stored rows belong to positions, so the data must not be shuffled, "
            "sorted or filtered after the building. Attach the store first and shuffle afterwards, or build it with an "
            "`id_column`."
        )
    if len(positions) > 1 or not stated.keys() & found.keys():
        gone = [name for name in stated if not name.endswith(_VALUES) and name not in found]
        why = f"it has none of the columns {', '.join(gone)}" if gone else "no number or text tells its samples apart"
        logger.warning(
            f"Nothing tells whether the data is still in the order in which the store {folder} was built: {why}. Build "
            "the store with an `id_column`, or attach it to the data before this is wrapped."
        )


def refuse_other_samples(dataset: Any, rows: np.ndarray, expected: Any, id_column: str, folder: Any) -> None:
    """Refuse to go on with a store by samples that bear its ids and are others.

    Args:
        dataset, rows, expected, id_column: As of `_differing_column`.
        folder: Folder of the store, for the message.

    Raises:
        StoreError: a column that differs is named.
    """
    column = _differing_column(dataset, rows, expected, id_column)
    if column is not None:
        raise StoreError(
            f"The samples have the ids of those in the store {folder} and are others: another '{column}', and no "
            "column is the same. Build into another folder; where the samples were changed and the explanations shall "
            "stay, load them by StoredReference(folder)."
        )


def warn_of_other_samples(dataset: Any, rows: np.ndarray, expected: Any, id_column: str, folder: Any) -> None:
    """Warn of samples that bear a store's ids and seem to be others; for the arguments see `refuse_other_samples`."""
    column = _differing_column(dataset, rows, expected, id_column)
    if column is not None:
        logger.warning(
            f"The samples have ids of the store {folder} and seem to be others: another '{column}', and no column is "
            "the same. Ids that begin anew in each split, as numbers do, give a sample the row of another: build a "
            "store of its own for each, `reference.attach(dataset, folder=...)`, or make the ids unique. Where these "
            "are the same samples and were only changed, nothing is wrong."
        )


def _differing_column(dataset: Any, rows: np.ndarray, expected: Mapping[str, Any] | None, id_column: str) -> str | None:
    """Name a column by which samples aren't those whose ids they bear, as of a split that numbers its own anew.

    As in `check_order`, one column that is the same wherever it is looked at is enough.

    Args:
        rows: Row (N,) of the store that each sample's id stands for.
        expected: Digests of some rows, by `order_probes`; None where the store has none.
        id_column: Column of the ids, which says nothing.

    Returns:
        None where a column is the same, or none can be compared.
    """
    number_of = {row: number for number, row in enumerate(expected["positions"] if expected else ())}
    looked_at, places = np.unique(rows, return_index=True)
    known = np.isin(looked_at, [*number_of])
    if not expected or not known.any():
        return None
    found = _probes(dataset, places[known].tolist())["columns"]
    differing = None
    for name, digests in _without_file_names(expected["columns"], found).items():
        own, others = _comparable(name, [digests[number_of[row]] for row in looked_at[known].tolist()], found)
        if name == id_column or others is None or len(set(own)) < 2:
            continue
        if own == others:
            return None
        if not name.endswith(_VALUES):
            differing = differing or name
    return differing


def _without_file_names(stated: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the names of files that are read themselves: files of one name lie in the folder of each class."""
    read = {f"{name}{_FILE_NAME}" for name in stated.keys() & found.keys()}
    return {name: digests for name, digests in stated.items() if name not in read}


def _comparable(
    name: str, stated: Sequence[str], found: Mapping[str, Sequence[str]]
) -> tuple[Sequence[str], Sequence[str] | None]:
    """A column's digests and those found of it, or of the labels that a transform made of it; None for neither."""
    if name not in found and (made := found.get(_LABELS.get(name, ""))) is not None:
        return _without_names(stated), _without_names(made)
    return stated, found.get(name)


def _without_names(digests: Sequence[str]) -> list[str]:
    """Number values by where they first stand, as those who wrap data may number its classes anew."""
    return [str(digests.index(digest)) for digest in digests]


def _tells_order(digests: Sequence[str]) -> bool:
    """Tell whether values in another order would be seen to be so: equal ones stand apart, or there are none.

    What is the same in all samples looked at, as of a single one, would be so in another order too.
    """
    kinds, changes = len(set(digests)), sum(one != other for one, other in pairwise(digests))
    return kinds > 1 and (changes >= kinds or kinds == len(digests))


def _positions(count: int, fast: bool) -> list[int]:
    if count == 0:
        return []
    probes = min(count, _PROBES if fast else _SLOW_PROBES)
    apart = np.geomspace(1, count, probes)
    places = [*np.linspace(0, count - 1, probes), *(apart - 1), *(count - apart)]
    return sorted({round(float(place)) for place in places})


def _probes(dataset: Any, positions: list[int]) -> dict[str, Any]:
    rows = positions
    while isinstance(dataset, Subset):
        dataset, rows = dataset.dataset, [dataset.indices[row] for row in rows]
    if isinstance(dataset, datasets.Dataset):
        raw = dataset.with_format("arrow")
        described = [_digests(raw[row : row + 1]) for row in rows]
    else:
        described = [
            {} if not isinstance(sample, Mapping) else _parts_of_sample(sample)
            for sample in (dataset[row] for row in rows)
        ]
    names = set.intersection(*(set(one) for one in described)) if described else set()
    return {"positions": positions, "columns": {name: [one[name] for one in described] for name in sorted(names)}}


def _parts_of_sample(sample: Mapping[str, Any]) -> dict[str, str]:
    """Digests of a sample's numbers and texts, and of its tensors, arrays and images."""
    found = {}
    for name, value in sample.items():
        if isinstance(value, int | str | np.integer) or (isinstance(value, torch.Tensor) and value.numel() == 1):
            found[name] = _digest(value)
        elif isinstance(value, torch.Tensor):
            content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            found[f"{name}{_VALUES}"] = _digest(content.numpy().tobytes())
        elif isinstance(value, np.ndarray | Image):
            found[f"{name}{_VALUES}"] = _digest(value.tobytes())
    return found


def _digests(row: Any) -> dict[str, str]:
    """A digest of each column of a row in Arrow, without long lists of numbers, which take long to read."""
    types = {name: str(row.column(name).type) for name in row.column_names}
    short = [name for name in types if row.column(name).nbytes <= _LONG or "binary" in types[name]]
    values = row.select(short).to_pylist()[0]
    return {part: _digest(own) for name, value in values.items() for part, own in _parts(name, value).items()}


def _parts(name: str, value: Any) -> dict[str, Any]:
    """An image is its bytes, and its file's name: a folder may have been moved, or its files put into the data set."""
    if not (isinstance(value, Mapping) and set(value) == {"bytes", "path"}):
        return {name: value}
    path, content = value["path"], value["bytes"]
    if content is None and path and Path(path).is_file():
        content = Path(path).read_bytes()
    file_name = path and path.replace("\\", "/").split("/")[-1]
    return {part: own for part, own in ((name, content), (f"{name}{_FILE_NAME}", file_name)) if own is not None}


def _digest(value: Any) -> str:
    if isinstance(value, torch.Tensor | np.generic):
        value = value.item()
    data = value if isinstance(value, bytes) else repr(value).encode()
    return hashlib.blake2b(data, digest_size=8).hexdigest()
