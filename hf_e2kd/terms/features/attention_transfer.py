"""Attention transfer (Zagoruyko & Komodakis, ICLR 2017)."""

import torch
from torch.nn import functional as F

from .base import PlacesTerm, mean_over_channels, mean_over_places, to_smaller_grid


class AttentionTransfer(PlacesTerm):
    """Squared difference of the student's and the teacher's spatial attention maps, layer by layer.

    Σ_layers mean_places (Q_S/‖Q_S‖₂ − Q_T/‖Q_T‖₂)², with Q = mean_channels |A|² at each place (activation-based
    attention transfer: Eq. 2 with F²_sum, in the form of the authors' code, a mean of squares in the place of a norm).
    The features of a pair are average-pooled to the smaller grid. Han et al. (ICML 2023)
    take the weight 1000.

    Args:
        weight: Weight in the loss.
        layers: Paths of the student's layers and of the teacher's; by default the ends of stages, or the blocks.
        reference: Name of the teacher.
    """

    name = "attention_transfer"
    citation = r"""@inproceedings{zagoruyko2017paying,
    title = {Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks via
             Attention Transfer},
    author = {Zagoruyko, Sergey and Komodakis, Nikos},
    booktitle = {International Conference on Learning Representations},
    year = {2017}
}"""

    def compare(self, student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        return attention_transfer_loss(student, teacher, mask)


def attention_transfer_loss(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention transfer: mean_places (Q_S/‖Q_S‖₂ − Q_T/‖Q_T‖₂)², Q = mean_channels A² (Eq. 2, as in the paper's code).

    Args:
        student, teacher: Features (B, *grid, C) and (B, *grid', C'); images are average-pooled to the smaller grid.
        mask: Mask (B, T) bool of the tokens of texts that count; None for all places.

    Returns:
        Losses (B,).
    """
    student, teacher = to_smaller_grid(student, teacher)
    strengths = [mean_over_channels(features.square()) for features in (student, teacher)]
    if mask is not None:
        strengths = [strength * mask for strength in strengths]
    own, theirs = (F.normalize(strength.flatten(1), dim=1).view_as(strength) for strength in strengths)
    return mean_over_places((own - theirs).square(), mask)
