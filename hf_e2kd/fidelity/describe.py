"""Says which models and data a record is of, without the paths, hosts and users of the machine that made it."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Image
from huggingface_hub import DatasetCard, ModelCard, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id
from torch import nn
from torch.utils.data import Subset

from ..explainers import Explainer
from ..references.stored.attached import unattached
from ..references.stored.key import explainer_key, weights_digest
from .cost import device_name
from .record import Cost, DataRecord, ModelRecord

PACKAGES = ("torch", "torchvision", "transformers", "timm", "datasets", "accelerate")

_ON_THE_HUB = re.compile(r"^hf://datasets/(?P<id>[^@]+)@(?P<revision>[^/]+)/")


def describe_model(model: nn.Module, cost: Cost | None = None) -> ModelRecord:
    """A model's id and revision where it came from the Hub, and the digest of its weights in any case."""
    config = getattr(model, "config", None)
    source = hub_id(getattr(config, "_name_or_path", None))
    return ModelRecord(
        id=source,
        revision=getattr(config, "_commit_hash", None) if source else None,
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
        name=data_id or getattr(info, "dataset_name", None) or "a local data set",
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
    """Name and options, as `build_explainer` takes them."""
    return explainer_key(explainer)


def environment() -> dict[str, str]:
    """The versions that a figure may depend on."""
    # Not known before the package is whole.
    from .. import __version__

    return {"hf_e2kd": __version__} | {name: version(name) for name in PACKAGES}


def hub_id(source: Any) -> str | None:
    """The source, if it can only be an id on the Hub: no folder, no address, no path."""
    if not isinstance(source, str) or not source or source.count("/") > 1 or Path(source).exists():
        return None
    try:
        validate_repo_id(source)
    except HFValidationError:
        return None
    return source


def license_of(repo_id: str, repo_type: str = "model") -> str | None:
    """The licence that a repository's card states; None where it states none or can't be asked."""
    if is_offline_mode():
        return None
    try:
        card = (ModelCard if repo_type == "model" else DatasetCard).load(repo_id)
    except (HfHubHTTPError, HTTPError, OSError, ValueError):
        return None
    stated = card.data.get("license")
    return ", ".join(stated) if isinstance(stated, list) else stated


def describe_transform(transform: Any) -> str | None:
    """An augmentation in words: the names of its steps."""
    if transform is None:
        return None
    steps: Iterable[Any] = getattr(transform, "transforms", [transform])
    return ", ".join(type(step).__name__ for step in steps) or None


def _bytes(value: Any) -> bytes:
    if isinstance(value, Mapping) and "bytes" in value:
        return value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
    return repr(value).encode()


def hardware(processes: int, device: torch.device) -> str:
    """What a training ran on, as "4 × NVIDIA H100"."""
    return f"{processes} × {device_name(device)}" if processes > 1 else device_name(device)
