"""Pieces of a card's Markdown."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..fidelity.record import DataRecord, FidelityRecord, ModelRecord
from .inert import code, hub_link, text
from .measures import EXPLAINERS

TARGETS = {"teacher_top": "the class that the teacher decides for", "label": "the labelled class"}


def is_multi_label(record: FidelityRecord) -> bool:
    """Whether the student decides each class for itself."""
    return record.problem == "multi_label_classification"


def model_link(model: ModelRecord) -> str:
    """A model, by its id on the Hub where it has one."""
    return f"{code(model.architecture)} (not on the Hub)" if model.id is None else hub_link(model.id)


def data_link(data: DataRecord) -> str:
    """Data, by their id on the Hub where they have one, with configuration, options and split."""
    name = hub_link(data.id, "dataset") if data.id is not None and data.arguments is None else text(data.name)
    configuration = "" if data.config is None else f", configuration {code(data.config)}"
    arguments = "".join(f", {code(option)} = {shown(value)}" for option, value in (data.arguments or {}).items())
    split = "" if data.split is None else f", split {code(data.split)}"
    return name + configuration + arguments + split


def shown(value: Any) -> str:
    """The value of an option or argument."""
    return code(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that hold Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def explainer_text(explainer: Mapping[str, Any]) -> str:
    """A method of explanation with its options."""
    name = explainer.get("name", "an unnamed method")
    options = ", ".join(
        f"{code(option)} = {shown(value)}" for option, value in (explainer.get("options") or {}).items()
    )
    return EXPLAINERS.get(name, code(name)) + (f" ({options})" if options else "")


def count(value: float) -> str:
    """A number with its metric prefix, to be followed by a unit."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:g} "
