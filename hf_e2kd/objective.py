"""One batch's loss: the sum of a task term and of each reference's terms."""

from dataclasses import dataclass, field

import torch

from .alignment.grids import resize_maps, to_common_grid
from .explainers import ExplainedOutput
from .losses import distillation_loss, explanation_loss
from .references import Reference, ReferenceOutput


@dataclass
class Objective:
    """One batch's loss, and all that it was made of.

    Args:
        loss: What is minimised, a mean over the batch.
        terms: The unweighted terms by their logged name.
        logits: (B, classes) of the student.
        explained: By reference, the student's explanation of its target; empty where none was made.
        references: What each reference said.
    """

    loss: torch.Tensor
    terms: dict[str, torch.Tensor]
    logits: torch.Tensor
    explained: dict[str, ExplainedOutput] = field(default_factory=dict)
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
        self,
        name: str,
        weight: float,
        explained: ExplainedOutput,
        said: ReferenceOutput,
        loss: str,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Adds the explanation loss of the student's maps, or of its vectors: the mean over the explained samples.

        Args:
            rows: (B,) bool, the samples that were to be explained; None for all.

        Returns:
            The share of these that had an all-zero map and counted 0.
        """
        student, reference, counted = compared_maps(explained, said)
        losses, empty = explanation_loss(student, reference, loss, mask=counted)
        if rows is not None:
            losses, empty = losses[rows], empty[rows]
        self.add(name, weight, losses.mean())
        return empty.float().mean()


def compared_maps(
    student: ExplainedOutput, said: ReferenceOutput
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """What is compared, on one grid: the student's and the reference's maps (B, *grid), or vectors (B, C, *grid).

    Returns:
        Both, 0 in the cells that don't count, and which count (the same shape, or None for all).

    Raises:
        ValueError: two texts' maps have different numbers of cells.
    """
    assert student.maps is not None and said.maps is not None
    if student.maps.ndim == 2:
        return _compared_texts(student, said)
    if student.vectors is not None and said.vectors is not None:
        own, reference = to_common_grid(student.vectors, said.vectors)
    else:
        own, reference = to_common_grid(student.maps, said.maps)
    if said.mask is None:
        return own, reference, None
    counted = resize_maps(said.mask.float(), (own.shape[-2], own.shape[-1])) > 0.5
    counted = counted if own.ndim == 3 else counted[:, None].expand_as(own)
    return own * counted, reference * counted, counted


def _compared_texts(
    student: ExplainedOutput, said: ReferenceOutput
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Words that both have seen; without words, the tokens, which must then be the same."""
    assert student.maps is not None and said.maps is not None
    if student.maps.shape != said.maps.shape:
        raise ValueError(
            f"The student's explanation has {student.maps.shape[-1]} cells and the reference's {said.maps.shape[-1]}: "
            "they are of different texts, or of different tokenizers. Make the batches by "
            "hf_e2kd.TextCollator(tokenizer, teacher_tokenizer), which matches words."
        )
    masks = [mask for mask in (student.mask, said.mask) if mask is not None]
    counted = masks[0] & masks[-1] if masks else torch.ones_like(student.maps, dtype=torch.bool)
    return student.maps * counted, said.maps * counted, counted
