"""Losses between a student's and a reference's maps, each (B, *grid) → (B,).

A map's scale says nothing (logits of two models differ in scale), so every loss first normalises both maps. An all-zero
map has no direction to learn from, and no gradient. A reference's contributes 0: there is nothing to match. A student's
costs the loss's worst value, so that dead maps never look like a perfect loss. The mean is still taken over the whole
batch, so that accumulated and distributed steps stay exact.

Maps of images are compared at the image's size, as the official code does: enlarged bilinearly, then compared. For
cosine, mse and pearson that is computed from the small maps, exactly (`alignment.enlarged_coordinates`).
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch.nn import functional as F

from ..alignment.grids import enlarged_coordinates, resize_maps
from ..choices import unknown_choice
from ..metrics.citations import GOOD_TEACHERS_EXPLAIN
from .base import ReferenceOutput, StepOutput, Term
from .matching import (
    ComparisonGrid,
    align_maps,
    comparison_size,
    flatten_targets,
    is_plain,
    matched_values,
    mean_of_explained,
)

ExplanationLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(student (N, cells), reference (N, cells), mask (N, cells) bool) → (N,).

The largest absolute value of each map is 1, and both are 0 in the cells that don't count. No reference is all-zero. A
student may be, and the value for it must be finite; it has no gradient.
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


def _pearson_of_coordinates(student: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Pearson's loss of maps given by `enlarged_coordinates`, whose first coordinate holds the mean."""
    return cosine_loss(_without_first(student), _without_first(reference), mask)


def _without_first(coordinates: torch.Tensor) -> torch.Tensor:
    return _varied(F.pad(coordinates[:, 1:], (1, 0)))


def _centred(maps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Subtract each map's mean; zero where only rounding errors are left, whose direction means nothing."""
    mean = maps.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return _varied(torch.where(mask, maps - mean, torch.zeros_like(maps)))


def _varied(centred: torch.Tensor) -> torch.Tensor:
    varied = centred.abs().amax(dim=1, keepdim=True) > 10 * torch.finfo(centred.dtype).eps
    return torch.where(varied, centred, torch.zeros_like(centred))


def kl_loss(student: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Divergence KL(q_T ‖ q_S) of the maps' positive parts as distributions over n cells, q = (E⁺/‖E⁺‖₁ + ε)/(1 + nε).

    The machine's precision ε on both sides makes it finite; it is 0 for equal maps and never below, and 0 where the
    reference has no positive part to match.
    """
    smallest = torch.finfo(student.dtype).eps
    first, second = (
        (F.normalize(maps.clamp(min=0), p=1, dim=1) + smallest) / (1 + maps.shape[1] * smallest)
        for maps in (student, reference)
    )
    divergence = F.kl_div(first.log(), second, reduction="none").sum(dim=1)
    return divergence * (reference > 0).any(dim=1)


_LOSSES: dict[str, ExplanationLoss] = {
    "cosine": cosine_loss,
    "kl": kl_loss,
    "l1": l1_loss,
    "mse": mse_loss,
    "pearson": pearson_loss,
}


_WORST = {"cosine": 1.0, "l1": 2.0, "mse": 2.0, "pearson": 1.0}
"""Largest values for maps without negative cells, at maps without a common cell (pearson: unrelated maps)."""

_OF_COORDINATES: dict[ExplanationLoss, ExplanationLoss] = {
    cosine_loss: cosine_loss,
    mse_loss: mse_loss,
    pearson_loss: _pearson_of_coordinates,
}
"""Losses that inner products and means determine, and the same losses of `enlarged_coordinates`."""


def register_explanation_loss(name: str, loss: ExplanationLoss, worst: float | None = None) -> None:
    """Register a loss between maps by `name`, for the argument `explanation_loss`.

    Args:
        name: Name of the loss; an earlier loss of that name is replaced.
        loss: Function (student (N, cells), reference (N, cells), mask (N, cells) bool) → (N,). The largest absolute
            value of each map is 1, and both are 0 in the cells that don't count. No reference is all-zero.
        worst: Value for a student's all-zero map; None for the value that the loss gives for it, which must be finite.
    """
    _LOSSES[name] = loss
    _WORST.pop(name, None)
    if worst is not None:
        _WORST[name] = worst


def available_explanation_losses() -> list[str]:
    """List the names of the losses between maps."""
    return sorted(_LOSSES)


def explanation_loss(
    student: torch.Tensor,
    reference: torch.Tensor,
    loss: str = "cosine",
    mask: torch.Tensor | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the loss between maps.

    Args:
        student, reference: Maps (B, *grid) on one grid, or (B, …, h, w) and (B, …, h', w') where a size is given; the
            reference is a constant.
        loss: Name of the loss, one of `available_explanation_losses()`.
        mask: Mask (B, *grid) bool; cells outside it count for neither side. Not together with a size.
        size: Rows and columns of the image, at which the maps are compared; None for their own grid.

    Returns:
        losses: (B,). 0 where the reference is all-zero; where the student's map alone is, the worst value without
            gradient: cosine 1, mse 2, l1 2, pearson 1, kl its value against an all-zero map.
        zero_student: (B,) bool, where the student's map is all-zero, or so faint (1e-31 in float32) that its gradient,
            which grows as the map fades, would be infinite.
        zero_reference: (B,) bool, where the reference's is.

    Raises:
        ValueError: unknown loss, maps of two shapes, or a mask beside a size.
    """
    if loss not in _LOSSES:
        raise ValueError(unknown_choice("explanation loss", loss, available_explanation_losses()))
    reference = reference.detach().to(student.dtype)
    function = _LOSSES[loss]
    if size is not None:
        if mask is not None:
            raise ValueError("A mask belongs to maps on one grid: resize maps and mask to the size first.")
        student, reference, function = _at_size(student, reference, function, size)
    if student.shape != reference.shape:
        raise ValueError(f"Maps of shapes {tuple(student.shape)} and {tuple(reference.shape)} can't be compared.")
    mask = torch.ones_like(student, dtype=torch.bool) if mask is None else mask
    student, reference = student.masked_fill(~mask, 0).flatten(1), reference.masked_fill(~mask, 0).flatten(1)
    faintest = torch.finfo(student.dtype).tiny / torch.finfo(student.dtype).eps
    zero_student, zero_reference = ~(student.abs() >= faintest).any(dim=1), ~(reference != 0).any(dim=1)
    losses = function(
        _unit_scale(student, zero_student, 0.0), _unit_scale(reference, zero_reference, 1.0), mask.flatten(1)
    )
    worst = torch.full_like(losses, _WORST[loss]) if loss in _WORST else losses.detach()
    losses = torch.where(zero_student, worst, losses)
    return torch.where(zero_reference, torch.zeros_like(losses), losses), zero_student, zero_reference


def _at_size(
    student: torch.Tensor, reference: torch.Tensor, function: ExplanationLoss, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor, ExplanationLoss]:
    """Bring maps to the image's size, or to coordinates by which the loss, then also given, is the same."""
    are_enlarged = student.shape[-2:] == reference.shape[-2:] == size
    if student.ndim == 3 and function in _OF_COORDINATES and not are_enlarged:
        return *enlarged_coordinates(student, reference, size), _OF_COORDINATES[function]
    return resize_maps(student, size), resize_maps(reference, size), function


def _unit_scale(maps: torch.Tensor, zero: torch.Tensor, fill: float) -> torch.Tensor:
    """Divide each map by its largest absolute value, so that no norm of a faint map underflows.

    The losses don't depend on the scale, so it may be a constant to the gradient. An all-zero map becomes a constant,
    which stops its gradient.
    """
    peak = maps.detach().abs().amax(dim=1, keepdim=True)
    scaled = maps / peak.masked_fill(zero[:, None], 1)
    return torch.where(zero[:, None], torch.full_like(maps, fill), scaled)


class Maps(Term):
    """Loss between the student's and a reference's attribution maps of the same class (e²KD, Eq. 2).

    A sample with several targets counts by the mean over them. The shares of all-zero maps are logged as
    `zero_student_maps` and `zero_teacher_maps`; see `explanation_loss` for what these cost.

    Args:
        weight: Weight λ; None for the argument `explanation_weight`.
        reference: Name of the reference.
        loss: One of `available_explanation_losses()`.
        grid: "image" to compare maps of images at the image's size, "native" at the larger of their own grids.
    """

    name = "maps"
    log_name = "explanation"
    citation = GOOD_TEACHERS_EXPLAIN
    needs = frozenset({"maps"})
    weight_argument = "explanation_weight"

    def __init__(
        self,
        weight: float | None = None,
        reference: str | None = None,
        loss: str = "cosine",
        grid: ComparisonGrid = "image",
    ):
        super().__init__(weight, reference)
        self.loss = loss
        self.grid = grid

    def forward(
        self, output: StepOutput, reference_output: ReferenceOutput | None, inputs: Mapping[str, Any]
    ) -> torch.Tensor | None:
        assert reference_output is not None
        explained = output.explanations.get(cast(str, self.reference))
        if explained is None:
            return None
        single, flat = flatten_targets(explained, reference_output)
        size = comparison_size(inputs, self.grid)
        if size is not None and is_plain(flat):
            compared = explanation_loss(*matched_values(single, flat), self.loss, size=size)
        else:
            student, reference, mask = align_maps(single, flat, size)
            compared = explanation_loss(student, reference, self.loss, mask=mask)
        losses, *zero = compared
        has_target = flat.target >= 0
        target, sample_mask = reference_output.target, inputs.get("explained")
        self.logged = {
            f"zero_{side}_maps": mean_of_explained((each & has_target).float(), target, sample_mask).mean()
            for side, each in zip(("student", "teacher"), zero, strict=True)
        }
        return mean_of_explained(torch.where(has_target, losses, torch.zeros_like(losses)), target, sample_mask)
