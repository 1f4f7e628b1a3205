"""Values of the batches of a measurement, sample by sample."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..metrics import agreement_where_teacher_errs, negative_flips
from ..references import Reference
from ..terms import ReferenceOutput, StepOutput
from ..terms.matching import comparison_size
from .chance import shuffled_similarity
from .control import ControlMeasures
from .further import FurtherMeasures
from .intervals import LABEL, TEACHER_CLASS
from .places import Places
from .prefixes import CHANCE
from .protocol import MeasuredTrainer
from .samples import sample_metrics
from .students import OtherStudents

Measured = Mapping[str, tuple[Reference, ReferenceOutput]]
"""The measured reference and its output, by its name; empty if there is none."""


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
        name, references = self.reference, self.trainer.references
        found = self.others.outputs(self.trainer.student_inputs(inputs), matched)
        measured = {} if name is None else {name: (references[name], outputs[name])}
        if name is not None and self.trainer.explains and "maps" in references[name].gives:
            _refuse_unexplained(outputs[name])
        counted = self._places.next(len(output.logits))
        # By the samples' places: each batch has random orders of its own, whichever process it is of.
        seed = self._places.first
        values = self._of_student(output, measured, inputs) | self._of_classes(output, measured, inputs)
        if name is not None and "explanation_similarity" in values:
            size = comparison_size(inputs, self.trainer.comparison_grid)
            values[f"{CHANCE}shuffled"] = shuffled_similarity(
                output.explanations[name], outputs[name], size, counted, seed
            )
        for prefix, other in found.items():
            metrics = self._of_student(other, measured, inputs)
            own = {name: value for name, value in metrics.items() if not name.startswith(("teacher_", "zero_teacher_"))}
            values |= {f"{prefix}{name}": value for name, value in own.items()}
        if self.controlled is not None and name is not None:
            values |= self.controlled(output, outputs[name], inputs, found)
        if self.further is not None and name is not None:
            values |= self.further(output, outputs[name], inputs, found, counted, seed)
        return values

    def _of_student(self, output: StepOutput, measured: Measured, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Compute `sample_metrics`, and where a student does worse than its teacher or repeats its mistakes."""
        references = {name: reference for name, (reference, _) in measured.items()}
        outputs = {name: reference_output for name, (_, reference_output) in measured.items()}
        trainer = self.trainer
        settings = trainer.is_multi_label, trainer.iou_threshold, trainer.comparison_grid
        values = sample_metrics(output, outputs, references, inputs, *settings)
        for reference, found in measured.values():
            if found.logits is not None and found.shared_labels is not None and "accuracy" in values:
                decisions = reference.student_logits(output.logits), found.logits, found.shared_labels
                values["negative_flips"] = negative_flips(*decisions)
                values["agreement_where_teacher_errs"] = agreement_where_teacher_errs(*decisions)
        return values

    def _of_classes(self, output: StepOutput, measured: Measured, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """List the samples' labels and the teacher's classes, by which figures are told apart; none of scores."""
        multi_label = self.trainer.is_multi_label
        if output.logits.shape[1] == 1 and not multi_label:
            return {}
        values, labels = {}, inputs.get("labels")
        if labels is not None and labels.ndim == 1 and not labels.is_floating_point():
            values[LABEL] = labels
        for reference, found in measured.values():
            if found.logits is not None and not multi_label:
                values[TEACHER_CLASS] = reference.to_student(found.logits.argmax(1))
        return values


def _refuse_unexplained(reference_output: ReferenceOutput) -> None:
    """Refuse unlabelled data where labels are explained, of which an evaluation measures the rest.

    Raises:
        ValueError: with the remedies.
    """
    if not reference_output.has_explanation:
        raise ValueError(
            "The teacher explains each sample's label (explanation_target='label'), and the data have none, or other "
            "classes than the student's. Measure on labelled data, or with a trainer whose explanation_target is "
            "'teacher_top'."
        )
