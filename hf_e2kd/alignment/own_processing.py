"""The image processor or tokenizer that a model states itself: in its configuration, or in the files beside it."""

from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoImageProcessor, AutoTokenizer

from ..hub.ids import loaded_commit


def own_image_processor(model: nn.Module) -> Any | None:
    """Read how a model was shown its images.

    Args:
        model: A model of timm, bare or wrapped, or one that `from_pretrained` has loaded.

    Returns:
        timm's `pretrained_cfg`, or the image processor saved beside the weights; None where the model states neither.
    """
    stated = getattr(model, "pretrained_cfg", None) or getattr(_config(model), "pretrained_cfg", None) or {}
    if {"input_size", "mean", "std"} <= stated.keys():
        return stated
    return _load(AutoImageProcessor, model)


def own_tokenizer(model: nn.Module) -> Any | None:
    """Load the tokenizer that lies beside the weights that `from_pretrained` has loaded; None where there is none."""
    return _load(AutoTokenizer, model)


def _load(auto_class: Any, model: nn.Module) -> Any | None:
    config = _config(model)
    name = getattr(config, "_name_or_path", None)
    revision = None if not name or Path(name).is_dir() else loaded_commit(config)
    # A name alone may be that of a folder that is gone; of what came from the Hub the commit is known.
    if not name or not (Path(name).is_dir() or revision):
        return None
    try:
        return auto_class.from_pretrained(name, revision=revision)
    # Nothing lies there, or what does can't be loaded without its own code or a package: nothing is stated then.
    except (OSError, ValueError, KeyError, ImportError):
        return None


def _config(model: nn.Module) -> Any:
    return getattr(model, "config", None)
