"""Text files of a store: its description, and writing that leaves a file whole or untouched."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

FORMAT = 2
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
    # Arrays within arrays without end are no JSON of ours, but Python's parser alone says so by a RecursionError.
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is damaged: {error}. Get the file anew, or build the store anew.") from error


def free_bytes(path: Path) -> int:
    """Bytes that are left on a file's disk."""
    return shutil.disk_usage(path.parent).free


def require_inside(folder: Path, path: Path) -> None:
    """Refuse a file of a store that is a link to somewhere else.

    The Hub's cache keeps the files of a snapshot as links to its own folder of blobs.

    Raises:
        StoreError: naming the link.
    """
    own, target = folder.resolve(), path.resolve()
    places = [own]
    if own.parent.name == "snapshots":
        places.append(own.parent.parent / "blobs")
    if not any(target.is_relative_to(place) for place in places):
        raise StoreError(f"{path} is a link to another folder. Put the file itself into the store's folder.")
