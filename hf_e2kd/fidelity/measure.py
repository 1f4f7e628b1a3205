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

from ..alignment.labels import is_multi_label, is_score
from ..architectures.sharding import whole
from ..data.groups import group_columns, read_groups
from ..explainers import Explainer
from ..logs import get_logger
from ..references import Reference, TeacherReference
from ..store import StoredReference
from ..store.joining import unattached
from .batches import MeasuredBatches
from .control import Control, ControlMeasures
from .cost import costs_of, device_name
from .describe import describe_explainer, describe_model, describe_sample, environment
from .further import FurtherMeasures
from .groups import group_figures
from .interpretability.faithfulness import Faithfulness
from .intervals import student_figures
from .prefixes import CHANCE, chance_levels, without_prefix
from .protocol import MeasuredTrainer
from .record import DataRecord, FidelityRecord, ModelRecord
from .students import OtherStudents

logger = get_logger(__name__)


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
    others = OtherStudents.beside(student, compared or {}, trainer.explainer)
    if chance and trainer.explains:
        others.add_untrained(student, seed)
    further = controlled = None
    if explainers or faithfulness:
        options = faithfulness if isinstance(faithfulness, Faithfulness) else Faithfulness() if faithfulness else None
        further = FurtherMeasures(trainer, name, student, others.models, explainers, options, len(rows))
    if control is not None:
        change = control if isinstance(control, Control) else Control(control)
        controlled = ControlMeasures(trainer, name, change, seed)
    batches = MeasuredBatches(trainer, name, others, further, controlled, len(rows))
    # A data loader draws a random number too.
    with torch.random.fork_rng(), ExitStack() as stack:
        stack.enter_context(others.explained(trainer.args.device))
        if further is not None:
            stack.callback(further.close)
        values, output = trainer.collect_samples(selected, batches, columns)

    logits, labels = output.predictions, output.label_ids
    figures = student_figures(values, student, seed, logits, labels)
    if chance and "explanation_similarity" in figures and f"{CHANCE}shuffled" not in figures:
        logger.warning(
            "The similarity has no chance level by other samples' explanations: each batch holds one sample. Set "
            "per_device_eval_batch_size to 2 or more."
        )
    grouped = None
    if groups is not None:
        grouped = group_figures(
            values, groups, lambda own, rows: student_figures(own, student, seed, logits, labels, rows)
        )
        methods = ["", *([] if further is None else further.prefixes)]
        figures |= grouped.worst(f"{method}{model}" for method in methods for model in ("", *others.titles))
    described, teacher = _described(trainer, described, student, reference, batches.inputs, costs)
    explainer, teacher_explainer = describe_explainer(trainer.explainer), None
    if reference is not None and reference.explainers():
        teacher_explainer = describe_explainer(reference.explainers()[0])
    modality = "image" if "pixel_values" in batches.inputs else "text"
    return FidelityRecord(
        modality=modality,
        problem=problem_of(student),
        student=described,
        teacher=teacher,
        data=describe_sample(
            dataset, selected, rows, None if given else seed, columns_of=trainer.data_collator, known=data, split=split
        ),
        explainer=explainer,
        teacher_explainer=None if teacher_explainer == explainer else teacher_explainer,
        target=getattr(reference, "target", "label"),
        comparison_grid=trainer.comparison_grid,
        iou_threshold=trainer.iou_threshold,
        figures=without_prefix(figures),
        compared={title: without_prefix(figures, prefix) for prefix, title in others.titles.items()},
        compared_models={
            title: describe_model(others.models[prefix], published=False) for prefix, title in others.titles.items()
        },
        held_out=[] if further is None else further.held_out_records(figures, others.titles, grouped, chance),
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


def _described(
    trainer: MeasuredTrainer,
    described: ModelRecord,
    student: nn.Module,
    reference: Reference | None,
    inputs: Mapping[str, Any],
    costs: bool,
) -> tuple[ModelRecord, ModelRecord | None]:
    """Describe the student, as far as that isn't done, and its teacher, with their costs on a batch.

    Args:
        described: Description of the student as it was before the measurement.
    """
    teacher = None
    timed = [(student, trainer.student_inputs(inputs))]
    if isinstance(reference, TeacherReference):
        model = whole(reference.model)
        teacher = describe_model(model)
        timed.append((model, reference.inputs_of(inputs)))
    if not costs:
        return described, teacher
    own_cost, *teacher_cost = costs_of(timed)
    return replace(described, cost=own_cost), None if teacher is None else replace(teacher, cost=teacher_cost[0])


def _measured_reference(trainer: MeasuredTrainer) -> str | None:
    """Choose the reference named "teacher", or else the first that has logits, or else the first."""
    named = trainer.references
    teachers = [name for name, each in named.items() if isinstance(each, TeacherReference | StoredReference)]
    return "teacher" if "teacher" in named else next(iter([*teachers, *named]), None)
