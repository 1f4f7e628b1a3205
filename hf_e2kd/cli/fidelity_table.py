"""A fidelity record as lines for a terminal: figures, chance levels, held-out methods, groups."""

from collections.abc import Mapping

from ..cards.measures import control_title
from ..cards.tables import is_above_chance, is_explained
from ..fidelity import FidelityRecord, GroupsRecord, MetricValue, ModelRecord
from ..fidelity.groups import WORST_GROUP
from .output import one_line


def as_table(record: FidelityRecord) -> str:
    """Render the figures for a reader."""
    rows = [
        ("student", _model(record.student)),
        ("teacher", "–" if record.teacher is None else _model(record.teacher)),
        ("samples", f"{len(record.data.samples):,} of {record.data.rows or 0:,}, {record.data.name}"),
        *([("explained by", str(record.explainer["name"]))] if is_explained(record) else []),
        ("", ""),
    ]
    for name, figure in record.figures.items():
        if name.startswith(WORST_GROUP):
            continue  # beside the groups
        rows.append((_title(name, figure), _value(figure)))
        if name == "explanation_similarity":
            rows += [(f"  by chance: {kind}", _value(level)) for kind, level in record.chance.items()]
        if record.control is not None and name in record.control.figures:
            rows.append((f"  control: {control_title(record.control.options)}", _value(record.control.figures[name])))
        if record.faithfulness is not None and name in record.faithfulness.chance:
            rows.append(("  by chance: in a random order", _value(record.faithfulness.chance[name])))
    for held_out in record.held_out:
        rows += [("", ""), ("held out", str(held_out.explainer["name"]))]
        for name, figure in held_out.figures.items():
            if name.startswith(WORST_GROUP):
                continue
            rows.append((_title(name, figure), _value(figure)))
            if name == "explanation_similarity":
                rows += [(f"  by chance: {kind}", _value(level)) for kind, level in held_out.chance.items()]
    rows += group_rows(record)
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}".rstrip() for name, value in rows]
    if not is_above_chance(record):
        lines += ["", "The similarity is not clearly above chance: a chance level reaches its interval."]
    by_chance = [str(each.explainer["name"]) for each in record.held_out if not is_above_chance(each)]
    if by_chance:
        lines += ["", f"By {' and '.join(by_chance)} the similarity is not clearly above chance."]
    return "\n".join(lines)


def group_rows(record: FidelityRecord) -> list[tuple[str, str]]:
    """List each figure of the student by group with the worst one, and of held-out methods the similarity."""
    if record.groups is None:
        return []
    rows = _by_group(record.figures, record.groups)
    for held_out in record.held_out:
        similarity = {name: each for name, each in held_out.figures.items() if "explanation_similarity" in name}
        if held_out.groups is not None:
            rows += _by_group(similarity, held_out.groups, f" by {held_out.explainer['name']}")
    return rows


def _by_group(figures: Mapping[str, MetricValue], groups: GroupsRecord, method: str = "") -> list[tuple[str, str]]:
    rows = []
    for name, overall in figures.items():
        found = {group: own[name] for group, own in groups.figures.items() if name in own}
        if name.startswith(("teacher_", "zero_")) or not found:
            continue
        worst = figures.get(f"{WORST_GROUP}{name}")
        rows += [("", ""), (f"{_title(name, overall)}{method} by {' × '.join(groups.columns)}", "")]
        for group, figure in found.items():
            note = "  worst" if worst is not None and worst.detail == group else ""
            rows.append((f"  {one_line(group)}", f"{_value(figure)}  n = {figure.samples:,}{note}"))
    return rows


def _model(model: ModelRecord) -> str:
    return f"{model.name} ({model.ran_as})" if model.ran_as else model.name


def _title(name: str, figure: MetricValue) -> str:
    title = name.replace("_", " ")
    return f"{title} ({one_line(figure.detail)})" if figure.detail else title


def _value(figure: MetricValue) -> str:
    interval = "" if figure.low is None else f"  [{figure.low:.3f}, {figure.high:.3f}]"
    return f"{figure.value:.3f}{interval}"
