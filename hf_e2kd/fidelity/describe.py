"""Descriptions of a record's models and data, without paths, hosts and users of the measuring machine."""

import hashlib
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Image, Value
from huggingface_hub import HfApi, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from torch import nn
from torch.utils.data import Subset

from ..alignment.labels import transform_of
from ..alignment.texts import length_limit
from ..architectures import FunctionModel
from ..data.holding_out import HeldOutSplit
from ..data.text import TextCollator
from ..data.transforms import DistillationTransform
from ..explainers import Explainer
from ..hub.ids import loaded_commit, loaded_from_hub
from ..hub.redaction import LEFT_OUT, without_private
from ..store.joining import unattached
from ..store.key import explainer_key, weights_digest
from ..version import __version__
from .cost import device_name
from .precision import precision_of, runtime_of
from .record import Cost, DataRecord, ModelRecord, PartRecord

PACKAGES = ("torch", "torchvision", "transformers", "timm", "datasets", "accelerate")

_TIMEOUT = 5.0
_PAUSE = 600.0
_ask_from = 0.0
"""When the Hub may be asked again, by the monotonic clock."""

# What `explainer_key` states of a tensor, in JSON.
_TENSOR = re.compile(r'"tensor \([\d, ]*\) [0-9a-f]{64}"')
_ON_THE_HUB = re.compile(r"^hf://datasets/(?P<id>[^@]+)@(?P<revision>[^/]+)/")


def describe_model(model: nn.Module, cost: Cost | None = None, *, published: bool = True) -> ModelRecord:
    """Describe a model by the digest of its weights, and by its id and revision where it came from the Hub.

    Args:
        model: The model.
        cost: Cost of running it, where that was measured.
        published: True if its weights are still those that it was loaded with; False for a student that was trained,
            whose configuration names what it started from.
    """
    config = getattr(model, "config", None)
    source = loaded_from_hub(getattr(config, "_name_or_path", None)) if published else None
    return ModelRecord(
        id=source,
        revision=loaded_commit(config) if source else None,
        architecture=getattr(config, "architecture", None) or type(model).__name__,
        # A function's weights are not at hand.
        weights=None if isinstance(model, FunctionModel) else f"sha256:{weights_digest(model)}",
        license=license_of(source) if source else None,
        cost=cost,
        runtime=runtime_of(model),
        precision=precision_of(model),
    )


def describe_data(dataset: Any, known: DataRecord | None = None, split: str | None = None) -> DataRecord:
    """Describe the source of a data set, as far as the data set states it.

    Args:
        dataset: The data set.
        known: Description that takes precedence over the data set's own.
        split: Name of the split, where the data set doesn't state one.
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
        part=PartRecord(stated.share, stated.seed) if isinstance(stated, HeldOutSplit) else None,
        license=(getattr(info, "license", None) or None) or (license_of(data_id, "dataset") if data_id else None),
    )


def describe_sample(
    dataset: Any,
    selected: Any,
    rows: Sequence[int],
    seed: int | None,
    columns_of: Any,
    known: DataRecord | None = None,
    split: str | None = None,
) -> DataRecord:
    """Describe the samples of a data set that are measured: which they are, what is read of them, and their digest.

    Args:
        dataset: The data set.
        selected: Its samples that are measured.
        rows: Their positions.
        seed: Seed by which they were drawn; None where they were given.
        columns_of: Collator of the trainer, which names the columns that it reads.
        known, split: As of `describe_data`.
    """
    source = describe_data(dataset, known, split)
    return replace(
        source,
        columns=source.columns or describe_columns(dataset, columns_of),
        rows=len(dataset),
        samples=list(rows),
        seed=seed,
        fingerprint=data_digest(selected, content_columns(dataset)),
    )


def describe_columns(dataset: Any, collator: Any) -> dict[str, Any]:
    """Name the columns that a trainer reads, as far as the transform of its images or its collator of texts states
    them, and a text's longest part that is read.

    Args:
        dataset: The data set.
        collator: Collator of the trainer, with or without its checks.
    """
    transform = transform_of(unattached(dataset))
    while not isinstance(collator, TextCollator) and hasattr(collator, "collator"):  # within checks, or of a store
        collator = collator.collator
    if isinstance(transform, DistillationTransform):
        image, label, _ = transform.columns
        return {"image": image, "label": label}
    if not isinstance(collator, TextCollator):
        return {}
    # The tokenizer's own limit need not be the teacher's, who is given what is stated.
    own = length_limit(collator.tokenizer)
    length = None if collator.max_length == own else collator.max_length
    return {"texts": list(collator.text_columns), "label": collator.label_column, "max_length": length}


def content_columns(dataset: Any) -> list[str]:
    """List the columns with a sample's content: images and texts."""
    features = getattr(dataset, "features", None) or {}
    return [
        name
        for name, feature in features.items()
        if isinstance(feature, Image) or (isinstance(feature, Value) and feature.dtype in ("string", "large_string"))
    ]


def data_digest(dataset: Any, columns: Sequence[str]) -> str | None:
    """Compute the SHA-256 of rows' columns, of undecoded bytes for images; None for data outside `datasets`."""
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
    """Describe an explainer by name and options, without those that no file can hold or others may not see."""
    key = explainer_key(explainer)
    options = {
        name: stated if isinstance(getattr(explainer, name), torch.Tensor) else _plain(getattr(explainer, name))
        for name, stated in key["options"].items()
    }
    return without_private({**key, "options": options}, "record of the explainer")


def unstated_options(explainer: Mapping[str, Any]) -> list[str]:
    """List the options of a described explainer that the description doesn't hold: tensors, and redacted ones."""
    texts = {name: json.dumps(value) for name, value in explainer["options"].items()}
    return [name for name, text in texts.items() if LEFT_OUT in text or _TENSOR.fullmatch(text)]


def environment() -> dict[str, str]:
    """Collect the versions of packages that a figure may depend on."""
    return {"hf_e2kd": __version__} | {name: version(name) for name in PACKAGES}


def license_of(repo_id: str, repo_type: str = "model") -> str | None:
    """Read the licence from a repository's card; None where it states none or can't be reached.

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
    """Describe an augmentation by the names of its steps."""
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
    """Describe the hardware of a training, as "4 × NVIDIA H100"."""
    return f"{processes} × {device_name(device)}" if processes > 1 else device_name(device)
