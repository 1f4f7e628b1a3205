"""The parts of a card that say what a student is, how it came about and what it doesn't show."""

from collections.abc import Mapping
from typing import Any

from ..fidelity.record import FidelityRecord
from .citations import citations
from .inert import code, hub_link, text
from .objective import Term, terms
from .pieces import TARGETS, count, data_link, explainer_text, is_multi_label, model_link, shown, table

# Arguments that the sentence on the loss states.
_OBJECTIVE = {
    *("task_weight", "logits_weight", "temperature"),
    *("explanation_weight", "explanation_loss", "explanation_target"),
}


def summary(record: FidelityRecord) -> str:
    """What the student is and how it was trained, in a sentence or two."""
    parameters = f", {count(record.student.cost.parameters)} parameters" if record.student.cost else ""
    kind = {"image": "images", "text": "texts"}[record.modality]
    article = "A multi-label" if is_multi_label(record) else "A"
    used = terms(record.training)
    taught = [term for term in used if not term.annotated]
    teacher = "a teacher that is not named here" if record.teacher is None else model_link(record.teacher)
    sentences = [f"{article} classifier of {kind} ({code(record.student.architecture)}{parameters})."]
    if any(term.explanation_weight > 0 for term in taught):
        outputs = "its outputs and " if any(term.logits_weight > 0 for term in taught) else ""
        sentences.append(f"It was distilled by e²KD from {teacher}: trained to match {outputs}its explanations.")
    elif any(term.logits_weight > 0 for term in taught):
        sentences.append(
            f"It was distilled from {teacher}, by its outputs alone: explanations had no part in its training."
        )
    elif record.teacher is not None:
        sentences.append(f"It is compared here with {teacher}.")
    if any(term.explanation_weight > 0 for term in used if term.annotated):
        sentences.append("In training, boxes or masks told it where to look (model guidance).")
    return " ".join(sentences)


def checkpoint_note(step: int | None) -> str | None:
    """That training goes on; None of a finished student."""
    if step is None:
        return None
    return (
        f"> **A checkpoint from the middle of training**, after {step:,} optimizer steps. What isn't measured during "
        "training isn't in this card."
    )


def limits_section(record: FidelityRecord) -> str:
    """What the figures don't say."""
    used = terms(record.training)
    is_taught = any(not term.annotated for term in used)
    points = ["It gives every input one of its classes, even one that belongs to none of them."]
    if is_multi_label(record):
        points = ["It knows its own classes only, and says nothing of anything else."]
    if record.figures:
        points.append("The figures are of the samples named above. On other data they can be otherwise.")
    if any(name.startswith("worst_") for name in record.figures):
        points.append("Most figures are means over the samples: see the worst class before you rely on one.")
    if "explanation_similarity" in record.figures:
        points += [
            "**What similarity does not show**: that both models compute alike, or for the right reasons. It compares "
            "one kind of explanation, of one class a sample, and an explanation can itself misstate what a model does. "
            "Explanations can be alike for no good reason: "
            + ("compare the chance levels." if record.chance else "how alike was not measured here."),
        ]
    if is_taught:
        points.append("A student takes over its teacher's mistakes and biases, and the faithful one most of all.")
    if record.compared:
        points.append("Each student in the table is one training run: small differences may be the seed's.")
    return "## Limits\n\n" + "\n".join(f"- {point}" for point in points)


def training_section(record: FidelityRecord) -> str | None:
    """How the student was trained; None where that isn't known."""
    training = record.training
    if training is None:
        return None
    start = hub_link(training.base_model) if training.base_model else "no checkpoint of the Hub"
    points = [f"**Start**: {start}"]
    if record.teacher is not None and any(not term.annotated for term in terms(training)):
        points.append(f"**Teacher**: {model_link(record.teacher)}{_revision(record.teacher.revision)}")
    if training.data is not None:
        rows = "" if training.data.rows is None else f", {training.data.rows:,} samples"
        points.append(f"**Data**: {data_link(training.data)}{rows}")
    points += [f"**Loss**: {_objective(record)}"] if _objective(record) else []
    if training.augmentation:
        points.append(f"**Augmentation**: {text(training.augmentation)}")
    length = [
        *([] if training.steps is None else [f"{training.steps:,} optimizer steps"]),
        *([] if training.epochs is None else [f"{round(training.epochs, 2):g} epochs"]),
        *([] if training.seconds is None else [_duration(training.seconds)]),
    ]
    if length:
        points.append(f"**Length**: {', '.join(length)}")
    if training.hardware:
        points.append(f"**Hardware**: {text(training.hardware)}")
    if training.co2_kg is not None:
        points.append(f"**Emissions**: {training.co2_kg:.3g} kg of CO₂ equivalents, as codecarbon estimates them")
    arguments = {
        name: value
        for name, value in training.arguments.items()
        if name not in _OBJECTIVE and value is not None and value is not False
    }
    parts = ["## Training", "\n".join(f"- {point}" for point in points)]
    if arguments:
        parts.append(table(["argument", "value"], [[code(name), shown(value)] for name, value in arguments.items()]))
    return "\n\n".join(parts)


def _objective(record: FidelityRecord) -> str:
    assert record.training is not None
    arguments = record.training.arguments
    summands = []
    if arguments.get("task_weight"):
        summands.append(f"{arguments['task_weight']:g} · cross-entropy with the labels")
    for term in terms(record.training):
        summands += _summands(term, arguments, explainer_text(term.explainer or record.explainer))
    return " + ".join(summands)


def _summands(term: Term, arguments: Mapping[str, Any], explainer: str) -> list[str]:
    found = []
    if term.logits_weight > 0:
        temperature = arguments.get("temperature", 1.0)
        found.append(
            f"{term.logits_weight:g} · KL divergence from the teacher's outputs at temperature {temperature:g}"
        )
    if term.explanation_weight > 0:
        loss = f"{code(term.loss)} loss" if term.loss else "loss"
        against = "boxes or masks" if term.annotated else "the teacher's explanations"
        explains = "" if term.explains is None else f" of {TARGETS.get(term.explains) or text(term.explains)}"
        options = "".join(f", {code(name)} = {shown(value)}" for name, value in term.options)
        found.append(f"{term.explanation_weight:g} · {loss} against {against} ({explainer}{explains}{options})")
    return found


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def sources_section(record: FidelityRecord, name: str, license: str | None) -> str:
    """Models and data with revisions and licenses.

    Args:
        name: What the student is called.
        license: As its metadata state it.
    """
    training = record.training
    rows: list[list[Any]] = [["this student", code(name), record.student.revision, license]]
    if training is not None and training.base_model is not None:
        rows.append(["its start", hub_link(training.base_model), None, training.base_license])
    if record.teacher is not None:
        rows.append(["teacher", model_link(record.teacher), record.teacher.revision, record.teacher.license])
    if training is not None and training.data is not None:
        rows.append(["training data", data_link(training.data), training.data.revision, training.data.license])
    if record.figures:
        rows.append(["data of the figures", data_link(record.data), record.data.revision, record.data.license])
    cells = [
        [
            role,
            what,
            "–" if revision is None else code(str(revision)[:12]),
            "not stated" if stated is None else text(stated),
        ]
        for role, what, revision, stated in rows
    ]
    environment = ", ".join(f"{text(name)} {text(value)}" for name, value in record.environment.items())
    made = f"Measured{'' if record.created is None else f' on {text(record.created)}'}"
    others = "The teacher and the data" if record.teacher is not None else "The data"
    notes = [
        f"{others} may be licensed on other terms than this model." if len(rows) > 1 else "",
        f"{made} with seed {record.seed}; {environment}." if environment and record.figures else "",
    ]
    parts = ["## Sources and licenses", table(["", "", "revision", "license"], cells), *notes]
    return "\n\n".join(part for part in parts if part)


def citations_section(record: FidelityRecord) -> str:
    """BibTeX of the methods that were used."""
    return "## Citations\n\n```bibtex\n" + "\n\n".join(citations(record)) + "\n```"


def _revision(revision: str | None) -> str:
    return "" if revision is None else f", revision {code(str(revision)[:12])}"
