"""Values of the batches of a measurement, sample by sample."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..metrics import agreement_where_teacher_errs, negative_flips
from ..references import Reference
from ..terms import ReferenceOutput, StepOutput
from ..terms.matching import ComparisonGrid, comparison_size
from .chance import shuffled_similarity
from .control import ControlMeasures
from .further import FurtherMeasures
from .intervals import LABEL, TEACHER_CLASS
from .places import Places
from .prefixes import CHANCE
from .protocol import MeasuredTrainer
from .samples import sample_metrics
from .students import OtherStudents


class MeasuredBatches:
    """Values of every batch by `collect_samples`, of the student and of those that are measured beside it.

    Args:
        trainer: Trainer of the student.
        reference: Name of the reference that is measured; None for none.
        others: Students beside the trainer's own.
        further: Held-out explainers and faithfulness; None for neither.
        controlled: Control of the teacher; None for none.
        samples: Number of samples that all processes measure.

    Attributes:
        inputs: The last batch.
    """

    def __init__(
        self,
        trainer: MeasuredTrainer,
        reference: str | None,
        others: OtherStudents,
        further: FurtherMeasures | None,
        controlled: ControlMeasures | None,
        samples: int,
    ):
        self.trainer, self.reference, self.others = trainer, reference, others
        self.further, self.controlled = further, controlled
        self.inputs: Mapping[str, Any] = {}
        self._places = Places(samples, trainer.args.world_size, trainer.args.process_index)

    def __call__(
        self,
        output: StepOutput,
        outputs: Mapping[str, ReferenceOutput],
        inputs: Mapping[str, Any],
        matched: Callable[[nn.Module], StepOutput],
    ) -> dict[str, torch.Tensor]:
        """Compute the values of one batch, as `BatchMeasures` describes it."""
        self.inputs = inputs
        trainer, name = self.trainer, self.reference
        found = self.others.outputs(trainer.student_inputs(inputs), matched)
        measured = {} if name is None else {name: (trainer.references[name], outputs[name])}
        counted = self._places.next(len(output.logits))
        settings = trainer.is_multi_label, trainer.comparison_grid, trainer.iou_threshold
        # By the samples' places: each batch has random orders of its own, whichever process it is of.
        seed = self._places.first
        values = batch_measures(output, measured, inputs, *settings, found, counted, seed)
        if self.controlled is not None and name is not None:
            values |= self.controlled(output, outputs[name], inputs, found)
        if self.further is not None and name is not None:
            values |= self.further(output, outputs[name], inputs, found, counted, seed)
        return values


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
