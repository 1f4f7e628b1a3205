"""Text files of a store: its description, and writing that leaves a file whole or untouched."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

FORMAT = 1
STORE_FILE = "store.json"
PLAN_FILE = "unfinished.json"

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class StoreError(ValueError):
    """A store that is incomplete, damaged, or another than is needed. It says what to do."""


def write_text(path: Path, content: str) -> None:
    """Write a file that is either there whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in NO_SPACE:
            needed = len(content.encode())
            raise OSError(
                error.errno,
                f"No space left on the disk for {path}: it needs {needed} bytes; {free_bytes(path)} are free. "
                "Make room and call it again: finished shards are kept.",
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, as `write_text` does."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        StoreError: the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"{path} is damaged: {error}. Get the file anew, or build the store anew.") from error


def free_bytes(path: Path) -> int:
    """Bytes that are left on a file's disk."""
    return shutil.disk_usage(path.parent).free


def read_description(folder: Path) -> dict[str, Any]:
    """The content of store.json.

    Raises:
        StoreError: there is no finished store.
    """
    path = folder / STORE_FILE
    if not path.is_file():
        if (folder / PLAN_FILE).is_file():
            done = len(list(folder.glob("shard-*.arrow")))
            raise StoreError(
                f"The store {folder} is not finished: {done} shards are there. Call StoredReference.build again with "
                "the same teacher and data; it goes on where it stopped."
            )
        raise StoreError(f"There is no store in {folder}: {path} is missing. Build one by StoredReference.build.")
    description = read_json(path)
    if description.get("format") != FORMAT:
        raise StoreError(
            f"{path} has the format {description.get('format')}, and this version reads {FORMAT}. Build the store "
            "anew, or use the version that built it."
        )
    return description
