"""The shards of a store: rows in Arrow, each file checksummed.

A shard is an Arrow stream with a column `id` and columns of bytes. What the bytes are, little-endian numbers of one
type in an array of one shape, is stated once for the whole store (`Field`): a row of 2 kB costs about ten
microseconds so, and hundreds as nested lists. `datasets.Dataset.from_file` opens a shard.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from .files import StoreError, require_inside

ID = "id"

STORE = b"hf_e2kd.store"
"""Key of a shard's metadata under which the digest of its store stands."""

Id = int | str


@dataclass(frozen=True)
class Field:
    """The layout of one column's bytes.

    Args:
        dtype: NumPy's name of the numbers' type; they are little-endian.
        shape: Shape of one row; −1 first stands for a length that differs from row to row.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def is_fixed(self) -> bool:
        """True where all rows have one shape."""
        return -1 not in self.shape

    @property
    def unit(self) -> int:
        """Bytes of a row; where its length differs, of each of its parts."""
        return self._little_endian.itemsize * int(np.prod([side for side in self.shape if side >= 0], dtype=int))

    def encode(self, row: Any) -> bytes:
        """A row's array as bytes."""
        return np.asarray(row).astype(self._little_endian, copy=False).tobytes()

    def decode(self, data: np.ndarray) -> np.ndarray:
        """A row's array of its bytes (n,), or of several rows' bytes (B, n) where the shape is fixed."""
        return data.view(self._little_endian).reshape(*data.shape[:-1], *self.shape)

    @property
    def _little_endian(self) -> np.dtype:
        return np.dtype(self.dtype).newbyteorder("<")


def fields_to_json(fields: Mapping[str, Field]) -> dict[str, Any]:
    """The fields as they stand in store.json."""
    return {name: {"dtype": field.dtype, "shape": list(field.shape)} for name, field in fields.items()}


def fields_from_json(content: Mapping[str, Any]) -> dict[str, Field]:
    """The fields that `fields_to_json` wrote."""
    return {name: Field(field["dtype"], tuple(field["shape"])) for name, field in content.items()}


@dataclass(frozen=True)
class ShardInfo:
    """One finished shard.

    Args:
        name: Name of its file.
        rows, bytes: Its numbers of rows and bytes.
        sha256: Digest of its bytes.
        ids: Digest of its rows' ids, by which it is told from another of the store.
    """

    name: str
    rows: int
    bytes: int
    sha256: str
    ids: str


def fingerprint(ids: Iterable[Id]) -> str:
    """A digest of ids in their order."""
    digest = hashlib.sha256()
    for value in ids:
        data = str(value).encode()
        digest.update(b"%d:%s," % (len(data), data))
    return digest.hexdigest()


class _Column:
    """One field of one shard: the rows' bytes where they lie in the mapped file."""

    def __init__(self, chunks: Sequence[pa.Array], field: Field):
        self.parts: list[tuple[int, np.ndarray, np.ndarray]] = []
        first = 0
        for chunk in filter(len, chunks):
            _, offsets, data = chunk.buffers()
            places = np.frombuffer(offsets, np.int32, len(chunk) + 1, chunk.offset * 4)
            held = np.frombuffer(data, np.uint8) if data is not None and data.size else np.empty(0, np.uint8)
            sizes = np.diff(places)
            # Else a damaged file would give a row's bytes from anywhere.
            if places[0] < 0 or places[-1] > len(held) or not ((sizes % field.unit == 0) & (sizes >= 0)).all():
                raise pa.ArrowInvalid("its rows don't have the size that the store states")
            if field.is_fixed and (sizes != field.unit).any():
                raise pa.ArrowInvalid(f"its rows don't have {field.unit} bytes")
            self.parts.append((first, places, held))
            first += len(chunk)

    def __getitem__(self, row: int) -> np.ndarray:
        first, places, held = self.parts[0]
        if len(self.parts) > 1:
            first, places, held = next(part for part in reversed(self.parts) if part[0] <= row)
        return held[places[row - first] : places[row - first + 1]]


class _Shard:
    """A shard, opened."""

    def __init__(self, path: Path, info: ShardInfo, fields: Mapping[str, Field], store: str | None = None):
        try:
            # Mapped: rows are read from the page cache, which all processes of a machine share.
            with pa.memory_map(str(path)) as source:
                table = pa.ipc.open_stream(source).read_all()
            # Shards of earlier versions don't say it.
            if (table.schema.metadata or {}).get(STORE, b"").decode("ascii", "replace") not in ("", store or ""):
                raise pa.ArrowInvalid("it belongs to another store, of another teacher, data or precision")
            if table.num_rows != info.rows:
                raise pa.ArrowInvalid(f"{table.num_rows} rows instead of {info.rows}")
            _check_types(table, fields)
            # Sizes of all buffers; of the ids also each text's place, which Arrow would read from anywhere.
            table.validate()
            self.ids = table.column(ID)
            self.ids.validate(full=True)
            found = fingerprint(self.ids.to_pylist())
            if found != info.ids:
                raise pa.ArrowInvalid("its ids are others than store.json states, as of shards that were swapped")
            self.columns = {name: _Column(table.column(name).chunks, field) for name, field in fields.items()}
        # The last is of a column's name that isn't UTF-8.
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _damaged(path, str(error)) from error


def _check_types(table: pa.Table, fields: Mapping[str, Field]) -> None:
    """Refuse columns of other types than `ShardWriter` writes, and rows without a value."""
    expected = {ID: (pa.int64(), pa.string()), **dict.fromkeys(fields, (pa.binary(),))}
    if sorted(table.column_names) != sorted(expected) and fields:
        raise pa.ArrowInvalid(f"its columns are {table.column_names} instead of {[*expected]}")
    for name, types in expected.items():
        column = table.column(name)
        if column.type not in types:
            raise pa.ArrowInvalid(f"its column '{name}' is of {column.type} instead of {types[-1]}")
        if column.null_count:
            raise pa.ArrowInvalid(f"{column.null_count} rows of its column '{name}' are empty")


def _damaged(path: Path, what: str) -> StoreError:
    return StoreError(
        f"The shard {path} is damaged: {what}. Delete it and build again with the same teacher and data, or get the "
        "file anew."
    )


class Shards:
    """The rows of a store, by their number. Files are opened as they are needed, in each process for itself.

    Args:
        folder: Folder of the shards.
        infos: The shards in their order.
        fields: Their columns beside `id`.
        store: Digest of what the store was built with, which its shards bear; None of a store that doesn't say it.
    """

    def __init__(self, folder: Path, infos: Sequence[ShardInfo], fields: Mapping[str, Field], store: str | None = None):
        self.store = store
        self.folder = folder
        self.infos = list(infos)
        self.fields = dict(fields)
        self.starts = np.cumsum([0, *(info.rows for info in infos)])
        self._open: dict[int, _Shard] = {}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        # A worker that is started anew (spawn) maps the files itself.
        return {**vars(self), "_open": {}}

    def check(self, verify: bool = False) -> None:
        """Check that every shard is there and has its size.

        Args:
            verify: Compare the checksums of all bytes too.

        Raises:
            StoreError: naming the shard.
        """
        for info in self.infos:
            path = self.folder / info.name
            if not path.is_file():
                half = any(self.folder.glob(f"{path.name}.*tmp"))
                raise StoreError(
                    f"The shard {path} is missing{'; it was only half written' if half else ''}. Build again with the "
                    "same teacher and data, or get the file anew."
                )
            require_inside(self.folder, path)
            size = path.stat().st_size
            if size != info.bytes:
                raise _damaged(path, f"it has {size} bytes instead of {info.bytes}")
            if verify:
                with open(path, "rb") as file:
                    found = _sha256(file)
                if found != info.sha256:
                    raise _damaged(path, f"its SHA-256 is {found} instead of {info.sha256}")

    def ids(self) -> Iterable[Any]:
        """All ids, in order, shard by shard."""
        for number in range(len(self.infos)):
            yield from self._shard(number).ids.to_pylist()

    def ids_of(self, rows: np.ndarray) -> list[Any]:
        """The ids of some rows."""
        return [self._shard(number).ids[place].as_py() for number, place in self._places(rows)]

    def read(self, rows: np.ndarray, names: Iterable[str] | None = None) -> dict[str, Any]:
        """The fields of some rows: (B, *shape) where the shape is fixed, else a list of (B) arrays."""
        places = [(self._shard(number), place) for number, place in self._places(rows)]
        read: dict[str, Any] = {}
        for name in self.fields if names is None else names:
            field = self.fields[name]
            found = [shard.columns[name][place] for shard, place in places]
            read[name] = (
                field.decode(np.stack(found)) if field.is_fixed else [field.decode(data.copy()) for data in found]
            )
        return read

    def _places(self, rows: np.ndarray) -> list[tuple[int, int]]:
        numbers = np.searchsorted(self.starts, rows, side="right") - 1
        return list(zip(numbers.tolist(), (rows - self.starts[numbers]).tolist(), strict=True))

    def _shard(self, number: int) -> _Shard:
        if number not in self._open:
            info = self.infos[number]
            self._open[number] = _Shard(self.folder / info.name, info, self.fields, self.store)
        return self._open[number]


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(2**20):
        digest.update(block)
    return digest.hexdigest()
