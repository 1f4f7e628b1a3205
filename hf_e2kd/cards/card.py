"""Model cards: what was measured of a student, how to use it, how it came about and what it doesn't show."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from ..fidelity.record import FIDELITY_FILE, FidelityRecord
from ..hub import check_repo_id
from ..private import is_private, without_private
from .inert import one_line, text
from .measured import cost_section, figures_section, picture_section, verification_section
from .measures import CHANCE
from .metadata import card_data
from .origin import checkpoint_note, citations_section, limits_section, sources_section, summary, training_section
from .usage import usage

CARD_FILE = "README.md"


def model_card(
    record: FidelityRecord,
    *,
    repo_id: str | None = None,
    picture: str | None = None,
    has_processor: bool = True,
    has_record: bool = True,
    **metadata: Any,
) -> ModelCard:
    """The card of a student, made of what its record holds; of what wasn't measured it doesn't speak.

    Labels, names and options come out as text, whatever markup they hold, and those with a token, a path of this
    machine or its name are left out, with a warning.

    Args:
        record: What was measured of the student, against its teacher where there is one.
        repo_id: Where the student is published. Without it, the card's code loads the folder that it is run in.
        picture: File name, beside the card, of a panel of explanations.
        has_processor: Whether an image processor or a tokenizer is published with the student.
        has_record: Whether `fidelity.json` is.
        metadata: Fields of the card's YAML, in the place of those that the record gives: `license`, `language`,
            `base_model`, `datasets`, `model_name`, … `tags` are added to those that it gives.

    Returns:
        The card; its `data` is the YAML at its head, `str()` the file's text.

    Raises:
        ValueError: `repo_id` can't be one, `picture` is not the name of a file beside the card, or the record is of
            something else than images or texts.
    """
    if record.modality not in CHANCE:
        raise ValueError(f"There are cards for {' and '.join(CHANCE)} models, not for {record.modality!r}.")
    if repo_id is not None:
        check_repo_id(repo_id)
    if picture is not None and (Path(picture).name != picture or is_private(picture) or set(picture) & set("()<>[]\\")):
        raise ValueError(f"The picture must be the name of a file beside the card, not {picture!r}.")
    record = _published_part(record)
    metadata = without_private({name: value for name, value in metadata.items() if value is not None})
    if record.training is not None and metadata.get("base_model"):
        record = replace(record, training=replace(record.training, base_model=metadata["base_model"]))
    name, source = repo_id or record.student.name, repo_id or "."
    title = one_line(metadata.pop("model_name", name.split("/")[-1])) or "student"
    data = card_data(record, title, **metadata)
    sections = [
        f"# {text(title)}",
        summary(record),
        checkpoint_note(record.step),
        usage(record, source, has_processor=has_processor, has_record=has_record),
        figures_section(record),
        picture_section(record, picture),
        verification_section(record, source) if has_record and record.figures else None,
        cost_section(record),
        limits_section(record),
        training_section(record),
        sources_section(record, name, data.get("license")),
        citations_section(record),
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(section for section in sections if section) + "\n")


def save_card(record: FidelityRecord, folder: str | Path, **options: Any) -> Path:
    """Writes the card into a student's folder, as `README.md`.

    Args:
        folder: Which files lie in it decides what the card's code makes use of.
        options: Of `model_card`.

    Returns:
        The file's path.

    Raises:
        ValueError: as `model_card`, or the picture isn't in the folder.
    """
    folder = Path(folder)
    picture = options.get("picture")
    if picture is not None and not (folder / picture).is_file():
        raise ValueError(f"There is no picture {picture!r} in {folder}. Save it there before the card is written.")
    if (folder / "config.json").is_file():
        # A checkpoint may lie beside the record of an earlier student.
        has_record = record.step is None and (folder / FIDELITY_FILE).is_file()
        options = {"has_processor": _has_processor(folder), "has_record": has_record, **options}
    path = folder / CARD_FILE
    model_card(record, **options).save(path)
    return path


def _has_processor(folder: Path) -> bool:
    files = ("preprocessor_config.json", "processor_config.json", "tokenizer_config.json")
    # timm's wrapper has it in the model's configuration.
    wrapped = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type") == "timm_wrapper"
    return wrapped or any((folder / name).is_file() for name in files)


def _published_part(record: FidelityRecord) -> FidelityRecord:
    """The record without anything private, and without local paths, of which a card has no use."""
    values = record.to_dict()
    training = values["training"] or {}
    for part in (values["student"], values["teacher"], values["data"], training.get("data")):
        if part is not None:
            part["path"] = None
    return FidelityRecord.from_dict(without_private(values))
