"""The description of a store: `store.json`, and what stands in its place until the store is finished."""

from pathlib import Path
from typing import Any

from .errors import StoreError
from .files import read_json

FORMAT = 1
STORE_FILE = "store.json"
PLAN_FILE = "unfinished.json"


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
