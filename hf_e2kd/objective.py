"""One batch's loss: the sum of a task term and of each reference's terms."""

from dataclasses import dataclass, field

import torch

from .alignment.grids import resize_maps, to_common_grid
from .losses import distillation_loss, explanation_loss
from .references import Reference, ReferenceOutput


@dataclass
class Objective:
    """One batch's loss, and all that it was made of.

    Args:
        loss: What is minimised, a mean over the batch.
        terms: The unweighted terms by their logged name.
        logits: (B, classes) of the student.
        maps: By reference, the student's maps (B, *grid); empty where no explanation was made.
        references: What each reference said.
    """

    loss: torch.Tensor
    terms: dict[str, torch.Tensor]
    logits: torch.Tensor
    maps: dict[str, torch.Tensor] = field(default_factory=dict)
    references: dict[str, ReferenceOutput] = field(default_factory=dict)

    def add(self, name: str, weight: float, value: torch.Tensor) -> None:
        """Adds weight · value to the loss, and the value to the terms."""
        self.terms[name] = value
        self.loss = self.loss + weight * value

    def add_logits(
        self, name: str, weight: float, reference: Reference, said: ReferenceOutput, temperature: float
    ) -> None:
        """Adds the distillation of the reference's logits, where it has some and they count."""
        if said.logits is not None and weight > 0:
            losses = distillation_loss(reference.student_logits(self.logits), said.logits, temperature)
            self.add(name, weight, losses.mean())

    def add_explanation(
        self, name: str, weight: float, maps: torch.Tensor, said: ReferenceOutput, loss: str
    ) -> torch.Tensor:
        """Adds the explanation loss of the student's maps (B, *grid).

        Returns:
            The share of pairs that had an all-zero map and counted 0.
        """
        student, reference, counted = compared_maps(maps, said)
        losses, empty = explanation_loss(student, reference, loss, mask=counted)
        self.add(name, weight, losses.mean())
        return empty.float().mean()


def compared_maps(
    student: torch.Tensor, said: ReferenceOutput
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The student's and the reference's maps on one grid, 0 in cells that don't count, and which count (None: all)."""
    assert said.maps is not None
    student, reference = to_common_grid(student, said.maps)
    if said.mask is None:
        return student, reference, None
    counted = resize_maps(said.mask.float(), (student.shape[-2], student.shape[-1])) > 0.5
    return student * counted, reference * counted, counted
