"""Encoders in the layout of sentence-transformers: how they pool their tokens, and classifiers made of them."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoModel, PreTrainedModel
from transformers.utils.hub import cached_file

from ..models import SentenceEncoderConfig, SentenceEncoderForSequenceClassification
from .models import load_trained, saved_configuration
from .reaching import loading

_SWITCH = "pooling_mode_"
"""Beginning of the settings, one a pooling, in the files of sentence-transformers before version 5."""


def pooling_of(source: str, **options: Any) -> str | None:
    """Return how a sentence encoder pools its tokens; None of a model in another layout.

    Args:
        source: Hub id or folder of the model.
        options: Options of `from_pretrained`, such as `revision`.

    Raises:
        ValueError: it has several poolings side by side.
    """
    modules = _read(source, "modules.json", options) or []
    folders = [each["path"] for each in modules if each["type"].endswith(".Pooling")]
    if not folders:
        return None
    settings = _read(source, f"{folders[0]}/config.json", options) or {}
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
    with loading(source):
        backbone = load_trained(AutoModel, source, config=saved_configuration(source, {}, **options), **options)
    model = SentenceEncoderForSequenceClassification(SentenceEncoderConfig(backbone.config, pooling=pooling, **labels))
    model.backbone.load_state_dict(backbone.state_dict())
    return model.to(backbone.dtype), {"classifier.weight", "classifier.bias"}


def _read(source: str, name: str, options: dict[str, Any]) -> Any:
    known = {key: options[key] for key in ("revision", "token", "cache_dir") if key in options}
    path = cached_file(
        source,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **known,
    )
    return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
