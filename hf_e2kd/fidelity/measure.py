"""Measurement of a student against its references, sample by sample."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Subset

from ..alignment.labels import class_names, is_multi_label, is_score
from ..architectures.base import evaluating
from ..architectures.functions import as_module
from ..architectures.sharding import whole
from ..data.groups import group_columns, read_groups
from ..explainers import Explainer
from ..logs import get_logger
from ..metrics import agreement_where_teacher_errs, negative_flips
from ..metrics.running import SampleValues
from ..references import Reference, TeacherReference
from ..references.teacher import without_foreign_layer
from ..store import StoredReference
from ..store.joining import unattached
from ..terms import ReferenceOutput, StepOutput
from ..terms.matching import ComparisonGrid, comparison_size
from .chance import shuffled_similarity
from .control import Control, ControlMeasures
from .cost import costs_of, device_name
from .describe import (
    content_columns,
    data_digest,
    describe_columns,
    describe_data,
    describe_explainer,
    describe_model,
    environment,
)
from .further import FurtherMeasures
from .groups import group_figures
from .interpretability.faithfulness import Faithfulness
from .intervals import LABEL, POOLED_RESAMPLES, TEACHER_CLASS, metric_values, pooled_values
from .places import Places
from .prefixes import CHANCE, UNTRAINED, chance_levels, compared_prefix, without_prefix
from .protocol import MeasuredTrainer
from .record import DataRecord, FidelityRecord, MetricValue
from .samples import are_several, sample_metrics
from .scores import score_figures
from .students import check_compared, explained, plain_output, students_without_maps, untrained_student

logger = get_logger(__name__)

Matched = Callable[[nn.Module], StepOutput]
ReferenceOutputs = Mapping[str, ReferenceOutput]


def measure_fidelity(
    trainer: MeasuredTrainer,
    dataset: Any = None,
    *,
    samples: int = 1000,
    rows: Sequence[int] | None = None,
    seed: int = 0,
    compared: Mapping[str, nn.Module | Callable[..., Any]] | None = None,
    data: DataRecord | None = None,
    split: str | None = None,
    group_column: str | Sequence[str] | None = None,
    chance: bool = True,
    costs: bool = True,
    explainers: Sequence[str | Explainer] = (),
    faithfulness: bool | Faithfulness = False,
    control: str | Control | None = None,
) -> FidelityRecord:
    """Measure a trainer's student against its reference: every figure of a card, and what is needed to repeat it.

    Teacher and student take one forward pass a sample (or their explainer's `forward_passes`), each further student
    another one. With several processes all of them must call it.

    Args:
        trainer: Trainer of the student, with its references. Of several references the one named "teacher" is
            measured, or else the first teacher, or else the first.
        dataset: Data set to measure on; the trainer's `eval_dataset` by default.
        samples: Number of samples that are drawn by `seed`; all, if there are no more.
        rows: Positions of the samples, in place of drawn ones.
        compared: Other students with the same classes in the same order, by what they are called, as
            `{"plain KD": model}`: modules, or functions of a batch (`FunctionModel`). Those without gradients are
            explained by methods that take none.
        data: Description of the data set; by default the one that it states itself.
        split: Name of its split, if it doesn't state one.
        group_column: Column, or several, by whose values the samples are grouped: every figure by group, and the worst
            group's; by default the trainer's argument `group_column`.
        chance: True to measure the similarity's chance levels.
        costs: True to time the models and count their operations.
        explainers: Explainers that the student was not trained on, by which the similarity is measured too, as
            `["integrated_gradients", "occlusion"]`. Each takes its forward passes of every model.
        faithfulness: True to measure how far the explanations name what decides: deletion and insertion of images,
            comprehensiveness and sufficiency of texts. Or a `Faithfulness` with other options.
        control: Change of the inputs that should change nothing, by which the teacher is compared with itself: "noise"
            or "shift". Or a `Control` with other options. It takes the teacher's passes once more.

    Raises:
        ValueError: there is no data set, or none with a length; no samples are asked for; the samples can't be grouped
            by the column; another student has other classes; a held-out explainer isn't held out; or a control doesn't
            suit the models or the data.
    """
    dataset = trainer.eval_dataset if dataset is None else dataset
    if not hasattr(dataset, "__len__") or isinstance(dataset, Mapping | str):
        raise ValueError("Fidelity is measured on drawn samples: give one data set with a length, not a stream.")
    given = rows is not None
    # Plain numbers, as a record's file holds them.
    rows = drawn_rows(len(dataset), samples, seed) if rows is None else [int(row) for row in rows]
    selected = dataset.select(rows) if hasattr(dataset, "select") else Subset(dataset, rows)
    columns = trainer.group_columns if group_column is None else group_columns(group_column)
    groups = read_groups(unattached(selected), columns) if columns else None
    name = _measured_reference(trainer)
    reference = trainer.references.get(name or "")
    # Of a student that FSDP2 has sharded a whole copy; described before an evaluation that may cast it.
    student = whole(trainer.student)
    described = describe_model(student, published=False)
    others = {compared_prefix(number): as_module(model) for number, model in enumerate((compared or {}).values())}
    titles = dict(zip(others, compared or {}, strict=True))
    check_compared(student, {title: others[prefix] for prefix, title in titles.items()})
    if chance and trainer.explains and (untrained := untrained_student(student, seed)):
        others[UNTRAINED] = untrained
    further: FurtherMeasures | None = None
    if explainers or faithfulness:
        faithful = faithfulness if isinstance(faithfulness, Faithfulness) else Faithfulness() if faithfulness else None
        further = FurtherMeasures(trainer, name, student, others, explainers, faithful, len(rows))
    controlled: ControlMeasures | None = None
    if control is not None:
        kind = control if isinstance(control, Control) else Control(control)
        controlled = ControlMeasures(trainer, name, kind, seed)
    mapless = students_without_maps(others, trainer.explainer)
    shown: dict[str, torch.Tensor] = {}
    places = Places(len(rows), trainer.args.world_size, trainer.args.process_index)

    def measures(
        output: StepOutput, outputs: ReferenceOutputs, inputs: Mapping[str, Any], matched: Matched
    ) -> Mapping[str, torch.Tensor]:
        shown.update(inputs)
        found = {
            other: plain_output(model, trainer.student_inputs(inputs)) if other in mapless else matched(model)
            for other, model in others.items()
        }
        measured = {} if name is None else {name: (trainer.references[name], outputs[name])}
        counted = places.next(len(output.logits))
        settings = trainer.is_multi_label, trainer.comparison_grid, trainer.iou_threshold
        # By the samples' places: each batch has random orders of its own, whichever process it is of.
        values = batch_measures(output, measured, inputs, *settings, found, counted, places.first)
        if controlled is not None and name is not None:
            values |= controlled(output, outputs[name], inputs, found)
        if further is not None and name is not None:
            values |= further(output, outputs[name], inputs, found, counted, places.first)
        return values

    # A data loader draws a random number too.
    with torch.random.fork_rng(), ExitStack() as stack:
        for other, model in others.items():
            model.to(trainer.args.device)
            if other in mapless:
                stack.enter_context(evaluating(model))
            else:
                # Of another architecture, as a teacher may be.
                stack.enter_context(explained(model, without_foreign_layer(trainer.explainer, model, remedy="")))
        if further is not None:
            stack.callback(further.close)
        values, output = trainer.collect_samples(selected, measures, columns)

    def figures_of(own: SampleValues, rows: Any = slice(None)) -> dict[str, MetricValue]:
        found = metric_values(own, seed, class_names(student))
        if trainer.is_multi_label and output.predictions is not None and are_several(output.label_ids):
            logits, labels = (torch.as_tensor(each)[rows] for each in (output.predictions, output.label_ids))
            found |= pooled_values(logits, labels, seed)
        if is_score(student):
            found |= score_figures(own, POOLED_RESAMPLES, seed)
        return found

    figures, grouped = figures_of(values), None
    if chance and "explanation_similarity" in figures and f"{CHANCE}shuffled" not in figures:
        logger.warning(
            "The similarity has no chance level by other samples' explanations: each batch holds one sample. Set "
            "per_device_eval_batch_size to 2 or more."
        )
    if groups is not None:
        grouped = group_figures(values, groups, figures_of)
        methods = ["", *([] if further is None else further.prefixes)]
        figures |= grouped.worst(f"{method}{model}" for method in methods for model in ("", *titles))
    teacher = teacher_explainer = None
    timed = [(student, trainer.student_inputs(shown))]
    if isinstance(reference, TeacherReference):
        model = whole(reference.model)
        teacher = describe_model(model)
        timed.append((model, reference.inputs_of(shown)))
    if reference is not None and reference.explainers():
        teacher_explainer = describe_explainer(reference.explainers()[0])
    if costs:
        own_cost, *teacher_cost = costs_of(timed)
        described = replace(described, cost=own_cost)
        teacher = None if teacher is None else replace(teacher, cost=teacher_cost[0])
    explainer = describe_explainer(trainer.explainer)
    described_data = describe_data(dataset, data, split)
    modality = "image" if "pixel_values" in shown else "text"
    return FidelityRecord(
        modality=modality,
        problem=problem_of(student),
        student=described,
        teacher=teacher,
        data=replace(
            described_data,
            columns=described_data.columns or describe_columns(dataset, trainer.data_collator),
            rows=len(dataset),
            samples=rows,
            seed=None if given else seed,
            fingerprint=data_digest(selected, content_columns(dataset)),
        ),
        explainer=explainer,
        teacher_explainer=None if teacher_explainer == explainer else teacher_explainer,
        target=getattr(reference, "target", "label"),
        comparison_grid=trainer.comparison_grid,
        iou_threshold=trainer.iou_threshold,
        figures=without_prefix(figures),
        compared={
            title: without_prefix(figures, compared_prefix(number)) for number, title in enumerate(compared or {})
        },
        compared_models={title: describe_model(others[prefix], published=False) for prefix, title in titles.items()},
        held_out=[] if further is None else further.held_out_records(figures, titles, grouped, chance),
        faithfulness=None if further is None else further.faithfulness_record(figures, modality, grouped),
        chance=chance_levels(figures) if chance else {},
        control=None if controlled is None else controlled.record(figures, modality, grouped),
        groups=None if grouped is None else grouped.record(chance),
        environment=environment() | {"device": device_name(trainer.args.device)},
        seed=seed,
        batch_size=trainer.args.eval_batch_size,
        created=date.today().isoformat(),
    )


def problem_of(student: nn.Module) -> str:
    """The problem that a student solves, as its record states it."""
    if is_multi_label(student):
        return "multi_label_classification"
    return "regression" if is_score(student) else "single_label_classification"


def drawn_rows(rows: int, count: int, seed: int) -> list[int]:
    """Draw the positions of the samples by a seed from so many rows, in the order of measuring.

    Raises:
        ValueError: none are asked for.
    """
    if count < 1:
        raise ValueError(f"samples is {count}. Give the number of samples to measure on, at least 1.")
    return np.random.default_rng(seed).permutation(rows)[:count].tolist()


def batch_measures(
    output: StepOutput,
    measured: Mapping[str, tuple[Reference, ReferenceOutput]],
    inputs: Mapping[str, Any],
    multi_label: bool,
    grid: ComparisonGrid,
    iou_threshold: float,
    others: Mapping[str, StepOutput],
    counted: int | None = None,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Compute the values of one batch: `sample_metrics`, and further ones for the card.

    Args:
        output: Output of the student.
        measured: Measured reference and its output by name; empty if there is none.
        inputs: The batch.
        multi_label: True for a multi-label student.
        grid: Grid on which maps of images are compared.
        iou_threshold: Threshold of `localization_iou`.
        others: Outputs of other students, by the beginning of their metrics' names.
        counted: Number of the batch's first samples that are measured; None for all.
        seed: Seed of the random orders of texts' words.

    Returns:
        Values (B,) or (B, K) by metric; NaN where one doesn't count.
    """
    values = student_measures(output, measured, inputs, multi_label, grid, iou_threshold)
    labels = inputs.get("labels")
    scores = output.logits.shape[1] == 1 and not multi_label
    if labels is not None and labels.ndim == 1 and not labels.is_floating_point() and not scores:
        values[LABEL] = labels
    for name, (reference, reference_output) in measured.items():
        if reference_output.logits is not None and not multi_label and not scores:
            values[TEACHER_CLASS] = reference.to_student(reference_output.logits.argmax(1))
        if "explanation_similarity" in values:
            values[f"{CHANCE}shuffled"] = shuffled_similarity(
                output.explanations[name], reference_output, comparison_size(inputs, grid), counted, seed
            )
    for prefix, found in others.items():
        metrics = student_measures(found, measured, inputs, multi_label, grid, iou_threshold)
        own = {name: value for name, value in metrics.items() if not name.startswith(("teacher_", "zero_teacher_"))}
        values |= {f"{prefix}{name}": value for name, value in own.items()}
    return values


def student_measures(
    output: StepOutput,
    measured: Mapping[str, tuple[Reference, ReferenceOutput]],
    inputs: Mapping[str, Any],
    multi_label: bool,
    grid: ComparisonGrid,
    iou_threshold: float,
) -> dict[str, torch.Tensor]:
    """Compute `sample_metrics`, and where the student does worse than its teacher or repeats its mistakes."""
    references = {name: reference for name, (reference, _) in measured.items()}
    outputs = {name: reference_output for name, (_, reference_output) in measured.items()}
    values = sample_metrics(output, outputs, references, inputs, multi_label, iou_threshold, grid)
    for reference, found in measured.values():
        if found.logits is not None and found.shared_labels is not None and "accuracy" in values:
            decisions = reference.student_logits(output.logits), found.logits, found.shared_labels
            values["negative_flips"] = negative_flips(*decisions)
            values["agreement_where_teacher_errs"] = agreement_where_teacher_errs(*decisions)
    return values


def _measured_reference(trainer: MeasuredTrainer) -> str | None:
    """Choose the reference named "teacher", or else the first that has logits, or else the first."""
    named = trainer.references
    teachers = [name for name, each in named.items() if isinstance(each, TeacherReference | StoredReference)]
    return "teacher" if "teacher" in named else next(iter([*teachers, *named]), None)
