"""Losses between a student's and a reference's maps, each (B, *grid) → (B,).

A map's scale says nothing (logits of two models differ in scale), so every loss first normalises both maps. A pair with
an all-zero map has no direction to learn from: it contributes 0, and no gradient, while the mean is still taken over
the whole batch, so that accumulated and distributed steps stay exact.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch.nn import functional as F

from ..metrics.citations import GOOD_TEACHERS_EXPLAIN
from .base import ReferenceOutput, StepOutput, Term
from .matching import align_maps, flatten_targets, mean_of_explained

ExplanationLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(student (N, cells), reference (N, cells), mask (N, cells) bool) → (N,).

Neither map is all-zero, the largest absolute value of each is 1, and both are 0 in the cells that don't count.
"""


def cosine_loss(student: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Cosine loss: 1 − ⟨E_S, E_T⟩ / (‖E_S‖₂·‖E_T‖₂) of the maps E (e²KD, Eq. 2)."""
    return 1 - (F.normalize(student, dim=1) * F.normalize(reference, dim=1)).sum(dim=1)


def mse_loss(student: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Squared distance of the normalised maps: Σ (E_S/‖E_S‖₂ − E_T/‖E_T‖₂)², twice the cosine loss."""
    return (F.normalize(student, dim=1) - F.normalize(reference, dim=1)).square().sum(dim=1)


def l1_loss(student: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Absolute distance of the normalised maps: Σ |E_S/‖E_S‖₁ − E_T/‖E_T‖₁|."""
    return (F.normalize(student, p=1, dim=1) - F.normalize(reference, p=1, dim=1)).abs().sum(dim=1)


def pearson_loss(student: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Correlation loss: 1 − Pearson's correlation of the maps, which is 0 for a constant map."""
    return cosine_loss(_centred(student, mask), _centred(reference, mask), mask)


def _centred(maps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Subtract each map's mean; zero where only rounding errors are left, whose direction means nothing."""
    mean = maps.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    centred = torch.where(mask, maps - mean, torch.zeros_like(maps))
    varied = centred.abs().amax(dim=1, keepdim=True) > 10 * torch.finfo(maps.dtype).eps
    return torch.where(varied, centred, torch.zeros_like(centred))


def kl_loss(student: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Divergence KL(E_T⁺/‖E_T⁺‖₁ ‖ E_S⁺/‖E_S⁺‖₁) of the maps' positive parts as distributions over the cells."""
    smallest = torch.finfo(student.dtype).eps
    log_student = (F.normalize(student.clamp(min=0), p=1, dim=1) + smallest).log()
    target = F.normalize(reference.clamp(min=0), p=1, dim=1)
    return F.kl_div(log_student, target, reduction="none").sum(dim=1)


_LOSSES: dict[str, ExplanationLoss] = {
    "cosine": cosine_loss,
    "kl": kl_loss,
    "l1": l1_loss,
    "mse": mse_loss,
    "pearson": pearson_loss,
}


def register_explanation_loss(name: str, loss: ExplanationLoss) -> None:
    """Register a loss between maps by `name`, for the argument `explanation_loss`.

    Args:
        name: Name of the loss; an earlier loss of that name is replaced.
        loss: Function (student (N, cells), reference (N, cells), mask (N, cells) bool) → (N,). Neither map is all-zero,
            the largest absolute value of each is 1, and both are 0 in the cells that don't count.
    """
    _LOSSES[name] = loss


def available_explanation_losses() -> list[str]:
    """List the names of the losses between maps."""
    return sorted(_LOSSES)


def explanation_loss(
    student: torch.Tensor, reference: torch.Tensor, loss: str = "cosine", mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the loss between maps on one grid.

    Args:
        student, reference: Maps (B, *grid); the reference is a constant.
        loss: Name of the loss, one of `available_explanation_losses()`.
        mask: Mask (B, *grid) bool; cells outside it count for neither side.

    Returns:
        The losses (B,), 0 where a map is all-zero, and a mask (B,) bool of these samples.

    Raises:
        ValueError: unknown loss, or maps of two shapes.
    """
    if loss not in _LOSSES:
        raise ValueError(f"Unknown explanation loss '{loss}'. Available: {', '.join(available_explanation_losses())}.")
    if student.shape != reference.shape:
        raise ValueError(f"Maps of shapes {tuple(student.shape)} and {tuple(reference.shape)} can't be compared.")
    reference = reference.detach().to(student.dtype)
    mask = torch.ones_like(student, dtype=torch.bool) if mask is None else mask
    student, reference = student.masked_fill(~mask, 0).flatten(1), reference.masked_fill(~mask, 0).flatten(1)
    empty = ~((student != 0).any(dim=1) & (reference != 0).any(dim=1))
    losses = _LOSSES[loss](_unit_scale(student, empty), _unit_scale(reference, empty), mask.flatten(1))
    return torch.where(empty, torch.zeros_like(losses), losses), empty


def _unit_scale(maps: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    """Divide each map by its largest absolute value, so that no norm of a faint map underflows.

    The losses don't depend on the scale, so it may be a constant to the gradient. An empty pair becomes ones, which
    keep the formulas finite until `where` stops their gradient.
    """
    maps = torch.where(empty[:, None], torch.ones_like(maps), maps)
    return maps / maps.detach().abs().amax(dim=1, keepdim=True)


class Maps(Term):
    """Loss between the student's and a reference's attribution maps of the same class (e²KD, Eq. 2).

    A sample with several targets counts by the mean over them; a pair with an all-zero map counts 0, and the share of
    such samples is logged as `zero_map_share`.

    Args:
        weight: Weight λ; None for the argument `explanation_weight`.
        reference: Name of the reference.
        loss: One of `available_explanation_losses()`.
    """

    name = "maps"
    log_name = "explanation"
    citation = GOOD_TEACHERS_EXPLAIN
    needs = frozenset({"maps"})
    weight_argument = "explanation_weight"

    def __init__(self, weight: float | None = None, reference: str | None = None, loss: str = "cosine"):
        super().__init__(weight, reference)
        self.loss = loss

    def forward(
        self, output: StepOutput, reference_output: ReferenceOutput | None, inputs: Mapping[str, Any]
    ) -> torch.Tensor | None:
        assert reference_output is not None
        explained = output.explanations.get(cast(str, self.reference))
        if explained is None:
            return None
        student, reference, mask = align_maps(*flatten_targets(explained, reference_output))
        losses, empty = explanation_loss(student, reference, self.loss, mask=mask)
        target, sample_mask = reference_output.target, inputs.get("explained")
        self.logged = {"zero_map_share": mean_of_explained(empty.float(), target, sample_mask).mean()}
        return mean_of_explained(losses, target, sample_mask)
