"""Says which models and data a record is of, without the paths, hosts and users of the machine that made it."""

import hashlib
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Image
from huggingface_hub import HfApi, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id
from torch import nn
from torch.utils.data import Subset

from ..explainers import Explainer
from ..private import LEFT_OUT, without_private
from ..store.joining import unattached
from ..store.key import cached_commits, explainer_key, loaded_revision, weights_digest
from ..version import __version__
from .cost import device_name
from .record import Cost, DataRecord, ModelRecord

PACKAGES = ("torch", "torchvision", "transformers", "timm", "datasets", "accelerate")

_TIMEOUT = 5.0
_PAUSE = 600.0
_ask_from = 0.0
"""When the Hub may be asked again, by the monotonic clock."""

# What `explainer_key` states of a tensor, in JSON.
_TENSOR = re.compile(r'"tensor \([\d, ]*\) [0-9a-f]{64}"')
_ON_THE_HUB = re.compile(r"^hf://datasets/(?P<id>[^@]+)@(?P<revision>[^/]+)/")


def describe_model(model: nn.Module, cost: Cost | None = None, *, published: bool = True) -> ModelRecord:
    """A model's id and revision where it came from the Hub, and the digest of its weights in any case.

    Args:
        published: Whether its weights are still those that it was loaded with; False of a student that was trained,
            whose configuration names what it started from.
    """
    config = getattr(model, "config", None)
    source = loaded_from_hub(getattr(config, "_name_or_path", None)) if published else None
    return ModelRecord(
        id=source,
        revision=loaded_revision(source),
        architecture=getattr(config, "architecture", None) or type(model).__name__,
        weights=f"sha256:{weights_digest(model)}",
        license=license_of(source) if source else None,
        cost=cost,
    )


def describe_data(dataset: Any, known: DataRecord | None = None, split: str | None = None) -> DataRecord:
    """Where a data set is from, as far as it says so itself.

    Args:
        known: What is known of it beside, which goes before what it says.
        split: What it is called in an evaluation of several.
    """
    if known is not None:
        return known
    source = unattached(dataset)
    while isinstance(source, Subset):
        source = source.dataset
    info = getattr(source, "info", None)
    found = [_ON_THE_HUB.match(address) for address in getattr(info, "download_checksums", None) or ()]
    match = next((each for each in found if each), None)
    data_id = match["id"] if match else None
    stated = getattr(source, "split", None)
    rows = len(dataset) if hasattr(dataset, "__len__") else None
    return DataRecord(
        id=data_id,
        name=data_id or "a local data set",  # its own name may be that of a folder
        split=split if stated is None else str(stated),
        config=getattr(info, "config_name", None) if match else None,
        revision=match["revision"] if match else None,
        rows=rows,
        license=(getattr(info, "license", None) or None) or (license_of(data_id, "dataset") if data_id else None),
    )


def data_digest(dataset: Any, columns: Sequence[str]) -> str | None:
    """SHA-256 of rows' columns, of images the undecoded bytes; None of data that `datasets` doesn't hold."""
    source = unattached(dataset)
    if not isinstance(source, Dataset):
        return None
    source = source.with_format(None)
    columns = [column for column in columns if column in source.column_names]
    if not columns:
        return None
    source = source.select_columns(columns)
    for column in columns:
        if isinstance(source.features[column], Image):
            source = source.cast_column(column, Image(decode=False))
    digest = hashlib.sha256()
    for row in source:
        for column in columns:
            digest.update(_bytes(row[column]))
    return f"sha256:{digest.hexdigest()}"


def describe_explainer(explainer: Explainer) -> dict[str, Any]:
    """Name and options, as `build_explainer` takes them; those that no file can hold or others may not see left out."""
    key = explainer_key(explainer)
    options = {
        name: stated if isinstance(getattr(explainer, name), torch.Tensor) else _plain(getattr(explainer, name))
        for name, stated in key["options"].items()
    }
    return without_private({**key, "options": options}, "record of the explainer")


def unstated_options(explainer: Mapping[str, Any]) -> list[str]:
    """Which options of a described explainer can't be built from what is stated: tensors, and what was left out."""
    texts = {name: json.dumps(value) for name, value in explainer["options"].items()}
    return [name for name, text in texts.items() if LEFT_OUT in text or _TENSOR.fullmatch(text)]


def environment() -> dict[str, str]:
    """The versions that a figure may depend on."""
    return {"hf_e2kd": __version__} | {name: version(name) for name in PACKAGES}


def hub_id(source: Any) -> str | None:
    """What a user gave, if it can only be an id on the Hub: no folder, no address, no path."""
    if not isinstance(source, str) or not source or source.count("/") > 1 or Path(source).exists():
        return None
    try:
        validate_repo_id(source)
    except HFValidationError:
        return None
    return source


def loaded_from_hub(name: str | None) -> str | None:
    """The id that a model was loaded by, of the name that its configuration remembers.

    That name may be a folder too, and one that isn't there any more looks like an id: the Hub's cache tells them apart.
    """
    source = hub_id(name)
    return source if source and cached_commits(source) else None


def license_of(repo_id: str, repo_type: str = "model") -> str | None:
    """The licence that a repository's card states; None where it states none or can't be asked.

    Each repository is asked once, by a single short request. A Hub that doesn't answer is left alone for ten minutes.
    """
    global _ask_from
    if is_offline_mode() or time.monotonic() < _ask_from:
        return None
    try:
        return _stated_license(repo_id, repo_type)
    except (HTTPError, OSError, ValueError):
        _ask_from = time.monotonic() + _PAUSE
        return None


@cache
def _stated_license(repo_id: str, repo_type: str) -> str | None:
    ask = HfApi().model_info if repo_type == "model" else HfApi().dataset_info
    try:
        card = ask(repo_id, timeout=_TIMEOUT).card_data
    except (HfHubHTTPError, HFValidationError):  # such as a repository that isn't there
        return None
    stated = None if card is None else card.get("license")
    return ", ".join(stated) if isinstance(stated, list) else stated


def describe_transform(transform: Any) -> str | None:
    """An augmentation in words: the names of its steps."""
    if transform is None:
        return None
    steps: Iterable[Any] = getattr(transform, "transforms", [transform])
    return ", ".join(type(step).__name__ for step in steps) or None


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=lambda _: LEFT_OUT))


def _bytes(value: Any) -> bytes:
    if isinstance(value, Mapping) and "bytes" in value:
        return value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
    return repr(value).encode()


def hardware(processes: int, device: torch.device) -> str:
    """What a training ran on, as "4 × NVIDIA H100"."""
    return f"{processes} × {device_name(device)}" if processes > 1 else device_name(device)
