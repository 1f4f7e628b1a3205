"""Files of text that are there whole or not at all."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

from .errors import StoreError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


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
    """Writes JSON, as `write_text` does."""
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
