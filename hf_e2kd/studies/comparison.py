"""Fidelity of any two models without training, and whether a record's figures hold."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import nn

from ..alignment.labels import is_multi_label
from ..data import AnnotatedCollator, DistillationTransform
from ..data.text import TextCollator
from ..explainers import Explainer
from ..fidelity import FidelityRecord, MetricValue
from ..fidelity.measure import drawn_rows
from ..fidelity.record import DataRecord
from ..trainer import ExplanationDistillTrainer
from ..trainer.arguments import ExplanationDistillArguments


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

    def inputs(self, is_text: bool) -> list[str]:
        """The columns that a data set must have."""
        return list(self.texts) if is_text else [self.image]


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
        several = is_multi_label(student.model)
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
        stated, found: Figures, numbers or digests; `found` is None where it couldn't be measured.
        holds: Whether they agree; None where nothing was checked.
        reason: Why they don't agree, or weren't checked.
    """

    name: str
    stated: float | str | None
    found: float | str | None
    holds: bool | None
    reason: str | None = None


def verify(stated: FidelityRecord, found: FidelityRecord, tolerance: float = 0.005) -> list[Check]:
    """Compares a record with a new measurement.

    Args:
        stated: What was published.
        found: What was measured again, on the same samples.
        tolerance: How far apart two figures, or the ends of their intervals, may be. On the same device and versions
            they repeat to rounding.

    Returns:
        One check for each digest, for how the samples were drawn and for each figure of the student and of chance.
        Other students' figures and those of words are named, and not checked. Times are left out: they differ from
        machine to machine.

    Raises:
        ValueError: the record states nothing that could be verified.
    """
    check_verifiable(stated)
    checks = []
    for name in ("student", "teacher"):
        own, other = getattr(stated, name), getattr(found, name)
        if own is not None:
            checks.append(_same(f"{name}'s weights", own.weights, None if other is None else other.weights))
    checks += [
        _same("the samples", stated.data.fingerprint, found.data.fingerprint),
        _same("the samples' number", len(stated.data.samples), len(found.data.samples)),
        _drawn(stated.data),
    ]
    pairs: Sequence[tuple[str, Mapping[str, MetricValue], Mapping[str, MetricValue]]] = (
        ("", stated.figures, found.figures),
        ("chance, ", stated.chance, found.chance),
    )
    for prefix, claims, figures in pairs:
        for name, claim in claims.items():
            checks.append(_figure(f"{prefix}{name.replace('_', ' ')}", claim, figures.get(name), tolerance))
    for other in stated.compared:
        checks.append(Check(f"figures of {other}", None, None, None, "not checked: that student isn't published"))
    return checks


def check_verifiable(record: FidelityRecord) -> None:
    """Whether a record states what can be measured again.

    Raises:
        ValueError: it has no figures, or doesn't say of which samples.
    """
    rows, samples = record.data.rows, record.data.samples
    if not record.figures:
        problem = "it has no figures"
    elif not samples or rows is None:
        problem = "it doesn't say on which samples its figures were measured, or of how many rows these are"
    elif not all(isinstance(row, int) and 0 <= row < rows for row in samples):
        problem = f"some of its samples aren't among its {rows} rows"
    else:
        return
    raise ValueError(
        f"The record states nothing that could be verified: {problem}. Measure anew: hf-e2kd fidelity --teacher A "
        "--student B --dataset D."
    )


def _same(name: str, stated: int | str | None, found: int | str | None) -> Check:
    if stated is None:
        return Check(name, None, found, None, "not stated")
    return Check(name, stated, found, stated == found, None if stated == found else "differs")


def _drawn(data: DataRecord) -> Check:
    """Whether nobody chose the samples: they are a seed's, or each row of the data once."""
    assert data.rows is not None
    name, samples = "the samples are those that the seed draws", data.samples
    if sorted(samples) == list(range(data.rows)):
        return Check(name, data.seed, data.seed, True)
    repeated = len(samples) - len(set(samples))
    drawn = None if data.seed is None else drawn_rows(data.rows, len(samples), data.seed)
    if repeated:
        reason = f"{repeated} of {len(samples)} repeat another"
    elif drawn is None:
        reason = "no seed is stated: they may have been picked"
    else:
        others = sum(one != other for one, other in zip(samples, drawn, strict=True))
        reason = f"{others} of {len(samples)} are others: they may have been picked"
    holds = samples == drawn
    return Check(name, data.seed, data.seed if holds else None, holds, None if holds else reason)


def _figure(name: str, stated: MetricValue, found: MetricValue | None, tolerance: float) -> Check:
    if found is None and "word" in name.split():
        # A recipe measures it, on words whose polarity its data knows.
        return Check(name, stated.value, None, None, "not checked: it takes the recipe that measured it")
    if found is None:
        reason = "not measured: a column may have another name (--label-column)"
        return Check(name, stated.value, None, False, reason)
    differing = "; ".join(_differences(stated, found, tolerance))
    return Check(name, stated.value, found.value, not differing, differing or None)


def _differences(stated: MetricValue, found: MetricValue, tolerance: float) -> Iterator[str]:
    """What of a figure doesn't repeat, in words."""
    if not _near(stated.value, found.value, tolerance):
        yield "value"
    if not (_near(stated.low, found.low, tolerance) and _near(stated.high, found.high, tolerance)):
        yield f"interval {_interval(stated)} stated, {_interval(found)} found"
    if stated.samples != found.samples:
        yield f"{stated.samples} samples stated, {found.samples} found"
    if stated.detail != found.detail:
        yield f"of {stated.detail or 'all samples'} stated, of {found.detail or 'all samples'} found"


def _near(one: float | None, other: float | None, tolerance: float) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= tolerance


def _interval(figure: MetricValue) -> str:
    low, high = ("–" if end is None else f"{end:.4f}" for end in (figure.low, figure.high))
    return f"[{low}, {high}]"
