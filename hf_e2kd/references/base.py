"""Where the map that a student must match comes from."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from ..explainers import Explainer, Stochastic
from ..terms.base import ReferenceOutput


class Reference(Stochastic, ABC):
    """A source of explanations to match, with the weight and the loss it is matched by.

    Args:
        explanation_weight: λ of this reference; None takes the arguments' `explanation_weight`.
        explanation_loss: Name of the loss; None takes the arguments'.
        logits_weight: Weight of this reference's logits; None takes the arguments'.

    Raises:
        ValueError: a weight is negative or NaN.
    """

    def __init__(
        self,
        explanation_weight: float | None = None,
        explanation_loss: str | None = None,
        logits_weight: float | None = None,
    ):
        for name, weight in (("explanation_weight", explanation_weight), ("logits_weight", logits_weight)):
            if weight is not None and not weight >= 0:
                raise ValueError(f"{name} must be at least 0, not {weight}.")
        self.explanation_weight = explanation_weight
        self.explanation_loss = explanation_loss
        self.logits_weight = logits_weight

    # Kinds of output to compare: "logits", "maps", "annotation", "features".
    gives: ClassVar[frozenset[str]] = frozenset({"logits", "maps"})
    # Columns of the data that the reference reads beside what the student's forward takes.
    columns: tuple[str, ...] = ()
    # Whether the classes it explains are the labels, which must then be classes of the student.
    explains_labels: bool = False

    def setup(self, student: nn.Module, explainer: Explainer | None) -> None:
        """Meets the student, before training: aligns labels, checks what can be checked.

        Args:
            explainer: The student's explainer, which the reference may take over; None where nothing is explained.
        """

    def check_processor(self, processing_class: Any) -> None:
        """Refuses, before training, a student whose processor shows it something else than the reference's maps are of.

        Args:
            processing_class: The student's image processor or tokenizer; None where the trainer has none.
        """

    @abstractmethod
    def __call__(self, inputs: Mapping[str, Any], with_maps: bool = True) -> ReferenceOutput:
        """What to match on a batch.

        Args:
            inputs: The batch as collated, on the student's device. With `explained` (B,) bool, only the maps of these
                samples will be looked at.
            with_maps: Whether maps are needed at this step.
        """

    def check_collator(self, collator: Any) -> None:
        """Refuse a collator that can't hold what the reference adds to the samples."""

    def default_taps(self) -> list[str]:
        """Return the paths of the reference's stages or blocks.

        Raises:
            ValueError: the reference has no features.
        """
        raise ValueError(
            f"A {type(self).__name__} has no features, which a live teacher alone gives. Give `teacher_model` or a "
            "TeacherReference, or leave out the terms that compare features."
        )

    def tap(self, paths: Sequence[str]) -> None:
        """Let each output hold the features of the layers at these paths, in the place of those named before.

        Raises:
            ValueError: the reference has no features, or no such layer.
        """
        if paths:
            self.default_taps()

    def explainers(self) -> list[Explainer]:
        """The explainers that it calls, which make the student's random choices at each training step."""
        return []

    def is_model(self, model: nn.Module) -> bool:
        """Whether the reference is this very model."""
        return False

    def student_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """The student's logits over the classes that `ReferenceOutput.logits` is over."""
        return logits

    def to_student(self, shared: torch.Tensor) -> torch.Tensor:
        """Positions in `ReferenceOutput.logits`, as classes of the student; −1 stays."""
        return shared
