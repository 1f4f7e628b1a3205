"""The tables of a card's figures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ..fidelity.groups import WORST_GROUP, is_lower_better
from ..fidelity.record import FidelityRecord, HeldOutRecord, MetricValue
from .escaping import code, text
from .measures import CHANCE, EXPLAINERS, MEASURES, OF_EACH_EXPLAINER, RANDOM_ORDER, control_title, measure_named

_SIMILARITY = "explanation_similarity"

MOST_GROUPS = 20
"""Largest number of groups in a table."""


@dataclass(frozen=True)
class Row:
    """One line of the table of figures.

    Attributes:
        title: In Markdown.
        cells: This student's value, those of the compared students, and the teacher's where any row has one; None where
            one has none.
        meaning: The end of a sentence, in Markdown; None of what this library doesn't know.
    """

    title: Markup
    cells: Sequence[MetricValue | None]
    meaning: Markup | None = None


def figures_table(record: FidelityRecord) -> list[Row]:
    """The figures of a record, in the order of `MEASURES`; others come last."""
    own = record.figures
    names = [each for name in MEASURES for each in (name, f"{WORST_GROUP}{name}") if each in own]
    names += [name for name in own if name not in names and not name.startswith(("teacher_", "zero_t"))]
    others = list(record.compared.values())
    rows = []
    for name in names:
        kind = measure_named(name, record.problem)
        values = [own[name], *(figures.get(name) for figures in others), own.get(kind.teacher or "")]
        title = Markup(kind.title) if kind.meaning else code(name)
        meaning = Markup(kind.meaning) if kind.meaning else None
        rows.append(Row(title, [_finite(each) for each in values], meaning))
        if name == _SIMILARITY:
            rows += _chance_rows(record.chance, record)
        elif record.faithfulness is not None and name in record.faithfulness.chance:
            rows.append(
                _beside_row("chance", Markup(RANDOM_ORDER[record.modality]), record.faithfulness.chance[name], record)
            )
        if record.control is not None and name in record.control.figures:
            rows.append(
                _beside_row(
                    "control", text(control_title(record.control.options)), record.control.figures[name], record
                )
            )
        if name in OF_EACH_EXPLAINER:
            rows += [row for held_out in record.held_out for row in _held_out_rows(name, held_out, record)]
    if all(row.cells[-1] is None for row in rows):
        rows = [Row(row.title, row.cells[:-1], row.meaning) for row in rows]
    return rows


@dataclass(frozen=True)
class GroupsTable:
    """Figures by group.

    Attributes:
        columns: The data's columns that make the groups, in Markdown.
        titles: Heads of the figures' columns, in Markdown.
        rows: A group's name in Markdown, its number of samples, and its figures; None where it has none.
        of: Number of all groups; the rows are those with the worst first figure.
    """

    columns: Markup
    titles: Sequence[Markup]
    rows: Sequence[tuple[Markup, int, Sequence[MetricValue | None]]]
    of: int


def groups_table(record: FidelityRecord) -> GroupsTable | None:
    """The student's figures by group, of held-out methods the similarity; None where the samples weren't grouped."""
    if record.groups is None or not record.groups.figures:
        return None
    groups = record.groups.figures
    measured = dict.fromkeys(name for figures in groups.values() for name in figures)
    names = [name for name in MEASURES if name in measured]
    names += [name for name in measured if name not in MEASURES and not name.startswith(("teacher_", "zero_t"))]
    kinds = [measure_named(name, record.problem) for name in names]
    heads = [Markup(kind.title) if kind.meaning else code(name) for name, kind in zip(names, kinds, strict=True)]
    columns = [{group: own[name] for group, own in groups.items() if name in own} for name in names]
    for held_out in record.held_out:
        by_group = {} if held_out.groups is None else held_out.groups.figures
        similar = {group: own[_SIMILARITY] for group, own in by_group.items() if _SIMILARITY in own}
        if similar:
            heads.append(_by_method(_SIMILARITY, held_out))
            columns.append(similar)

    def badness(group: str) -> float:
        figure = columns[0].get(group)
        if figure is None or not math.isfinite(figure.value):
            return math.inf
        return -figure.value if is_lower_better(names[0]) else figure.value

    shown = set(sorted(groups, key=badness)[:MOST_GROUPS])
    rows = [
        (
            text(group),
            max((figure.samples or 0 for figure in figures.values()), default=0),
            [_finite(column.get(group)) for column in columns],
        )
        for group, figures in groups.items()
        if group in shown
    ]
    return GroupsTable(Markup(" × ").join(code(column) for column in record.groups.columns), heads, rows, len(groups))


def _held_out_rows(name: str, held_out: HeldOutRecord, record: FidelityRecord) -> list[Row]:
    """The rows of a figure by an explainer that the student was not trained on."""
    if name not in held_out.figures:
        return []
    kind = measure_named(name)
    beside = [held_out.compared.get(other, {}).get(name) for other in record.compared]
    values = [held_out.figures[name], *beside, held_out.figures.get(kind.teacher or "")]
    rows = [Row(_by_method(name, held_out), [_finite(each) for each in values])]
    return rows + (_chance_rows(held_out.chance, record) if name == _SIMILARITY else [])


def _by_method(name: str, held_out: HeldOutRecord) -> Markup:
    return Markup(f"{measure_named(name).title} by {method_title(held_out)}")


def method_title(held_out: HeldOutRecord) -> Markup:
    """The name of a held-out explainer, in Markdown."""
    name = str(held_out.explainer.get("name", "an unnamed method"))
    return Markup(EXPLAINERS[name]) if name in EXPLAINERS else code(name)


def _chance_rows(chance: Mapping[str, MetricValue], record: FidelityRecord) -> list[Row]:
    known = CHANCE[record.modality]
    titles = {level: Markup(known[level]) if level in known else text(level) for level in chance}
    return [_beside_row("chance", titles[level], value, record) for level, value in chance.items()]


def _beside_row(kind: str, title: Markup, value: MetricValue, record: FidelityRecord) -> Row:
    return Row(Markup(f"– {kind}: {title}"), [_finite(value), *(None for _ in record.compared), None])


def is_explained(record: FidelityRecord) -> bool:
    """Tell whether a figure is of explanations."""
    names = ("explanation_similarity", "energy_pointing_game", "localization_iou", "word_")
    return any(name.startswith(names) for name in record.figures)


def is_above_chance(record: FidelityRecord | HeldOutRecord) -> bool:
    """Tell whether the similarity's interval lies above each level of chance; True where neither was measured."""
    similarity = record.figures.get(_SIMILARITY)
    if similarity is None:
        return True
    lowest = similarity.value if similarity.low is None else similarity.low
    return all(level.value < lowest for level in record.chance.values())


def _finite(value: MetricValue | None) -> MetricValue | None:
    return value if value is not None and math.isfinite(value.value) else None


def by_chance_alone(record: FidelityRecord) -> list[Markup]:
    """The held-out methods by which the similarity isn't clearly above chance, in Markdown."""
    return [method_title(held_out) for held_out in record.held_out if not is_above_chance(held_out)]


def runtimes(record: FidelityRecord) -> list[tuple[Markup, Markup]]:
    """The models that ran in another precision or runtime than torch's float32, and as what they ran, in Markdown."""
    models = {Markup("This student"): record.student, Markup("The teacher"): record.teacher}
    models |= {text(title): model for title, model in record.compared_models.items()}
    return [(title, text(model.ran_as)) for title, model in models.items() if model is not None and model.ran_as]
