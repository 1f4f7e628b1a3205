"""Fidelity of any two models without training, and whether a record's figures hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import nn

from ..arguments import ExplanationDistillArguments
from ..data import AnnotatedCollator, DistillationTransform
from ..data.text import TextCollator
from ..explainers import Explainer
from ..fidelity import FidelityRecord, Figure
from ..trainer import ExplanationDistillTrainer


@dataclass
class Side:
    """A classifier with its image processor or tokenizer."""

    model: nn.Module
    processing_class: Any


@dataclass
class Columns:
    """Where a data set keeps what.

    Args:
        image: Column of the images.
        texts: Column of the texts, or two of pairs.
        label: Column of the labels, which may be missing.
    """

    image: str = "image"
    texts: Sequence[str] = ("text",)
    label: str = "label"


def evaluator(
    student: Side,
    teacher: Side,
    data: Dataset,
    columns: Columns,
    explainer: Explainer,
    *,
    is_text: bool,
    target: str = "teacher_top",
    teacher_explainer: Explainer | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    output_dir: str = "outputs/fidelity",
) -> ExplanationDistillTrainer:
    """A trainer that measures a student against a teacher, each shown the samples by its own processor or tokenizer.

    Args:
        data: Images or texts as they are; the images' transform is set on it.
        columns: Where it keeps them.
        target: Which class both explain: `"teacher_top"` or `"label"`.
        teacher_explainer: The teacher's, where it differs.
        max_length: Longest text in tokens.
    """
    arguments = ExplanationDistillArguments(
        output_dir,
        report_to="none",
        per_device_eval_batch_size=batch_size,
        explanation_target=target,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.accelerator.is_available(),
    )
    if is_text:
        collator: Any = TextCollator(
            student.processing_class,
            teacher.processing_class,
            text_columns=list(columns.texts),
            label_column=columns.label,
            max_length=max_length,
        )
    else:
        collator = AnnotatedCollator()
        several = getattr(student.model.config, "problem_type", None) == "multi_label_classification"
        transform = DistillationTransform(
            student.processing_class,
            teacher.processing_class,
            image_column=columns.image,
            label_column=columns.label,
            classes=student.model.config.num_labels if several else None,
        )
        data = data.with_transform(transform)
    return ExplanationDistillTrainer(
        student.model,
        arguments,
        eval_dataset=data,
        processing_class=student.processing_class,
        data_collator=collator,
        teacher_model=teacher.model,
        explainer=explainer,
        teacher_explainer=teacher_explainer,
    )


@dataclass(frozen=True)
class Check:
    """A claim of a record, and what was found.

    Args:
        name: Of the figure, or of what should be the same.
        stated, found: Figures, or digests; `found` is None where it couldn't be measured.
        holds: Whether they agree.
    """

    name: str
    stated: float | str | None
    found: float | str | None
    holds: bool


def verify(stated: FidelityRecord, found: FidelityRecord, tolerance: float = 0.005) -> list[Check]:
    """Compares a record with a new measurement.

    Args:
        stated: What was published.
        found: What was measured again, on the same samples.
        tolerance: How far apart two figures may be. On the same device and versions they repeat to rounding.

    Returns:
        One check for each digest and each figure of the student and of chance. Times and other students' figures are
        left out: the former differ from machine to machine, the latter's models aren't published.
    """
    checks = []
    for name in ("student", "teacher"):
        own, other = getattr(stated, name), getattr(found, name)
        if own is not None and own.weights is not None:
            weights = None if other is None else other.weights
            checks.append(Check(f"{name}'s weights", own.weights, weights, own.weights == weights))
    if stated.data.fingerprint is not None:
        fingerprint = found.data.fingerprint
        checks.append(
            Check("the samples", stated.data.fingerprint, fingerprint, stated.data.fingerprint == fingerprint)
        )
    pairs: Sequence[tuple[str, Mapping[str, Figure], Mapping[str, Figure]]] = (
        ("", stated.figures, found.figures),
        ("chance, ", stated.chance, found.chance),
    )
    for prefix, claims, figures in pairs:
        for name, claim in claims.items():
            value = figures[name].value if name in figures else None
            holds = value is not None and abs(value - claim.value) <= tolerance
            checks.append(Check(f"{prefix}{name.replace('_', ' ')}", claim.value, value, holds))
    return checks
