"""Neuron selectivity transfer (Huang & Wang, 2017)."""

import torch
from torch.nn import functional as F

from .base import PlacesTerm, to_smaller_grid


class NeuronSelectivityTransfer(PlacesTerm):
    """Distance of the distributions of the student's and the teacher's channels, each a point by where it is active.

    Σ_layers MMD² of the normalised channels with the polynomial kernel k(x, y) = (xᵀy)², so that both sides
    may have any number of channels. The features of a pair are average-pooled to the smaller grid. The authors' code
    compares the last feature maps, with the weight 50 on ImageNet, and leaves out the teacher's own part, a constant.

    Args:
        weight: Weight in the loss.
        layers: Paths of the student's layers and of the teacher's; by default the last stage, or block, of both.
        reference: Name of the teacher.
    """

    name = "nst"
    citation = r"""@misc{huang2017like,
    title = {Like What You Like: Knowledge Distill via Neuron Selectivity Transfer},
    author = {Huang, Zehao and Wang, Naiyan},
    year = {2017},
    eprint = {1707.01219},
    archivePrefix = {arXiv}
}"""

    def default_layers(self, student: list[str], teacher: list[str]) -> dict[str, str]:
        return {student[-1]: teacher[-1]}

    def compare(self, student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        return nst_loss(student, teacher, mask)


def nst_loss(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Squared maximum mean discrepancy of channels: mean k(s, s′) + mean k(t, t′) − 2 mean k(s, t), k(x, y) = (xᵀy)².

    s and t are the student's and the teacher's channels as vectors over the places, divided by their norms.

    Args:
        student, teacher: Features (B, *grid, C) and (B, *grid', C'); images are average-pooled to the smaller grid.
        mask: Mask (B, T) bool of the tokens of texts that count; None for all places.

    Returns:
        Losses (B,).
    """
    student, teacher = to_smaller_grid(student, teacher)
    if mask is not None:
        student, teacher = student * mask[..., None], teacher * mask[..., None]
    own, theirs = (F.normalize(features.flatten(1, -2), dim=1) for features in (student, teacher))  # (B, places, C)
    if own.shape[1] <= max(own.shape[2], theirs.shape[2]):
        # ΣΣ (xᵀy)² over channels x of S and y of T is ⟨SSᵀ, TTᵀ⟩: two small products for few places.
        difference = own @ own.mT / own.shape[2] - theirs @ theirs.mT / theirs.shape[2]
        return difference.square().sum(dim=(1, 2))
    return _mean_kernel(own, own) + _mean_kernel(theirs, theirs) - 2 * _mean_kernel(own, theirs)


def _mean_kernel(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return (first.mT @ second).square().mean(dim=(1, 2))
