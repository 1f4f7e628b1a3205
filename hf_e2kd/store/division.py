"""How a store that is being built is divided into shards, and which of them are finished: what outlasts a kill."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .errors import StoreError
from .fields import Field, fields_to_json
from .files import read_json, write_json
from .shard_writer import ShardWriter


class ShardPlan:
    """The shards of a store. Beside a finished one lies a note of what it is, until the whole store is described.

    Args:
        folder: Of the store.
        rows_per_shard: Samples of each shard but the last.
        count: Samples of the data; None where it isn't known before its end.
    """

    def __init__(self, folder: Path, rows_per_shard: int, count: int | None):
        self.folder = folder
        self.rows_per_shard = rows_per_shard
        self.count = count

    def shards(self, count: int) -> int:
        """How many shards so many samples make."""
        return -(-count // self.rows_per_shard)

    def rows_of(self, number: int) -> int:
        """How many rows a shard of a known number of samples has."""
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
        """What was written down of a finished shard; None for one that is not finished."""
        path = self._path(number)
        if not path.with_suffix(".json").is_file():
            return None
        note = read_json(path.with_suffix(".json"))
        return note if path.is_file() and path.stat().st_size == note["shard"]["bytes"] else None

    def writer(self, number: int, fields: Mapping[str, Field]) -> ShardWriter:
        """What writes a shard."""
        if self.count is None:
            return ShardWriter(self._path(number), fields)
        after = max(0, self.count - (number + 1) * self.rows_per_shard)
        return ShardWriter(self._path(number), fields, self.rows_of(number), after)

    def close(self, writer: ShardWriter, number: int, targets: int) -> None:
        """Finishes a shard, whose samples have up to `targets` explained classes."""
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
