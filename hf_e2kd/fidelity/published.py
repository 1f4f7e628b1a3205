"""Published students, loaded by the Auto classes with their fidelity records."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from .. import models  # noqa: F401  (makes the Auto classes know the papers' networks)
from ..hub.ids import check_repo_id
from ..logs import get_logger
from .record import FIDELITY_FILE, FidelityRecord, ModelRecord

logger = get_logger(__name__)

_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Student:
    """A published student.

    Attributes:
        model: In evaluation mode.
        processing_class: Its image processor or tokenizer; None where none was saved with it.
        fidelity: What was measured of it (`fidelity.json`); None where there is no record.
        teacher: What the record states of the teacher, its id and revision among it; None where nothing is stated.
    """

    model: nn.Module
    processing_class: Any
    fidelity: FidelityRecord | None
    teacher: ModelRecord | None


def load_student(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    trust_remote_code: bool = False,
) -> Student:
    """Load a published student, of images or of texts, by the Auto classes, with its fidelity record.

    Args:
        source: Hub id, or the folder in which it was saved.
        revision: Branch, tag or commit on the Hub.
        token: Token of a user who may read there; by default that of the user who is logged in.
        trust_remote_code: True to run Python files of the repository; otherwise they aren't even downloaded.

    Returns:
        The student, in evaluation mode.

    Raises:
        ValueError: no safetensors weights (pickled ones can run code and are never loaded), a model with code of its
            own that isn't trusted, a model that is no classifier, or a `source` that is neither folder nor id.

    Example:

        student = load_student("me/student")
        student.model(**student.processing_class(image, return_tensors="pt")).logits
    """
    if Path(source).is_dir():
        folder = Path(source)
    else:
        check_repo_id(str(source))
        patterns = [*_FILES, "*.py"] if trust_remote_code else _FILES
        # Files in folders are those of checkpoints.
        folder = Path(
            snapshot_download(
                str(source), revision=revision, token=token, allow_patterns=patterns, ignore_patterns=["*/*"]
            )
        )
    if not (folder / "config.json").is_file():
        raise ValueError(f"{source} holds no model: it has no config.json. Adapters are merged before they are pushed.")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{source} holds no weights in the safetensors format. Others are not loaded, because pickled files can "
            "run code. Convert them where you trust them: load the model and call save_pretrained()."
        )
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    model_class, processor_class = _auto_classes(config, source)
    model = model_class.from_pretrained(
        folder, config=config, trust_remote_code=trust_remote_code, use_safetensors=True
    )
    processor = None
    if has_processor(folder, config.model_type):
        processor = processor_class.from_pretrained(folder, trust_remote_code=trust_remote_code)
    record = None
    if (folder / FIDELITY_FILE).is_file():
        try:
            record = FidelityRecord.load(folder)
        except ValueError as error:
            # What a record says is no reason to withhold the model.
            logger.warning(f"{source}: its {FIDELITY_FILE} is not read. {error}")
    return Student(model.eval(), processor, record, None if record is None else record.teacher)


def has_processor(folder: Path, model_type: str | None) -> bool:
    """Whether an image processor or a tokenizer was saved with the model of a folder."""
    # timm's wrapper has it in the model's configuration, and never in a file of its own.
    return model_type == "timm_wrapper" or any((folder / name).is_file() for name in _PROCESSOR_FILES)


def _auto_classes(config: Any, source: Any) -> tuple[Any, Any]:
    names = [*(config.architectures or []), *(getattr(config, "auto_map", None) or {})]
    if any("ForImageClassification" in name for name in names):
        return AutoModelForImageClassification, AutoImageProcessor
    if any("ForSequenceClassification" in name for name in names):
        return AutoModelForSequenceClassification, AutoTokenizer
    raise ValueError(
        f"{source} is not a classifier of images or texts: its config.json names the architectures "
        f"{config.architectures}."
    )
