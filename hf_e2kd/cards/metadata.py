"""The YAML at the head of a model card, which the Hub reads."""

import math
import re
from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..fidelity.record import DataRecord, FidelityRecord
from ..hub.ids import is_hub_id
from ..hub.redaction import LEFT_OUT
from ..logs import get_logger
from .escaping import one_line
from .measures import measure_named
from .methods import methods

logger = get_logger(__name__)

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
# Hub metrics by the names of figures; a figure under another name is a metric of this library.
_HUB_METRICS = ("accuracy", "f1")


def card_data(
    record: FidelityRecord,
    model_name: str,
    *,
    base_model: str | None = None,
    datasets: str | Sequence[str] | None = None,
    license: str | None = None,
    tags: str | Sequence[str] = (),
    **metadata: Any,
) -> ModelCardData:
    """The metadata of a student's card.

    Args:
        record: Without anything private.
        model_name: Name of the model.
        base_model: By default what the record says that the student started from. Never the teacher.
        datasets: By default those that it was trained and measured on. What can't be an id on the Hub is left out.
        license: By default that of the base model, else the student's own; left out with a warning where none is
            stated.
        tags: Beside those that tell what it is.
        metadata: Further fields, which take the place of those found.
    """
    base = base_model or (None if record.training is None else record.training.base_model)
    ids = _data_ids(record) if datasets is None else [datasets] if isinstance(datasets, str) else datasets
    found = {
        "base_model": base if is_hub_id(base) else None,
        "base_model_relation": "finetune" if is_hub_id(base) else None,
        "library_name": "transformers",
        "pipeline_tag": pipeline_tag(record),
        "license": _license(record, license),
        "datasets": [name for name in ids if is_hub_id(name)] or None,
        "metrics": [name for name in _HUB_METRICS if name in record.figures] or None,
        "tags": _tags(record, [tags] if isinstance(tags, str) else tags),
        "co2_eq_emissions": _emissions(record),
        "eval_results": eval_results(record) or None,
    }
    return ModelCardData(model_name=model_name, **{**found, **metadata})


def pipeline_tag(record: FidelityRecord) -> str:
    """The Hub's name of the task."""
    return "text-classification" if record.modality == "text" else "image-classification"


def eval_results(record: FidelityRecord) -> list[EvalResult]:
    """The student's figures for `model-index`, in the form that the Hub accepts.

    The Hub calls `model-index` legacy beside files of benchmark results, into whose benchmarks these figures don't fit;
    if that changes, this is the place.
    """
    data = record.data
    is_on_hub = data.arguments is None and is_hub_id(data.id)
    name = one_line(data.name) or "unnamed data"
    return [
        EvalResult(
            task_type=pipeline_tag(record),
            dataset_type=str(data.id) if is_on_hub else _slug(data.id or data.name),
            dataset_name=name,
            dataset_config=one_line(data.config) if is_on_hub and data.config else None,
            dataset_split=_split(data),
            dataset_revision=one_line(data.revision) if is_on_hub and data.revision else None,
            metric_type=_slug(metric),
            metric_name=measure_named(metric).title,
            metric_value=round(figure.value, 4),
        )
        for metric, figure in record.figures.items()
        if not metric.startswith(("teacher_", "zero_")) and math.isfinite(figure.value)
    ]


def _split(data: DataRecord) -> str | None:
    """The split's name, and that it is a part."""
    split = one_line(data.split) if data.split else None
    return f"{split}, a part that was held out" if split and data.part else split


def _slug(name: str) -> str:
    """A name in the characters that the Hub allows for a data set or a metric."""
    return re.sub(r"[^a-z0-9_.]+", "-", one_line(name).lower()).strip("-.") or "unnamed"


def _data_ids(record: FidelityRecord) -> list[str]:
    """The Hub's data sets that the student was trained and measured on."""
    used = [None if record.training is None else record.training.data, record.data]
    return list(dict.fromkeys(data.id for data in used if data is not None and data.id and data.arguments is None))


def _license(record: FidelityRecord, given: str | None) -> str | None:
    stated = given or (record.training.base_license if record.training else None) or record.student.license
    if stated is not None and _LICENSE.fullmatch(stated):
        return stated
    logger.warning(
        "The model card names no license: "
        + ("the checkpoint that the student started from states none." if stated is None else "it is no license id.")
        + ' Give one by create_model_card(license="apache-2.0") or push_to_hub(license=…), or write the card anew: '
        "hf-e2kd card FOLDER --license apache-2.0"
    )
    return None


def _tags(record: FidelityRecord, given: Sequence[str]) -> list[str]:
    used = methods(record.training)
    tags = ["hf_e2kd", "explainability"]
    tags += ["knowledge-distillation"] if used & {"logits", "e2kd"} else []
    tags += ["e2kd"] if "e2kd" in used else []
    tags += ["model-guidance"] if "guidance" in used else []
    if record.teacher is not None and is_hub_id(record.teacher.id):
        tags.append(f"teacher:{record.teacher.id}")
    cleaned = [one_line(tag) for tag in given]
    return list(dict.fromkeys([*tags, *(tag for tag in cleaned if tag and tag != LEFT_OUT)]))


def _emissions(record: FidelityRecord) -> dict[str, Any] | None:
    if record.training is None or record.training.co2_kg is None:
        return None
    return {"emissions": round(1000 * record.training.co2_kg, 3), "source": "codecarbon"}  # grams
