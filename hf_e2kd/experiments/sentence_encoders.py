"""Encoders in the layout of sentence-transformers: how they pool their tokens, and classifiers made of them."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers import AutoModel, PreTrainedModel

from ..logs import get_logger
from ..models import SentenceEncoderConfig, SentenceEncoderForSequenceClassification
from .models import load_trained, saved_configuration
from .reaching import loading

logger = get_logger(__name__)

_SWITCH = "pooling_mode_"
"""Beginning of the settings, one a pooling, in the files of sentence-transformers before version 5."""


def pooling_of(source: str, **options: Any) -> str | None:
    """Return how a sentence encoder pools its tokens; None of a model in another layout.

    Where the Hub isn't reached, and an earlier download tells neither, a warning says so.

    Args:
        source: Hub id or folder of the model.
        options: Options of `from_pretrained`, such as `revision`.

    Raises:
        ValueError: it has several poolings side by side, or the source can't be an id.
        OSError: it isn't there.
    """
    with loading(source, revision=options.get("revision")):
        modules = _read(source, "modules.json", options) or []
        folders = [each["path"] for each in modules if each["type"].endswith(".Pooling")]
        settings = _read(source, f"{folders[0]}/config.json", options) if folders else None
    if settings is None:
        return None
    switches = {name.removeprefix(_SWITCH): on for name, on in settings.items() if name.startswith(_SWITCH)}
    pooling = settings.get("pooling_mode", [name.removesuffix("_tokens") for name, on in switches.items() if on])
    modes = [pooling] if isinstance(pooling, str) else pooling
    if len(modes) != 1:
        raise ValueError(
            f"'{source}' pools its tokens in {len(modes)} ways ({', '.join(modes)}), and a head is fitted to one. "
            "Fine-tune it as a classifier instead."
        )
    return {"cls_token": "cls"}.get(modes[0], modes[0])


def load_sentence_encoder(
    source: str, pooling: str, labels: dict[str, Any], **options: Any
) -> tuple[PreTrainedModel, set[str]]:
    """Load a sentence encoder with a new classifier on its pooled tokens.

    Args:
        source: Hub id or folder of the model.
        pooling: Its pooling, as `pooling_of` gives it.
        labels: Settings of the classes, as `label_settings` gives them.
        options: Options of `from_pretrained`, such as `revision`.

    Returns:
        The model, and the names of the parameters without trained weights.
    """
    with loading(source, revision=options.get("revision")):
        backbone = load_trained(AutoModel, source, config=saved_configuration(source, {}, **options), **options)
    model = SentenceEncoderForSequenceClassification(SentenceEncoderConfig(backbone.config, pooling=pooling, **labels))
    model.backbone.load_state_dict(backbone.state_dict())
    return model.to(backbone.dtype), {"classifier.weight", "classifier.bias"}


def _read(source: str, name: str, options: dict[str, Any]) -> Any:
    if Path(source).is_dir():
        path = Path(source) / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    known = {key: options[key] for key in ("revision", "token", "cache_dir") if key in options}
    try:
        path = Path(hf_hub_download(source, name, **known))
    except LocalEntryNotFoundError:
        logger.warning(
            f"Whether '{source}' pools its tokens as a sentence encoder can't be looked up: its {name} wasn't "
            "downloaded before, and the Hub isn't reached. It is read as its family's classifier reads it. Of a "
            f"sentence encoder, download all files: hf download {source}."
        )
        return None
    except EntryNotFoundError:
        return None
    return json.loads(path.read_text(encoding="utf-8"))
