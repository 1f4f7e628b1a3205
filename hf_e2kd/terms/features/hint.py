"""Hints (FitNets; Romero et al., ICLR 2015)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..base import ReferenceOutput, StepOutput
from .base import StagedFeatureTerm, mean_over_channels, mean_over_places, to_smaller_grid, token_mask


class Hint(StagedFeatureTerm):
    """Mean squared difference of the student's features, projected to the teacher's channels, and the teacher's.

    Σ_layers mean |r(A_S) − A_T|² over places and channels, r a 1×1 convolution, or a linear layer at each token or of a
    pooled feature, which is trained with the student (FitNets, Eq. 3, with a mean in the place of half the sum). The
    features of a pair are average-pooled to the smaller grid.

    Args:
        weight: Weight in the loss.
        layers: Paths of the student's layers and of the teacher's; by default the middle stage, or block, of both.
        reference: Name of the teacher.
        stage_epochs: Epochs of a first stage, in which the student's layers up to the hint learn from it alone. FitNets
            trains so, and then without the hint: `weight=0`.
    """

    name = "hint"
    citation = r"""@inproceedings{romero2015fitnets,
    title = {FitNets: Hints for Thin Deep Nets},
    author = {Romero, Adriana and Ballas, Nicolas and Kahou, Samira Ebrahimi and Chassang, Antoine and Gatta, Carlo and
              Bengio, Yoshua},
    booktitle = {International Conference on Learning Representations},
    year = {2015}
}"""

    def __init__(
        self,
        weight: float = 1.0,
        layers: Mapping[str, str] | None = None,
        reference: str | None = None,
        stage_epochs: float = 0.0,
    ):
        super().__init__(weight, layers, reference, stage_epochs)
        self.projections = nn.ModuleList()

    def default_layers(self, student: list[str], teacher: list[str]) -> dict[str, str]:
        return {student[(len(student) - 1) // 2]: teacher[(len(teacher) - 1) // 2]}

    def setup(
        self, output: StepOutput, reference_output: ReferenceOutput, inputs: Mapping[str, Any], dataset: Any
    ) -> None:
        self.check_places(output, reference_output, inputs)
        # A linear layer over the last axis is a 1×1 convolution of features with their channels there.
        self.projections = nn.ModuleList(
            nn.Linear(student.shape[-1], teacher.shape[-1]) for student, teacher in self.pairs(output, reference_output)
        )

    def forward(
        self, output: StepOutput, reference_output: ReferenceOutput | None, inputs: Mapping[str, Any]
    ) -> torch.Tensor:
        assert reference_output is not None
        losses = [
            hint_loss(projection(student), teacher, token_mask(student, inputs))
            for projection, (student, teacher) in zip(
                self.projections, self.pairs(output, reference_output, inputs), strict=True
            )
        ]
        return torch.stack(losses).sum(dim=0)


def hint_loss(projected: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Hint loss: mean |r(A_S) − A_T|² over places and channels (FitNets, Eq. 3, with a mean in place of half the sum).

    Args:
        projected: Projected features of the student (B, *grid, C).
        teacher: Features of the teacher (B, *grid', C); images are average-pooled to the smaller grid.
        mask: Mask (B, T) bool of the tokens of texts that count; None for all places.

    Returns:
        Losses (B,).
    """
    projected, teacher = to_smaller_grid(projected, teacher)
    return mean_over_places(mean_over_channels((projected - teacher).square()), mask)
