"""A store on disk: shards of rows in Arrow, each checksummed and moved into its place whole.

A shard is an Arrow stream with a column `id` and columns of bytes. What the bytes are, little-endian numbers of one
type in an array of one shape, is stated once for the whole store (`Field`): a row of 2 kB costs about ten
microseconds so, and hundreds as nested lists. `datasets.Dataset.from_file` opens a shard.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

ID = "id"
# Rows are kept in memory until they fill a record batch of this many bytes, so that a reader finds few of them.
_BATCH_BYTES = 16 * 2**20
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

Rows = Mapping[str, Sequence[Any]]
"""The column `id`, and an array for each row of each field."""


class StoreError(ValueError):
    """A store that is incomplete, damaged, or another than is needed. It says what to do."""


@dataclass(frozen=True)
class Field:
    """What the bytes of one column are.

    Args:
        dtype: Numpy's name of the numbers' type; they are little-endian.
        shape: Of one row; −1 first stands for a length that differs from row to row.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def is_fixed(self) -> bool:
        return -1 not in self.shape

    @property
    def unit(self) -> int:
        """Bytes of a row; where its length differs, of each of its parts."""
        return self._little_endian.itemsize * int(np.prod([side for side in self.shape if side >= 0], dtype=int))

    def encode(self, row: Any) -> bytes:
        return np.asarray(row).astype(self._little_endian, copy=False).tobytes()

    def decode(self, data: np.ndarray) -> np.ndarray:
        """A row's array of its bytes (n,), or of several rows' bytes (B, n) where the shape is fixed."""
        return data.view(self._little_endian).reshape(*data.shape[:-1], *self.shape)

    @property
    def _little_endian(self) -> np.dtype:
        return np.dtype(self.dtype).newbyteorder("<")


@dataclass(frozen=True)
class ShardInfo:
    """One finished shard: its file's name, how many rows and bytes it has, and the bytes' SHA-256."""

    name: str
    rows: int
    bytes: int
    sha256: str


def write_text(path: Path, content: str) -> None:
    """Writes a file that is either there whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in _NO_SPACE:
            needed = len(content.encode())
            raise OSError(
                error.errno,
                f"No space left on the disk for {path}: it needs {needed} bytes; {_free(path)} are free. Make room and "
                "call it again: finished shards are kept.",
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"{path} is damaged: {error}. Get the file anew, or build the store anew.") from error


def _free(path: Path) -> int:
    """Bytes that are left on a file's disk."""
    return shutil.disk_usage(path.parent).free


# ---- Writing ---------------------------------------------------------------------------------------------------------


class _Hashed:
    """A file that knows the checksum of what was written to it. Arrow writes to it."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.digest = hashlib.sha256()
        self.bytes = 0
        self.closed = False

    def write(self, data: Any) -> int:
        self.file.write(data)
        self.digest.update(data)
        self.bytes += len(data)
        return len(data)

    def flush(self) -> None:
        self.file.flush()


class ShardWriter:
    """Writes one shard under a temporary name beside its place; only a whole one is moved there.

    Args:
        path: Where the shard shall be.
        fields: Its columns beside `id`.
        rows: How many rows it shall have, and `rows_after` how many the shards after it, to say how much space is
            needed where there is none left; None where not known.
    """

    def __init__(self, path: Path, fields: Mapping[str, Field], rows: int | None = None, rows_after: int | None = None):
        self.path = path
        self.fields = dict(fields)
        self.expected, self.after = rows, rows_after
        self.rows = 0
        # Of this process alone: one that its launcher left behind when it was killed may be writing the same shard.
        self.temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        self._columns: dict[str, list[Any]] = {name: [] for name in (ID, *fields)}
        self._waiting = 0
        self._schema: pa.Schema | None = None
        self._sink: _Hashed | None = None
        self._stream: Any = None

    def add(self, rows: Rows) -> None:
        """Appends rows.

        Raises:
            StoreError: a row's array has another shape than the field's.
            OSError: the disk is full; the partial shard is removed.
        """
        ids = rows[ID]
        self._columns[ID].extend(ids)
        for name, field in self.fields.items():
            for row in rows[name]:
                if field.is_fixed and np.shape(row) != field.shape:
                    raise StoreError(
                        f"A sample's {name} has the shape {np.shape(row)} and the store's others {field.shape}. Show "
                        "the teacher images of one size."
                    )
                data = field.encode(row)
                self._columns[name].append(data)
                self._waiting += len(data)
        self.rows += len(ids)
        if self._waiting >= _BATCH_BYTES:
            self._guarded(self._flush)

    def close(self) -> ShardInfo:
        """Finishes the shard and moves it into its place."""
        self._guarded(self._finish)
        assert self._sink is not None
        return ShardInfo(self.path.name, self.rows, self._sink.bytes, self._sink.digest.hexdigest())

    def abandon(self) -> None:
        """Removes what was written."""
        if self._sink is not None:
            # On a full disk, what is still in the file's buffer can't be written on closing either.
            with suppress(OSError):
                self._sink.file.close()
        self.temporary.unlink(missing_ok=True)

    def _flush(self) -> None:
        ids = self._columns[ID]
        if self._schema is None:
            kind = pa.string() if ids and isinstance(ids[0], str) else pa.int64()
            self._schema = pa.schema([(ID, kind), *((name, pa.binary()) for name in self.fields)])
            self._sink = _Hashed(open(self.temporary, "wb"))  # noqa: SIM115
            self._stream = pa.ipc.new_stream(self._sink, self._schema)
        columns = [pa.array(self._columns[column.name], type=column.type) for column in self._schema]
        self._stream.write_batch(pa.record_batch(columns, schema=self._schema))
        self._columns = {name: [] for name in self._columns}
        self._waiting = 0

    def _finish(self) -> None:
        if self._columns[ID] or self._schema is None:
            self._flush()
        assert self._sink is not None
        self._stream.close()
        self._sink.flush()
        os.fsync(self._sink.file.fileno())
        self._sink.file.close()
        os.replace(self.temporary, self.path)

    def _guarded(self, write: Any) -> None:
        try:
            write()
        except BaseException as error:
            self._stream = None
            written = self._bytes_so_far()
            self.abandon()
            if isinstance(error, OSError) and error.errno in _NO_SPACE:
                raise OSError(error.errno, self._no_space(written)) from error
            raise

    def _bytes_so_far(self) -> int:
        return (0 if self._sink is None else self._sink.bytes) + self._waiting

    def _no_space(self, written: int) -> str:
        each = written / max(1, self.rows)
        needed = round(each * (self.expected or self.rows))
        after = "" if not self.after else f", and the shards after it about {round(each * self.after)} bytes more"
        return (
            f"No space left on the disk for {self.path}: this shard needs about {needed} bytes{after}; "
            f"{_free(self.path)} are free. The partial shard was removed. Make room and build "
            "again: finished shards are kept."
        )


# ---- Reading ---------------------------------------------------------------------------------------------------------


class _Column:
    """One field of one shard: the rows' bytes where they lie in the mapped file."""

    def __init__(self, chunks: Sequence[pa.Array], field: Field):
        self.parts: list[tuple[int, np.ndarray, np.ndarray]] = []
        first = 0
        for chunk in chunks:
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

    def __init__(self, path: Path, info: ShardInfo, fields: Mapping[str, Field]):
        try:
            # Mapped: rows are read from the page cache, which all processes of a machine share.
            with pa.memory_map(str(path)) as source:
                table = pa.ipc.open_stream(source).read_all()
            if table.num_rows != info.rows:
                raise pa.ArrowInvalid(f"{table.num_rows} rows instead of {info.rows}")
            self.ids = table.column(ID)
            self.columns = {name: _Column(table.column(name).chunks, field) for name, field in fields.items()}
        except (pa.ArrowException, KeyError, OSError) as error:
            raise damaged(path, str(error)) from error


def damaged(path: Path, what: str) -> StoreError:
    return StoreError(
        f"The shard {path} is damaged: {what}. Delete it and build again with the same teacher and data, or get the "
        "file anew."
    )


class Shards:
    """The rows of a store, by their number. Files are opened as they are needed, in each process for itself.

    Args:
        folder: Where the shards are.
        infos: The shards in their order.
        fields: Their columns beside `id`.
    """

    def __init__(self, folder: Path, infos: Sequence[ShardInfo], fields: Mapping[str, Field]):
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
        """Whether every shard is there and has its size.

        Args:
            verify: Read every byte and compare the checksums too.

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
            size = path.stat().st_size
            if size != info.bytes:
                raise damaged(path, f"it has {size} bytes instead of {info.bytes}")
            if verify:
                with open(path, "rb") as file:
                    found = _sha256(file)
                if found != info.sha256:
                    raise damaged(path, f"its SHA-256 is {found} instead of {info.sha256}")

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
            self._open[number] = _Shard(self.folder / info.name, info, self.fields)
        return self._open[number]


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(2**20):
        digest.update(block)
    return digest.hexdigest()


def fields_to_json(fields: Mapping[str, Field]) -> dict[str, Any]:
    return {name: {"dtype": field.dtype, "shape": list(field.shape)} for name, field in fields.items()}


def fields_from_json(content: Mapping[str, Any]) -> dict[str, Field]:
    return {name: Field(field["dtype"], tuple(field["shape"])) for name, field in content.items()}
