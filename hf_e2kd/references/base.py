"""Where the map that a student must match comes from."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..explainers import Explainer, Stochastic


@dataclass
class ReferenceOutput:
    """What a reference says of one batch. All of it is constant to the gradient.

    Args:
        target: (B,) the explained classes, as classes of the student; −1 for samples that aren't explained. (B, K),
            padded by −1, where samples have several, and so with everything below that belongs to a target.
        maps: (B, *grid), or None where only logits, or an annotation, are given.
        vectors: (B, channels, *grid), matched instead of the maps where the student's explanation has them too.
        logits: (B, shared) over the classes that reference and student share, or None where there are none.
        mask: (B, *grid) bool, the cells that count; None where all do.
        shared_labels: (B,) the labels as positions among the shared classes (−1 where not shared), or None.
        annotation: (B, H, W) bool, where the explained object is, in place of a map; empty where that isn't known.
        view_matrix: (B, R, 3), where maps, vectors and mask belong to another view of the image than the student's:
            from the student's to theirs, as `hf_e2kd.alignment.sample_maps` takes it.
    """

    target: torch.Tensor
    maps: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    shared_labels: torch.Tensor | None = None
    vectors: torch.Tensor | None = None
    annotation: torch.Tensor | None = None
    view_matrix: torch.Tensor | None = None

    @property
    def has_explanation(self) -> bool:
        """Whether it says where to look."""
        return self.maps is not None or self.annotation is not None


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
