"""The part of a trainer that measurements and descriptions read."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from ..explainers import Explainer
from ..metrics.running import SampleValues
from ..references import Reference
from ..terms.matching import ComparisonGrid
from .samples import BatchMeasures


class MeasuredTrainer(Protocol):
    """Protocol of an `ExplanationDistillTrainer`: the attributes and methods that a measurement reads.

    Attributes:
        args, state, callback_handler: Of transformers' `Trainer`.
        train_dataset, eval_dataset: Data sets.
        data_collator: Function that makes their batches.
        optimizer, lr_scheduler: Of the training, once there is one.
        optimizer_is_given: Whether the trainer was given its optimizer, in the place of the arguments' one.
        steps_of_other_trainings: Optimizer steps by which other trainings changed the student.
        student: The student without wrappers.
        explainer: The student's explainer.
        references: References by name.
        terms: Terms of the loss by name.
        explains: Whether explanations are made.
        is_multi_label: Whether the student decides each class for itself.
        comparison_grid: Grid on which maps of images are compared.
        iou_threshold: Threshold of `localization_iou`.
        group_columns: Columns by whose values the samples are grouped.
    """

    args: Any
    state: Any
    callback_handler: Any
    train_dataset: Any
    eval_dataset: Any
    data_collator: Any
    optimizer: Any
    lr_scheduler: Any
    optimizer_is_given: bool
    explainer: Explainer
    references: Mapping[str, Reference]
    terms: Any

    @property
    def steps_of_other_trainings(self) -> int: ...

    @property
    def student(self) -> nn.Module: ...

    @property
    def explains(self) -> bool: ...

    @property
    def is_multi_label(self) -> bool: ...

    @property
    def comparison_grid(self) -> ComparisonGrid: ...

    @property
    def iou_threshold(self) -> float: ...

    @property
    def group_columns(self) -> tuple[str, ...]: ...

    def student_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns of a batch that the student is given."""
        ...

    def informed_explainer(self, explainer: str | Explainer) -> Explainer:
        """Return an explainer, by its name or as it is, that knows the student's tokenizer."""
        ...

    def collect_samples(
        self, dataset: Any, measures: BatchMeasures, group_columns: Sequence[str] = ()
    ) -> tuple[SampleValues, Any]:
        """Run an evaluation that keeps the values of every sample."""
        ...

    def explanation_weight_of(self, reference: Reference) -> float:
        """Return the weight of a reference's explanations."""
        ...

    def logits_weight_of(self, reference: Reference) -> float:
        """Return the weight of a reference's logits."""
        ...
