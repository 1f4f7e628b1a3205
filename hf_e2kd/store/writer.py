"""Writing shards: each under a temporary name until it is whole, and a plan of them that outlasts a kill."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from .description import check_note
from .files import NO_SPACE, StoreError, free_bytes, read_json, write_json
from .ids import refuse_two_kinds
from .shards import ID, STORE, Field, ShardInfo, fields_to_json, fingerprint

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
    """Write one shard under a temporary name beside its place; only a whole one is moved there.

    Args:
        path: File of the finished shard.
        fields: Columns beside `id`.
        rows: Number of rows that it shall have, to say how much space is needed where there is none left; None where
            not known.
        rows_after: Number of rows of the shards after it, likewise.
        store: Digest of what the store is built with, by which the shard is told from those of other stores.
    """

    def __init__(
        self,
        path: Path,
        fields: Mapping[str, Field],
        rows: int | None = None,
        rows_after: int | None = None,
        store: str = "",
    ):
        self.store = store
        self.path = path
        self.fields = dict(fields)
        self.expected, self.after = rows, rows_after
        self.rows = 0
        # Of this process alone: one that its launcher left behind when it was killed may be writing the same shard.
        self.temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        self._columns: dict[str, list[Any]] = {name: [] for name in (ID, *fields)}
        self._ids: list[Any] = []
        self._places: list[int] = []
        self._waiting = 0
        self._schema: pa.Schema | None = None
        self._sink: _Hashed | None = None
        self._stream: Any = None

    def add(self, rows: Rows, places: Sequence[int]) -> None:
        """Add rows, in any order.

        Args:
            rows: Rows.
            places: Places of the rows in the shard. Rows that stand before some of them may come later: they wait for
                these in memory.

        Raises:
            StoreError: a row's array has another shape than the field's, or its id is of another kind than the others.
            OSError: the disk is full; the partial shard is removed.
        """
        ids = rows[ID]
        refuse_two_kinds([*(self._ids or self._columns[ID])[:1], *ids])
        self._columns[ID].extend(ids)
        self._places.extend(places)
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
        if self._waiting >= _BATCH_BYTES and max(self._places) < self.rows:
            self._guarded(self._flush)

    def close(self) -> ShardInfo:
        """Finish the shard and move it into its place."""
        self._guarded(self._finish)
        assert self._sink is not None
        sink = self._sink
        return ShardInfo(self.path.name, self.rows, sink.bytes, sink.digest.hexdigest(), fingerprint(self._ids))

    def abandon(self) -> None:
        """Remove the temporary file."""
        if self._sink is not None:
            # On a full disk, what is still in the file's buffer can't be written on closing either.
            with suppress(OSError):
                self._sink.file.close()
        self.temporary.unlink(missing_ok=True)

    def _flush(self) -> None:
        ids = self._columns[ID]
        if self._schema is None:
            kind = pa.string() if ids and isinstance(ids[0], str) else pa.int64()
            self._schema = pa.schema([(ID, kind), *((name, pa.binary()) for name in self.fields)], {STORE: self.store})
            self._sink = _Hashed(open(self.temporary, "wb"))  # noqa: SIM115
            self._stream = pa.ipc.new_stream(self._sink, self._schema)
        order = sorted(range(len(self._places)), key=self._places.__getitem__)
        columns = {name: [values[row] for row in order] for name, values in self._columns.items()}
        arrays = [pa.array(columns[column.name], type=column.type) for column in self._schema]
        self._stream.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._ids.extend(columns[ID])
        self._columns = {name: [] for name in self._columns}
        self._places = []
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


class ShardPlan:
    """The shards of a store that is being built. Beside a finished one lies a note of it until the store is described.

    Args:
        folder: Folder of the store.
        rows_per_shard: Number of samples of each shard but the last.
        count: Number of samples of the data; None where it isn't known before its end.

    Attributes:
        store: Digest of the plan, which its shards bear.
    """

    def __init__(self, folder: Path, rows_per_shard: int, count: int | None):
        self.folder = folder
        self.rows_per_shard = rows_per_shard
        self.count = count
        self.store = ""

    def shards(self, count: int) -> int:
        """The number of shards of `count` samples."""
        return -(-count // self.rows_per_shard)

    def rows_of(self, number: int) -> int:
        """The number of rows of shard `number`, where the number of samples is known."""
        assert self.count is not None
        return min(self.rows_per_shard, self.count - number * self.rows_per_shard)

    def missing(self, process_index: int, num_processes: int) -> list[int]:
        """The unfinished shards of one process."""
        assert self.count is not None
        return [
            number
            for number in range(process_index, self.shards(self.count), num_processes)
            if self.note(number) is None
        ]

    def note(self, number: int) -> dict[str, Any] | None:
        """The note of a finished shard; None for one that is not finished."""
        path = self._path(number)
        if not path.with_suffix(".json").is_file():
            return None
        note = read_json(path.with_suffix(".json"))
        check_note(note, path.with_suffix(".json"))
        return note if path.is_file() and path.stat().st_size == note["shard"]["bytes"] else None

    def writer(self, number: int, fields: Mapping[str, Field]) -> ShardWriter:
        """A writer of shard `number`."""
        if self.count is None:
            return ShardWriter(self._path(number), fields, store=self.store)
        after = max(0, self.count - (number + 1) * self.rows_per_shard)
        return ShardWriter(self._path(number), fields, self.rows_of(number), after, self.store)

    def close(self, writer: ShardWriter, number: int, targets: int) -> None:
        """Finish a shard, whose samples have up to `targets` explained classes."""
        info = writer.close()
        note = {"shard": asdict(info), "fields": fields_to_json(writer.fields), "targets": targets}
        write_json(self._path(number).with_suffix(".json"), note)

    def finished(self, count: int) -> list[dict[str, Any]] | None:
        """The notes of all shards of `count` samples, or None where one is missing.

        Raises:
            StoreError: a shard of other data or other grids than the rest.
        """
        notes = [self.note(number) for number in range(self.shards(count))]
        done = [note for note in notes if note is not None]
        if len(done) < len(notes):
            return None
        for number, note in enumerate(done):
            expected = min(self.rows_per_shard, count - number * self.rows_per_shard)
            if note["shard"]["rows"] != expected:
                raise StoreError(
                    f"The shard {note['shard']['name']} has {note['shard']['rows']} rows instead of {expected}: the "
                    "data has changed since it was made. Build into an empty folder."
                )
            if note["fields"] != done[0]["fields"]:
                raise StoreError(
                    f"The shard {note['shard']['name']} has other columns than {done[0]['shard']['name']}: "
                    f"{note['fields']} and {done[0]['fields']}. Show the teacher images of one size, and build into an "
                    "empty folder."
                )
        return done

    def _path(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.arrow"
