"""The parts of a card that say what was measured."""

import math

from ..fidelity.record import FIDELITY_FILE, FidelityRecord, Figure
from ..hub import is_hub_id
from .inert import code, text
from .measures import CHANCE, MEASURES, Measure, measure
from .pieces import TARGETS, count, data_link, explainer_text, is_multi_label, table


def figures_section(record: FidelityRecord) -> str | None:
    """The table of figures, what they mean, and on what they were measured; None where nothing was."""
    if not record.figures:
        return None
    multi_label = is_multi_label(record)
    names = [name for name in MEASURES if name in record.figures]
    names += [name for name in record.figures if name not in MEASURES and not name.startswith(("teacher_", "zero_t"))]
    total = len(record.data.samples) or record.data.rows
    rows, meanings = [], []
    for name in names:
        kind = measure(name, multi_label)
        teacher = record.figures.get(kind.teacher) if kind.teacher else None
        others = [figures.get(name) for figures in record.compared.values()]
        rows.append(
            [_title(kind, name), *(_cell(figure, total) for figure in (record.figures[name], *others, teacher))]
        )
        if kind.meaning:
            meanings.append(f"- **{kind.title}**: {kind.meaning}.")
        if name == "explanation_similarity":
            for chance, figure in record.chance.items():
                rows.append(
                    [_chance(chance, record.modality), _cell(figure, total), *("–" for _ in (*others, teacher))]
                )
            if record.chance:
                meanings.append("- **Chance**: what the similarity comes to for no good reason.")
    headings = ["", "this student", *(text(name) for name in record.compared), "teacher"]
    if all(row[-1] == "–" for row in rows):
        headings, rows = headings[:-1], [row[:-1] for row in rows]
    parts = ["## How faithful it is" if _has_reference(record) else "## Figures", _measured_on(record)]
    parts += [table(headings, rows), _verdict(record) or "", "\n".join(meanings)]
    return "\n\n".join(part for part in parts if part)


def _title(kind: Measure, name: str) -> str:
    return kind.title if name in MEASURES else code(name)


def _chance(name: str, modality: str) -> str:
    """What a chance level is called."""
    return f"– chance: {CHANCE[modality].get(name) or text(name)}"


def _cell(figure: Figure | None, total: int | None) -> str:
    if figure is None or not math.isfinite(figure.value):
        return "–"
    interval = "" if figure.low is None or figure.high is None else f" [{figure.low:.3f}, {figure.high:.3f}]"
    notes = [] if figure.detail is None else [text(figure.detail)]
    if figure.samples is not None and figure.samples != total:
        notes.append(f"n = {figure.samples:,}")
    return f"{figure.value:.3f}{interval}" + (f" ({', '.join(notes)})" if notes else "")


def _measured_on(record: FidelityRecord) -> str:
    data, explained = record.data, _is_explained(record)
    measured = len(data.samples) or data.rows
    if measured is None:
        sentences = [f"Measured on {data_link(data)}."]
    elif measured == data.rows:
        sentences = [f"Measured on all {measured:,} samples of {data_link(data)}."]
    else:
        rows = "" if data.rows is None else f" of {data.rows:,}"
        drawn = "" if data.seed is None else f", drawn with seed {data.seed}"
        sentences = [f"Measured on {measured:,}{rows} samples of {data_link(data)}{drawn}."]
    if explained:
        is_both = record.teacher is not None and record.teacher_explainer is None
        sides = "Both models are" if is_both else "The student is"
        of = TARGETS.get(record.target) or text(record.target)
        sentences.append(f"{sides} explained by {explainer_text(record.explainer)}, for {of}.")
        if record.teacher_explainer is not None:
            sentences.append(f"The teacher is explained by {explainer_text(record.teacher_explainer)}.")
    found = [*record.figures.values(), *record.chance.values()]
    if any(figure.low is not None for figure in found):
        sentences.append("In brackets: 95 % bootstrap intervals over the samples.")
    return " ".join(sentences)


def _verdict(record: FidelityRecord) -> str | None:
    """Says so where explanations are no more alike than they are for no reason."""
    similarity = record.figures.get("explanation_similarity")
    if similarity is None:
        return None
    lowest = similarity.value if similarity.low is None else similarity.low
    if all(figure.value < lowest for figure in record.chance.values()):
        return None
    return "**The similarity is not clearly above chance**: a chance level in the table reaches it."


def verification_section(record: FidelityRecord, source: str) -> str:
    """How anyone measures the figures again.

    Args:
        source: Hub id or folder of the student.
    """
    needed = "" if is_hub_id(record.data.id) else ", with the samples at hand, which are not on the Hub"
    return (
        f"[`{FIDELITY_FILE}`]({FIDELITY_FILE}) holds the samples, seeds, options and versions of these figures. "
        f"Measure them again to see which hold{needed}:\n\n```bash\nhf-e2kd fidelity --verify {source}\n```"
    )


def picture_section(record: FidelityRecord, picture: str | None) -> str | None:
    """The panel of explanations, a file beside the card."""
    if picture is None:
        return None
    if record.modality == "text":
        caption = "What each word adds to the decision"
    elif record.teacher is None:
        caption = "Where the student looks"
    else:
        caption = f"Where the teacher and the {'students' if record.compared else 'student'} look"
    return f"![{caption}]({picture})"


def cost_section(record: FidelityRecord) -> str | None:
    """Size, FLOPs and time of student and teacher; None where the student's aren't known."""
    student, teacher = record.student.cost, None if record.teacher is None else record.teacher.cost
    if student is None:
        return None
    same_device = teacher is not None and student.device == teacher.device
    kinds = [
        ("Parameters", "parameters", count, True),
        ("Size in memory", "bytes", lambda value: f"{count(value)}B", True),
        ("FLOPs of a sample", "flops", count, True),
        ("Time of a sample", "seconds", _time, same_device),
        ("Sample", "input", text, False),
        ("Device", "device", text, False),
    ]
    rows = []
    for title, name, show, is_comparable in kinds:
        values = [getattr(cost, name) for cost in (student, teacher) if cost is not None]
        if values[0] is None:
            continue
        cells = ["–" if value is None else show(value) for value in values]
        if teacher is not None:
            has_ratio = is_comparable and values[0] and values[1]
            cells.append(f"{values[0] / values[1]:.2f}" if has_ratio else "")
        rows.append([title, *cells])
    headings = ["", "this student"] if teacher is None else ["", "this student", "teacher", "ratio"]
    return f"## What it costs to run\n\n{table(headings, rows)}"


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def _has_reference(record: FidelityRecord) -> bool:
    return bool({"agreement", "explanation_similarity"} & record.figures.keys())


def _is_explained(record: FidelityRecord) -> bool:
    names = ("explanation_similarity", "energy_pointing_game", "localization_iou", "word_")
    return any(name.startswith(names) for name in record.figures)
