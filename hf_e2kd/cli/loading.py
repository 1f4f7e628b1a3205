"""The models and data sets that a command names by Hub id or folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from ..data.images import load_image_splits
from ..data.text import load_text_splits


@dataclass
class Classifier:
    """A trained classifier, with its image processor or tokenizer."""

    model: nn.Module
    processing_class: Any
    is_text: bool


def load_classifier(source: str, revision: str | None = None, trust_remote_code: bool = False) -> Classifier:
    """Loads a classifier of images or texts, as its configuration says.

    Args:
        source: Hub id or folder.
        trust_remote_code: Run the repository's own code, which is refused otherwise.

    Raises:
        ValueError: it is no such classifier, or its checkpoint has no weights for a part of it.
        OSError: it isn't there.
    """
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        is_text = _reads_text(AutoConfig.from_pretrained(source, **options), source)
        model_class = AutoModelForSequenceClassification if is_text else AutoModelForImageClassification
        model, found = model_class.from_pretrained(source, output_loading_info=True, **options)
        processing_class = (AutoTokenizer if is_text else AutoImageProcessor).from_pretrained(source, **options)
    except OSError as error:
        # Without a network, transformers doesn't say what it looked for.
        raise OSError(f"'{source}' can't be loaded: {error}") from error
    if found["missing_keys"]:
        raise ValueError(
            f"'{source}' has no weights for {', '.join(sorted(found['missing_keys'])[:4])}: these would be random. "
            "Name a checkpoint that was trained as a classifier."
        )
    return Classifier(model, processing_class, is_text)


def load_split(source: str, is_text: bool, split: str, name: str | None, columns: Sequence[str]) -> Dataset:
    """Loads one split of a data set. No code of the data set is run.

    Args:
        source: A Hub id, a folder saved by `save_to_disk`, a folder of images or of data files (CSV, JSON, Parquet).
        name: Of the data set's configuration on the Hub.
        columns: Which it must have.

    Raises:
        ValueError: the split or a column is missing; those that exist are listed.
        OSError: it isn't there.
    """
    if Path(source).is_dir():
        splits = load_text_splits(source) if is_text else load_image_splits(source)
        if split not in splits:
            raise ValueError(f"'{source}' has no split '{split}'. Its splits: {', '.join(splits)}.")
        dataset = splits[split]
    else:
        dataset = load_dataset(source, name, split=split)
    for column in columns:
        if column not in dataset.column_names:
            raise ValueError(f"'{source}' has no column '{column}'. Its columns: {', '.join(dataset.column_names)}.")
    return dataset


def _reads_text(config: Any, source: str) -> bool:
    if config.model_type == "timm_wrapper":
        return False
    names = [*(config.architectures or ()), *getattr(config, "auto_map", {})]
    for is_text, kind in ((True, "ForSequenceClassification"), (False, "ForImageClassification")):
        if any(kind in name for name in names):
            return is_text
    raise ValueError(
        f"'{source}' is {', '.join(config.architectures or ()) or config.model_type}, no classifier of images "
        "(…ForImageClassification, or of timm) or of texts (…ForSequenceClassification)."
    )
