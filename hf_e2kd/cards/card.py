"""Model cards: a student's figures, its use, its training and its limits.

The prose stands in `templates/model_card.md.jinja`; the modules beside this one compute the rest.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .. import models
from ..fidelity.published import has_processor
from ..fidelity.record import FIDELITY_FILE, OTHER_STEPS, FidelityRecord, TrainingRecord
from ..hub.ids import check_repo_id, is_hub_id
from ..hub.redaction import is_private, without_private
from .citations import citations
from .costs import costs_table
from .escaping import code, count, hub_link, json_code, one_line, python_string, unless_escaped
from .measures import CHANCE, EXPLAINERS, TARGETS
from .metadata import card_data
from .methods import further_terms, methods, terms
from .summary import headline, summary_table
from .tables import (
    by_chance_alone,
    figures_table,
    groups_table,
    is_above_chance,
    is_explained,
    runtimes,
)

CARD_FILE = "README.md"

# `ModelCard.from_template` takes no filters: its values would go in as they are.
_ENVIRONMENT = Environment(
    loader=PackageLoader("hf_e2kd.cards"),
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
    autoescape=True,
    finalize=unless_escaped,
)
_ENVIRONMENT.filters |= {
    "code": code,
    "count": count,
    "hub_link": hub_link,
    "json_code": json_code,
    "python_string": python_string,
    "percent": lambda share: f"{100 * share:.3g} %",
    "thousands": "{:,}".format,
}


def model_card(
    record: FidelityRecord,
    *,
    repo_id: str | None = None,
    picture: str | None = None,
    has_processor: bool = True,
    has_record: bool = True,
    student: str | None = None,
    **metadata: Any,
) -> ModelCard:
    """Make the card of a student of what its record holds; where nothing was measured, its limits say so.

    Labels, names and options come out as text, whatever markup they hold, and those with a token, a path or an address
    of this machine are left out, with a warning.

    Args:
        record: The student's figures, against its teacher where there is one.
        repo_id: Id of the published student. Without it, the card's code loads the folder that it is run in.
        picture: File name, beside the card, of a panel of explanations.
        has_processor: True if an image processor or a tokenizer is published with the student.
        has_record: True if `fidelity.json` is published with it, or lies beside the card.
        student: Id or folder, seen from the card, that the card's code loads where the student doesn't lie beside the
            card, as of a measured one. By default `repo_id`, or the card's folder.
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
    title = one_line(metadata.pop("model_name", (repo_id or record.student.name).split("/")[-1])) or "student"
    data = card_data(record, title, **metadata)
    card = _ENVIRONMENT.get_template("model_card.md.jinja").render(
        record=record,
        metadata=data.to_yaml(),
        title=title,
        name=repo_id or record.student.name,
        place=repo_id or ".",
        student_place=_place(student) if student is not None else repo_id or ".",
        is_beside=student in (None, "."),
        is_exported=(record.student.runtime or "").startswith(("onnxruntime ", "torch.export, ")),
        license=data.get("license"),
        picture=picture,
        has_processor=has_processor,
        has_record=has_record,
        is_own_architecture=record.student.architecture in models.__all__,
        is_data_on_hub=is_hub_id(record.data.id),
        is_pair=_is_pair(record.data.columns.get("texts")),
        input_shape=_input_shape(record),
        headline=headline(record),
        summary=summary_table(record),
        figures=figures_table(record),
        groups=groups_table(record),
        is_explained=is_explained(record),
        is_above_chance=is_above_chance(record),
        by_chance_alone=by_chance_alone(record),
        runtimes=runtimes(record),
        costs=costs_table(record),
        terms=terms(record.training),
        further_terms=further_terms(record.training),
        methods=methods(record.training),
        length=_length(record.training),
        citations="\n\n".join(citations(record)),
        explainers=EXPLAINERS,
        explainer_option=_explainer_option(record),
        targets=dict.fromkeys(TARGETS, "their scores") if record.problem == "regression" else TARGETS,
    )
    return ModelCard(re.sub(r"\n{3,}", "\n\n", card).strip() + "\n")


def save_card(record: FidelityRecord, folder: str | Path, **options: Any) -> Path:
    """Write the card into a student's folder, as `README.md`.

    Args:
        record: The student's figures.
        folder: The student's; the card's code makes use of the files that lie in it.
        options: Keyword arguments of `model_card`.

    Returns:
        The file's path.

    Raises:
        ValueError: as `model_card`, or the picture isn't in the folder.
    """
    folder = Path(folder)
    picture = options.get("picture")
    if picture is not None and not (folder / picture).is_file():
        raise ValueError(f"There is no picture {picture!r} in {folder}. Save it there before the card is written.")
    # A checkpoint may lie beside the record of an earlier student.
    options = {"has_record": record.step is None and (folder / FIDELITY_FILE).is_file(), **options}
    if (folder / "config.json").is_file():
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        options = {"has_processor": has_processor(folder, model_type), **options}
    path = folder / CARD_FILE
    model_card(record, **options).save(path)
    return path


def _published_part(record: FidelityRecord) -> FidelityRecord:
    """Leave out of a record what is private, and of local paths all but the folder's name."""
    values = record.to_dict()
    training = values["training"] or {}
    for part in (values["student"], values["teacher"], values["data"], training.get("data")):
        if part is not None and part["path"] is not None:
            part["path"] = None if _is_private_path(part["path"]) else Path(part["path"]).name
    return FidelityRecord.from_dict(without_private(values))


def _place(student: str) -> str:
    """The id or the folder of a student as the card's code names it; STUDENT for one that a card can't name."""
    return student if re.fullmatch(r"[\w./-]+", student, re.ASCII) and not _is_private_path(student) else "STUDENT"


def _is_private_path(path: str) -> bool:
    """Tell whether a path names more of this machine than where it lies from the card."""
    return is_private(re.sub(r"^(\.\./)+", "", path))


def _explainer_option(record: FidelityRecord) -> Markup:
    """Write the option by which `hf-e2kd explain` takes the record's method; empty for GradCAM and unknown ones."""
    name = str(record.explainer.get("name"))
    return Markup(f" --explainer {name}" if name in EXPLAINERS and name != "gradcam" else "")


def _is_pair(columns: Any) -> bool:
    """Tell whether the columns of the texts are those of pairs."""
    return isinstance(columns, list | tuple) and len(columns) == 2


def _input_shape(record: FidelityRecord) -> str:
    """Channels, height and width of an image, as `"3, 224, 224"`."""
    sides = (record.student.cost.input or "" if record.student.cost else "").split("×")
    return ", ".join(sides) if len(sides) == 3 and all(side.isdecimal() for side in sides) else "3, 224, 224"


def _length(training: TrainingRecord | None) -> str:
    """Steps, epochs and time of a training, as far as they are known."""
    if training is None:
        return ""
    parts = [] if training.steps is None else [f"{training.steps:,} optimizer steps"]
    parts += [] if training.epochs is None else [f"{round(training.epochs, 2):g} epochs"]
    seconds = training.seconds
    if seconds is not None:
        hours, minutes = f"{seconds / 3600:.1f} h", f"{seconds / 60:.0f} min"
        parts.append(f"{seconds:.0f} s" if seconds < 120 else minutes if seconds < 7200 else hours)
    if others := training.arguments.get(OTHER_STEPS):
        parts.append(f"beside {others:,} optimizer steps of other trainings")
    return ", ".join(parts)
