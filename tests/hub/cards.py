"""What the Hub checks of a README's metadata when it is committed."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

_METADATA = re.compile(r"\A\ufeff?---\r?\n(.*?)\r?\n---(\r?\n|\Z)", re.DOTALL)
_REPO_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_LICENSES = {
    *("apache-2.0", "mit", "openrail", "bsd", "bsd-2-clause", "bsd-3-clause", "unlicense", "other", "unknown"),
    *("cc", "cc0-1.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "cc-by-nc-sa-4.0"),
    *("gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0"),
}
_RELATIONS = {"adapter", "merge", "quantized", "finetune"}
_LISTS = ("tags", "datasets", "metrics", "language", "license", "base_model")
_TEXTS = ("library_name", "pipeline_tag", "license_name", "license_link", "base_model_relation", "pretty_name")


def check_card(content: str, kind: str) -> tuple[list[str], list[str]]:
    """Errors and warnings about a README of a model or data set.

    The Hub's own schema isn't public as a whole. This is what its documentation of model cards and data set cards
    states, and the fields that `huggingface_hub` writes.
    """
    found = _METADATA.match(content)
    if found is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        metadata = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        return [f"YAML error: {error}"], []
    if not isinstance(metadata, dict):
        return ["YAML metadata must be a mapping"], []
    errors = [*_field_errors(metadata)]
    if kind == "model":
        errors += _model_index_errors(metadata.get("model-index", []))
    return errors, []


def _field_errors(metadata: dict[str, Any]) -> Iterator[str]:
    for name in _LISTS:
        values = metadata.get(name, [])
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str) or not value:
                yield f'"{name}" must be a string or an array of strings'
            elif name == "license" and value not in _LICENSES:
                yield f'"license" must be one of {sorted(_LICENSES)}'
            elif name in ("base_model", "datasets") and not _REPO_ID.fullmatch(value):
                yield f'"{name}" with value "{value}" is not a valid repo id'
    for name in _TEXTS:
        if not isinstance(metadata.get(name, ""), str):
            yield f'"{name}" must be a string'
    if metadata.get("base_model_relation", "finetune") not in _RELATIONS:
        yield f'"base_model_relation" must be one of {sorted(_RELATIONS)}'


def _model_index_errors(index: Any) -> Iterator[str]:
    if not isinstance(index, list):
        yield '"model-index" must be an array'
        return
    for place, model in _items("model-index", index):
        yield from _missing(place, model, {"name": str, "results": list})
        for at, result in _items(f"{place}.results", model.get("results")):
            yield from _missing(at, result, {"task": dict, "dataset": dict, "metrics": list})
            yield from _missing(f"{at}.task", result.get("task"), {"type": str})
            yield from _missing(f"{at}.dataset", result.get("dataset"), {"type": str, "name": str})
            for spot, metric in _items(f"{at}.metrics", result.get("metrics")):
                yield from _missing(spot, metric, {"type": str, "value": (int, float, str, list, dict)})


def _items(place: str, values: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, value in enumerate(values if isinstance(values, list) else []):
        yield f"{place}[{number}]", value if isinstance(value, dict) else {}


def _missing(place: str, value: Any, needed: dict[str, Any]) -> Iterator[str]:
    for name, types in needed.items():
        if not isinstance(value, dict) or name not in value:
            yield f'"{place}.{name}" is required'
        elif not isinstance(value[name], types):
            yield f'"{place}.{name}" has the wrong type'
