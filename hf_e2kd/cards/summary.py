"""The first screen of a card: one sentence with the result, and its main figures."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from ..fidelity.record import FidelityRecord, MetricValue
from .escaping import count, text
from .measures import measure_named
from .tables import is_above_chance

ROWS = 5
"""Largest number of rows of the first table."""

SIMILARITY = "explanation_similarity"
OUTPUTS = ("agreement", "spearman", "pearson", "mae")
TASK = ("accuracy", "f1", "map", "label_spearman", "label_pearson", "label_mae")
FURTHER = ("negative_flips", "worst_class_accuracy", "energy_pointing_game", "localization_iou", "word_auroc")
SHARES = ("agreement", "accuracy")


def headline(record: FidelityRecord) -> Markup:
    """The result in one sentence of Markdown: agreement and similarity, beside another student's and chance; else the
    accuracy or the F1.

    Example:
        >>> from hf_e2kd.fidelity import DataRecord, ModelRecord
        >>> figures = {"accuracy": MetricValue(0.905)}
        >>> model, data = ModelRecord(None, "ViT"), DataRecord(None, "pets")
        >>> print(headline(FidelityRecord("image", "single_label_classification", model, data, {}, figures)))
        It predicts the labelled class of 90.5 % of the images.
    """
    teacher = "the teacher" if record.teacher is None else "its teacher"
    inputs = f"{record.modality}s"
    sentences = {
        "agreement": f"It predicts the same class as {teacher} on {{}} of the {inputs}",
        "spearman": f"Its scores and those of {teacher} have a rank correlation of {{}}",
        SIMILARITY: "the similarity of their explanations is {}",
        "accuracy": f"It predicts the labelled class of {{}} of the {inputs}",
        "f1": "The F1 of its predictions is {}",
    }
    if record.problem == "multi_label_classification":
        sentences["agreement"] = f"Class by class it decides as {teacher} in {{}} of the cases"
    found = [name for name in ("agreement", "spearman", SIMILARITY) if _has(record, name)]
    if found[:1] == [SIMILARITY]:
        sentences[SIMILARITY] = f"The similarity of its explanations and those of {teacher} is {{}}"
    found = found or [name for name in ("accuracy", "f1") if _has(record, name)][:1]
    parts = [
        Markup(sentences[name]).format(_shown(name, record.figures[name])) + _beside(name, record) for name in found
    ]
    if SIMILARITY in found and not is_above_chance(record):
        parts[-1] += Markup(", not clearly above chance")
    return Markup("; ").join(parts) + Markup(".") if parts else Markup("")


def summary_table(record: FidelityRecord) -> list[list[Markup]]:
    """The main figures in Markdown: a row of titles and at most five more; nothing where few were measured."""
    if len(record.figures) <= 3:
        return []
    students = [record.figures, *record.compared.values()]
    chance, cost = highest_chance(record), record.student.cost
    firsts = [next((name for name in group if _has(record, name)), "") for group in (OUTPUTS, (SIMILARITY,), TASK)]
    names = [name for name in (*firsts, *FURTHER) if _has(record, name)]
    rows = []
    for name in names[: ROWS - (chance is not None) - (cost is not None)]:
        kind = measure_named(name, record.problem)
        figures = [*(figures.get(name) for figures in students), record.figures.get(kind.teacher or "")]
        rows.append([Markup(kind.title), *(None if each is None else _shown(name, each) for each in figures)])
        if name == SIMILARITY and chance is not None:
            rows.append([Markup("– highest level by chance"), _shown(name, chance), *(None for _ in students)])
    if cost is not None:
        taught = None if record.teacher is None else record.teacher.cost
        sizes = [cost, *(None for _ in record.compared), taught]
        rows.append(
            [Markup("Parameters"), *(None if each is None else Markup(count(each.parameters)) for each in sizes)]
        )
    if all(row[-1] is None for row in rows):
        rows = [row[:-1] for row in rows]
    heads = [Markup(""), Markup("this student"), *map(text, record.compared), Markup("teacher")]
    return [heads[: len(rows[0])], *([Markup("–") if cell is None else cell for cell in row] for row in rows)]


def highest_chance(record: FidelityRecord) -> MetricValue | None:
    """The highest chance level of the similarity; None where none was measured."""
    levels: Sequence[MetricValue] = [level for level in record.chance.values() if math.isfinite(level.value)]
    return max(levels, key=lambda level: level.value) if levels and _has(record, SIMILARITY) else None


def _beside(name: str, record: FidelityRecord) -> Markup:
    """In parentheses the first compared student's figure, and the chance level."""
    shown = [
        Markup("{}: {}").format(text(title), _shown(name, figures[name]))
        for title, figures in list(record.compared.items())[:1]
        if name in figures and math.isfinite(figures[name].value)
    ]
    chance = highest_chance(record) if name == SIMILARITY else None
    shown += [] if chance is None else [Markup("chance: {}").format(_shown(name, chance))]
    return Markup(" ({})").format(Markup(", ").join(shown)) if shown else Markup("")


def _has(record: FidelityRecord, name: str) -> bool:
    return name in record.figures and math.isfinite(record.figures[name].value)


def _shown(name: str, figure: MetricValue) -> Markup:
    if not math.isfinite(figure.value):
        return Markup("–")
    return Markup(f"{100 * figure.value:.1f} %" if name in SHARES else f"{figure.value:.2f}")
