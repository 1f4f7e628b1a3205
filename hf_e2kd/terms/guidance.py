"""Losses between a model's maps and annotations, as masks: maps (B, h, w) and masks (B, H, W) → (B,).

They guide a model to look at the annotated object (Rao et al., "Studying How to Efficiently and Effectively Guide
Models with Explanations", ICCV 2023). With A a map, A⁺ its positive part, ^ the division by max|A| and M the mask:

| loss     | prepared as            | formula                                              |
|----------|------------------------|------------------------------------------------------|
| `energy` | raw                    | 1 − Σ_M A⁺ / Σ A⁺; 1 − Σ_M A⁺ where Σ A⁺ < 1e-7      |
| `l1`     | positive, normalised   | mean over all pixels of abs(Â − M)                   |
| `ppce`   | positive, normalised   | mean over M of −log Â, each at most 100              |
| `rrr`    | signed, normalised     | Σ outside M of Â² (RRR*: the maps, not the gradients) |

The order is the official code's: positive part, division by the maximum, bilinear enlargement to the mask. The raw
maps of `energy` are enlarged first and their positive part is taken last.

The weight. The paper adds λ times the **sum** of these losses over a batch to the mean classification loss. Here one
value a sample is returned for the caller to average, so that λ doesn't depend on the batch size: the paper's λ times
its batch size is ours (λ = 1e-3 with batches of 64 is .064 here). `rrr` is itself a sum over pixels, and grows with the
mask's resolution.

A sample without a mask (all False, as where nothing is annotated) says nothing of where to look: it costs 0 and gives
no gradient, while the mean is still taken over the whole batch, as in the official code. A map without positive values
costs what the formula gives, `energy` 1, `l1` the mask's share, `ppce` 100 and `rrr` 0 where it is all zero.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch

from ..alignment.grids import resize_maps
from ..alignment.precision import at_least_float32
from ..choices import unknown_choice
from ..metrics.citations import MODEL_GUIDANCE
from .base import ReferenceOutput, StepOutput, Term
from .matching import flatten_targets, mean_of_explained

GuidanceLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(maps (B, h, w) in at least float32, masks (B, H, W) bool) → (B,), finite for empty maps and masks too."""

NO_ENERGY = 1e-7
"""Below this total, `energy` isn't divided by it [the official code]."""

FAINT = 1e-20
"""Maps whose largest magnitude is below this aren't divided by it: their gradient, 1/max|A|, would overflow."""

LOG_FLOOR = 1e-12
"""Where a normalised map is below this, the logarithm of `ppce` has no gradient, for the same reason."""

LOG_LIMIT = 100.0
"""The most that one pixel costs in `ppce`, as in torch's binary cross-entropy."""


def energy_loss(maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Energy loss: 1 − Σ_M A⁺ / Σ A⁺, the share of the positive energy outside the mask (Rao et al., Sec. 3).

    Where the total is below 1e-7 it is 1 − Σ_M A⁺ instead, which is 1 for a map without positive values.
    """
    positive = resize_maps(maps, (masks.shape[1], masks.shape[2])).clamp(min=0)
    total = positive.sum(dim=(1, 2))
    inside = (positive * masks).sum(dim=(1, 2))
    return 1 - inside / torch.where(total < NO_ENERGY, torch.ones_like(total), total)


def l1_loss(maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """L1 loss: mean |Â − M| over all pixels (Rao et al., Sec. 3; GRADIA), 0 for a map equal to the mask."""
    return (_normalised(maps.clamp(min=0), masks) - masks.to(maps.dtype)).abs().mean(dim=(1, 2))


def ppce_loss(maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Per-pixel cross-entropy: mean of −log Â over the mask (Rao et al., Sec. 3; HAICS); the outside costs nothing.

    A pixel costs at most 100; below Â = 1e-12 it has no gradient.
    """
    strength = _normalised(maps.clamp(min=0), masks)
    strength = torch.where(strength < LOG_FLOOR, strength.detach(), strength)
    # The logarithm of 1 stands in where that of 0 would make a NaN of the gradient.
    seen = strength > torch.finfo(strength.dtype).tiny
    cost = -torch.where(seen, strength, torch.ones_like(strength)).log()
    cost = torch.where(seen, cost, torch.full_like(cost, LOG_LIMIT)).clamp(max=LOG_LIMIT)
    return (cost * masks).sum(dim=(1, 2)) / masks.sum(dim=(1, 2)).clamp(min=1)


def rrr_loss(maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """RRR* loss: Σ Â² outside the mask (Rao et al., Sec. 3), of evidence against the class as well as for it."""
    return (_normalised(maps, masks).square() * ~masks).sum(dim=(1, 2))


_LOSSES: dict[str, GuidanceLoss] = {
    "energy": energy_loss,
    "l1": l1_loss,
    "ppce": ppce_loss,
    "rrr": rrr_loss,
}


def register_guidance_loss(name: str, loss: GuidanceLoss) -> None:
    """Register a guidance loss by `name`, for `AnnotationReference` and `guidance_loss`.

    Args:
        loss: Function (maps (B, h, w), masks (B, H, W) bool) → (B,). Maps are at least float32 and not finer than the
            masks. Its values and gradients must be finite for all-zero maps and for empty masks, whose value is not
            used.
    """
    _LOSSES[name] = loss


def available_guidance_losses() -> list[str]:
    """List the names of the guidance losses."""
    return sorted(_LOSSES)


def guidance_loss(maps: torch.Tensor, masks: torch.Tensor, loss: str = "energy") -> torch.Tensor:
    """Compute the guidance loss of maps against annotated masks.

    Args:
        maps: Attribution maps (B, h, w) of the annotated class, signed or not.
        masks: Masks (B, H, W) bool, True on the object; all False where a sample is not annotated.
        loss: One of `available_guidance_losses()`.

    Returns:
        Losses (B,) in at least float32, to be averaged over the whole batch; 0 where the mask is empty.

    Raises:
        ValueError: unknown loss, masks that aren't bool, maps and masks of different samples, or maps finer than the
            masks, whose cells plain enlargement would skip.

    Example:
        >>> maps = torch.tensor([[[3.0, 1.0]], [[3.0, 1.0]]])
        >>> masks = torch.tensor([[[True, False]], [[False, False]]])
        >>> guidance_loss(maps, masks, "energy")
        tensor([0.2500, 0.0000])
    """
    if loss not in _LOSSES:
        raise ValueError(unknown_choice("guidance loss", loss, available_guidance_losses()))
    if masks.dtype != torch.bool:
        raise ValueError(
            f"Masks must be bool, but are {masks.dtype}. Make them so by hf_e2kd.alignment.object_masks, which knows "
            "0 and 1, shares, and a grey image's 0 to 255."
        )
    if maps.ndim != 3 or masks.ndim != 3 or len(maps) != len(masks):
        raise ValueError(
            f"Maps must be (B, h, w) and masks (B, H, W), of the same samples, but the shapes are {tuple(maps.shape)} "
            f"and {tuple(masks.shape)}."
        )
    if maps.shape[1] > masks.shape[1] or maps.shape[2] > masks.shape[2]:
        raise ValueError(
            f"Masks of {tuple(masks.shape[1:])} are coarser than the maps of {tuple(maps.shape[1:])}. Make the masks "
            "at the size of the model's input."
        )
    losses = _LOSSES[loss](at_least_float32(maps), masks)
    return torch.where(masks.flatten(1).any(dim=1), losses, torch.zeros_like(losses))


def _normalised(maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Divide maps by their largest magnitude, which is part of the gradient, and enlarge them to the masks."""
    peak = maps.abs().amax(dim=(1, 2), keepdim=True)
    maps = maps / torch.where(peak < FAINT, torch.ones_like(peak), peak)
    return resize_maps(maps, (masks.shape[1], masks.shape[2]))


class Guidance(Term):
    """Loss between the student's attribution maps and annotated masks (model guidance, Rao et al., ICCV 2023, Sec. 3).

    A sample with several targets counts by the mean over them. The share of samples whose map is all-zero is logged as
    `zero_student_maps`.

    Args:
        weight: Weight λ; None for the argument `explanation_weight`.
        reference: Name of the reference that gives annotations.
        loss: One of `available_guidance_losses()`.
    """

    name = "guidance"
    log_name = "explanation"
    citation = MODEL_GUIDANCE
    needs = frozenset({"annotation"})
    weight_argument = "explanation_weight"

    def __init__(self, weight: float | None = None, reference: str | None = None, loss: str = "energy"):
        super().__init__(weight, reference)
        self.loss = loss

    def forward(
        self, output: StepOutput, reference_output: ReferenceOutput | None, inputs: Mapping[str, Any]
    ) -> torch.Tensor | None:
        assert reference_output is not None
        explained = output.explanations.get(cast(str, self.reference))
        if explained is None:
            return None
        single, flat = flatten_targets(explained, reference_output)
        assert single.maps is not None and flat.annotation is not None
        losses = guidance_loss(single.maps, flat.annotation, self.loss)
        empty = (single.maps == 0).flatten(1).all(1) & (flat.target >= 0)
        target, sample_mask = reference_output.target, inputs.get("explained")
        self.logged = {"zero_student_maps": mean_of_explained(empty.float(), target, sample_mask).mean()}
        return mean_of_explained(losses, target, sample_mask)
