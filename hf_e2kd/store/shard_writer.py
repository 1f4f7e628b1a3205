"""Writes a shard: under a temporary name, and moved into its place whole."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from .errors import StoreError
from .fields import Field
from .files import NO_SPACE, free_bytes
from .shards import ID, ShardInfo

# Rows are kept in memory until they fill a record batch of this many bytes, so that a reader finds few of them.
_BATCH_BYTES = 16 * 2**20

Rows = Mapping[str, Sequence[Any]]
"""The column `id`, and an array for each row of each field."""


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
            if isinstance(error, OSError) and error.errno in NO_SPACE:
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
            f"{free_bytes(self.path)} are free. The partial shard was removed. Make room and build "
            "again: finished shards are kept."
        )
