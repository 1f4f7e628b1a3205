"""A store's description, store.json: read and checked, because it may come from anywhere."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import FORMAT, PLAN_FILE, STORE_FILE, StoreError, read_json, require_inside
from .targets import TARGETS
from .text import CHECKSUM, FIRST, SCORES, SPANS

MOST_CLASSES = 1_000_000
"""Largest number of a teacher's classes: a row's logits are decoded to as many numbers."""

_SHARD_NAME = re.compile(r"shard-\d{5,9}\.arrow", re.ASCII)
# An id is a 64-bit number, or at least a 32-bit offset.
_LEAST_ROW_BYTES = 4
_MOST_ROW_BYTES = 2**31

_TEXT_OR_NONE = (str, type(None))
_IDS = {"column": _TEXT_OR_NONE}
_KEY = {
    "teacher": {
        "name": str,
        "revision": _TEXT_OR_NONE,
        "architecture": str,
        "weights": str,
        "classes": (list, type(None)),
        "num_classes": (int, type(None)),
    },
    "explainer": {"name": str, "options": dict},
    "target": {"rule": str},
    "precision": {"dtype": str, "top_k": (int, type(None))},
}
_SHARD = {"name": str, "rows": int, "bytes": int, "sha256": str, "ids": str}
_PLAN: dict[str, Any] = {"key": _KEY, "ids": _IDS, "count": (int, type(None))}
_STORE: dict[str, Any] = {
    **_PLAN,
    "count": int,
    "targets": int,
    "layout": str,
    "ids": {**_IDS, "fingerprint": str, "probes": (dict, type(None))},
    "fields": dict,
    "shards": list,
    "field_of_view": (dict, type(None)),
}

_FLOATS = ("float16", "float32")


def read_description(folder: Path) -> dict[str, Any]:
    """The content of store.json, checked: every part that is read has its type, and numbers that go together do.

    Raises:
        StoreError: there is no finished store, or its description is damaged or names files elsewhere.
    """
    path = folder / STORE_FILE
    if not path.is_file():
        if (folder / PLAN_FILE).is_file():
            done = len(list(folder.glob("shard-*.arrow")))
            raise StoreError(
                f"The store {folder} is not finished: {done} shards are there. Call StoredReference.build again with "
                "the same teacher and data; it goes on where it stopped."
            )
        raise StoreError(
            f"There is no store in {folder}: {path} is missing. Build one by StoredReference.build, or load a "
            "published one by StoredReference.from_hub."
        )
    require_inside(folder, path)
    content = _read(path)
    _require(content, _STORE, path)
    # Earlier versions stated no digest.
    _require({"digest": content.get("digest")}, {"digest": _TEXT_OR_NONE}, path)
    _check_shards(content["shards"], path)
    _check_key(content, path)
    _check_fields(content, path)
    _check_probes(content["ids"], path)
    return content


def read_plan(folder: Path) -> dict[str, Any]:
    """The content of the plan of an unfinished store.

    Raises:
        StoreError: it is damaged.
    """
    path = folder / PLAN_FILE
    content = _read(path)
    _require(content, _PLAN, path)
    return content


def plan_digest(plan: Mapping[str, Any]) -> str:
    """The digest of what a store is built with: teacher, method, precision and data."""
    parts = [plan["key"], *(plan["ids"].get(name) for name in ("column", "fingerprint", "probes"))]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def check_note(note: Any, path: Path) -> None:
    """Refuse the note of a finished shard that is damaged."""
    _require(note, {"shard": _SHARD, "fields": dict, "targets": int}, path)


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise _damaged(path, f"it holds a {type(content).__name__} instead of an object")
    if content.get("format") != FORMAT:
        raise StoreError(
            f"{path} has the format {content.get('format')!r}, and this version reads {FORMAT}. Build the store "
            "anew, or use the version that built it."
        )
    return content


def _require(content: Any, schema: Mapping[str, Any], path: Path, place: str = "") -> None:
    """Check the types of an object's parts, and of theirs."""
    if not isinstance(content, dict):
        raise _damaged(path, f"{place or 'it'} is {content!r:.40} instead of an object")
    for name, expected in schema.items():
        where = f"{place}.{name}".lstrip(".")
        if name not in content:
            raise _damaged(path, f"it has no {where}")
        if isinstance(expected, dict):
            _require(content[name], expected, path, where)
        # JSON's true is a number to Python.
        elif not isinstance(content[name], expected) or isinstance(content[name], bool):
            raise _damaged(path, f"{where} is {content[name]!r:.40}")


def _check_shards(shards: list[Any], path: Path) -> None:
    names = set()
    for number, shard in enumerate(shards):
        _require(shard, _SHARD, path, f"shards[{number}]")
        if not _SHARD_NAME.fullmatch(shard["name"]) or shard["name"] in names:
            raise _damaged(path, f"shards[{number}] is called {shard['name']!r:.80}, not 'shard-{number:05d}.arrow'")
        names.add(shard["name"])
        if not 1 <= shard["rows"] <= shard["bytes"] // _LEAST_ROW_BYTES:
            raise _damaged(path, f"{shard['name']} has {shard['rows']} rows in {shard['bytes']} bytes")


def _check_key(content: Mapping[str, Any], path: Path) -> None:
    teacher, rule = content["key"]["teacher"], content["key"]["target"]["rule"]
    classes, names = teacher["num_classes"], teacher["classes"]
    if rule not in TARGETS:
        raise _damaged(path, f"the explained class is {rule!r:.40}. Available: {', '.join(TARGETS)}")
    if content["layout"] not in ("image", "text"):
        raise _damaged(path, f"its layout is {content['layout']!r:.40}. Available: image, text")
    if classes is not None and not 1 <= classes <= MOST_CLASSES:
        raise _damaged(path, f"the teacher has {classes} classes. Expected 1 to {MOST_CLASSES}")
    if names is not None and (len(names) != classes or not all(isinstance(name, str) for name in names)):
        raise _damaged(path, f"the names of the teacher's {classes} classes are {len(names)}, or no texts")


def _check_fields(content: Mapping[str, Any], path: Path) -> None:
    """Check that the columns are those which `RowEncoder` writes; a star stands for any number."""
    fields, classes = content["fields"], content["key"]["teacher"]["num_classes"]
    own = [-1] if content["key"]["target"]["rule"] == "positives" else []
    expected: dict[str, tuple[tuple[str, ...], list[Any]]] = {"logits": (_FLOATS, ["*"]), "target": (("int32",), own)}
    if content["layout"] == "text":
        expected |= {
            SCORES: (_FLOATS, [-1]),
            f"{SCORES}_scale": (("float32",), own),
            SPANS: (("int32",), [-1, 2]),
            FIRST: (("int32",), []),
            CHECKSUM: (("uint32",), []),
        }
    else:
        expected |= {"map": (_FLOATS, [*own, "*", "*"]), "map_scale": (("float32",), own)}
    if "vectors" in fields:
        expected |= {"vectors": (_FLOATS, [*own, "*", "*", "*"]), "vectors_scale": (("float32",), own)}
    stored = fields["logits"].get("shape") if isinstance(fields.get("logits"), dict) else None
    if "indices" in fields:
        expected |= {"indices": (("uint16", "int32"), stored or ["*"]), "rest": (("float32",), [])}
    if set(fields) != set(expected):
        raise _damaged(path, f"its columns are {sorted(fields)} instead of {sorted(expected)}")
    for name, (dtypes, shape) in expected.items():
        _require(fields[name], {"dtype": str, "shape": list}, path, f"fields.{name}")
        if fields[name]["dtype"] not in dtypes or not _fits(fields[name]["shape"], shape):
            raise _damaged(path, f"fields.{name} is {fields[name]!r:.80}")
    (logits,) = fields["logits"]["shape"]
    if "indices" in fields:
        if classes is None or logits >= classes:
            raise _damaged(path, f"it stores the largest {logits} logits of {classes} classes")
    elif classes not in (None, logits):
        raise _damaged(path, f"it stores {logits} logits of {classes} classes")
    if not 1 <= content["targets"] <= (classes or logits):
        raise _damaged(path, f"a sample has up to {content['targets']} explained classes of {classes or logits}")


def _fits(shape: list[Any], expected: list[Any]) -> bool:
    """Tell whether a shape is the expected one, and of a size that a row can have."""
    if len(shape) != len(expected):
        return False
    size = 1
    for found, wanted in zip(shape, expected, strict=True):
        if isinstance(found, bool) or not isinstance(found, int) or (found < 1 if wanted == "*" else found != wanted):
            return False
        size *= abs(found)
    return size <= _MOST_ROW_BYTES


def _check_probes(ids: Mapping[str, Any], path: Path) -> None:
    probes = ids["probes"]
    if probes is None and ids["column"] is not None:
        return
    _require(probes, {"positions": list, "columns": dict}, path, "ids.probes")
    positions = probes["positions"]
    if not all(isinstance(place, int) and not isinstance(place, bool) and place >= 0 for place in positions) or not all(
        isinstance(digests, list)
        and len(digests) == len(positions)
        and all(isinstance(digest, str) for digest in digests)
        for digests in probes["columns"].values()
    ):
        raise _damaged(path, "ids.probes doesn't hold one digest of each column a position")


def _damaged(path: Path, what: str) -> StoreError:
    return StoreError(f"{path} is damaged: {what}. Get the file anew, or build the store anew.")
