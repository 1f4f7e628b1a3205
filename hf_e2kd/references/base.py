"""Base class of references: the sources of the logits, maps and features that a student matches."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from ..architectures.taps import default_taps
from ..explainers import Explainer, Stochastic
from ..terms.base import ReferenceOutput
from ..terms.numbers import read_number


class Reference(Stochastic, ABC):
    """Source of the logits, maps and features that a student matches, with its weights and its loss.

    Args:
        explanation_weight: Weight λ of this reference; None takes the arguments' `explanation_weight`.
        explanation_loss: Name of the loss; None takes the arguments'.
        logits_weight: Weight of this reference's logits; None takes the arguments'.

    Raises:
        ValueError: a weight is negative, infinite or no number.
    """

    def __init__(
        self,
        explanation_weight: float | None = None,
        explanation_loss: str | None = None,
        logits_weight: float | None = None,
    ):
        self.explanation_weight = _weight("explanation_weight", explanation_weight)
        self.explanation_loss = explanation_loss
        self.logits_weight = _weight("logits_weight", logits_weight)

    # Kinds of output to compare: "logits", "maps", "annotation", "features".
    gives: ClassVar[frozenset[str]] = frozenset({"logits", "maps"})
    # Columns of the data that the reference reads beside what the student's forward takes.
    columns: tuple[str, ...] = ()
    # Whether the classes it explains are the labels, which must then be classes of the student.
    explains_labels: bool = False
    # Mark of the trainer that has set the reference up last.
    connection: object = None

    def setup(self, student: nn.Module, explainer: Explainer | None) -> None:
        """Set up the reference for a student, before training: align labels, and check the student.

        Args:
            explainer: The student's explainer, which the reference may take over; None where nothing is explained.
        """

    def check_processor(self, processing_class: Any) -> None:
        """Refuse, before training, a student whose processor shows another view than that of the reference's maps.

        Args:
            processing_class: The student's image processor or tokenizer; None where the trainer has none.
        """

    @abstractmethod
    def __call__(self, inputs: Mapping[str, Any], with_maps: bool = True) -> ReferenceOutput:
        """Compute the reference's output for a batch.

        Args:
            inputs: The batch as collated, on the student's device. With `explained` (B,) bool, only the maps of these
                samples will be looked at.
            with_maps: True if maps are needed at this step.
        """

    def check_data(self, dataset: Any, explains: bool) -> None:
        """Refuse data, before samples are read, whose transform shows other images than the reference takes them for.

        Args:
            dataset: Data set of a training or an evaluation.
            explains: Whether maps will be looked at.
        """

    def check_collator(self, collator: Any) -> None:
        """Refuse a collator that can't hold what the reference adds to the samples."""

    def tapped_model(self) -> nn.Module:
        """Return the model whose layers are read as features.

        Raises:
            ValueError: the reference has no features.
        """
        raise ValueError(
            f"A {type(self).__name__} has no features, which a live teacher alone gives. Give `teacher_model` or a "
            "TeacherReference, or leave out the terms that compare features."
        )

    def default_taps(self) -> list[str]:
        """Return the paths of the reference's stages or blocks.

        Raises:
            ValueError: the reference has no features, or its stages aren't known.
        """
        return default_taps(self.tapped_model())

    def tap(self, paths: Sequence[str]) -> None:
        """Read the features of the layers at these paths with each output, in place of those named before.

        Raises:
            ValueError: the reference has no features, or no such layer.
        """
        if paths:
            self.tapped_model()

    def explainers(self) -> list[Explainer]:
        """List the explainers that it calls, which make the student's random choices at each training step."""
        return []

    def is_model(self, model: nn.Module) -> bool:
        """Tell whether the reference is this very model."""
        return False

    def shared_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Select the reference's own logits over the classes of `ReferenceOutput.logits`."""
        return logits

    def student_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Select the student's logits over the classes of `ReferenceOutput.logits`."""
        return logits

    def to_student(self, shared: torch.Tensor) -> torch.Tensor:
        """Convert positions in `ReferenceOutput.logits` to classes of the student; −1 stays."""
        return shared


def _weight(name: str, value: Any) -> float | None:
    return None if value is None else read_number(name, value, at_least=0)
