"""The methods by which a student was trained, as its record states them."""

from dataclasses import dataclass
from typing import Any

from ..fidelity.record import TrainingRecord


@dataclass(frozen=True)
class Term:
    """One reference's part of the loss.

    Attributes:
        name: Name of the reference.
        annotated: Whether boxes or masks stand in the place of a teacher.
        logits_weight, explanation_weight: 0 where it has no such part.
        loss: Name of the loss between explanations, or of the guidance loss.
        explains: The explained class, `"teacher_top"` or `"label"`.
        explainer: The teacher's method and options, as `{"name": …, "options": …}`.
        options: Names and values of what else is stated.
    """

    name: str
    annotated: bool
    logits_weight: float = 0.0
    explanation_weight: float = 0.0
    loss: str | None = None
    explains: str | None = None
    explainer: dict[str, Any] | None = None
    options: tuple[tuple[str, Any], ...] = ()


_NAMES = {
    "logits_weight": "logits_weight",
    "explanation_weight": "explanation_weight",
    "explanation_loss": "loss",
    "explains": "explains",
    "explainer": "explainer",
}


def terms(training: TrainingRecord | None) -> list[Term]:
    """Each reference's term; none where nothing is known of a training."""
    references = [] if training is None else [(each, dict(stated)) for each, stated in training.references.items()]
    return [
        Term(
            reference,
            annotated=stated.pop("kind", None) == "AnnotationReference",
            **{own: stated.pop(name) for name, own in _NAMES.items() if name in stated},
            options=tuple(stated.items()),
        )
        for reference, stated in references
    ]


def methods(training: TrainingRecord | None) -> set[str]:
    """The methods with a weight in the training: `"logits"` (distillation), `"e2kd"`, `"guidance"`."""
    used = terms(training)
    found = {"logits" for term in used if term.logits_weight > 0}
    return found | {"guidance" if term.annotated else "e2kd" for term in used if term.explanation_weight > 0}


def further_terms(training: TrainingRecord | None) -> dict[str, dict[str, Any]]:
    """The options of the terms that the argument `terms` added with a weight, by their names."""
    stated = {} if training is None else training.arguments.get("terms") or {}
    return {name: dict(options or {}) for name, options in stated.items() if (options or {}).get("weight", 1.0) > 0}
