"""Distillation of activation boundaries (Heo et al., AAAI 2019)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..base import ReferenceOutput, StepOutput
from ..numbers import read_number
from .base import StagedFeatureTerm, to_smaller_grid, token_mask
from .batch_norm import ProcessBatchNorm


class ActivationBoundary(StagedFeatureTerm):
    """Hinge distance of the student's features, by a connector, to the side on which the teacher's neurons are.

    Σ_layers 2^−d Σ_places, channels max(0, μ − r(A_S))² where A_T > 0, and max(0, μ + r(A_S))² elsewhere, for the
    margin μ, d layers before the last (the alternative loss, with the layers' weights of the authors' code). r is a 1×1
    convolution, or a linear layer at each token, with a batch norm, trained with the student. Behind a ReLU the
    teacher's features have the same boundaries as before it. The features of a pair are average-pooled to the smaller
    grid.

    Args:
        weight: Weight in the loss; by default that of the authors' code.
        layers: Paths of the student's layers and of the teacher's; by default the ends of stages, or the blocks. From
            the first layer to the last.
        reference: Name of the teacher.
        stage_epochs: Epochs of a first stage, in which the student's layers learn from it alone. The paper trains so,
            and then without it: `weight=0`.
        margin: Margin μ.
    """

    name = "activation_boundary"
    citation = r"""@inproceedings{heo2019knowledge,
    title = {Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons},
    author = {Heo, Byeongho and Lee, Minsik and Yun, Sangdoo and Choi, Jin Young},
    booktitle = {AAAI Conference on Artificial Intelligence},
    year = {2019}
}"""

    def __init__(
        self,
        weight: float = 0.003,
        layers: Mapping[str, str] | None = None,
        reference: str | None = None,
        stage_epochs: float = 0.0,
        margin: float = 1.0,
    ):
        super().__init__(weight, layers, reference, stage_epochs)
        self.margin = read_number("margin", margin, above=0)
        self.connectors = nn.ModuleList()

    def setup(
        self, output: StepOutput, reference_output: ReferenceOutput, inputs: Mapping[str, Any], dataset: Any
    ) -> None:
        self.check_places(output, reference_output, inputs)
        self.connectors = nn.ModuleList(
            Connector(student.shape[-1], teacher.shape[-1]) for student, teacher in self.pairs(output, reference_output)
        )

    def forward(
        self, output: StepOutput, reference_output: ReferenceOutput | None, inputs: Mapping[str, Any]
    ) -> torch.Tensor:
        assert reference_output is not None
        loss = output.logits.new_zeros(())
        pairs = self.pairs(output, reference_output, inputs)
        for connector, (student, teacher) in zip(self.connectors, pairs, strict=True):
            mask = token_mask(student, inputs)
            # Halved by each later layer.
            loss = loss / 2 + activation_boundary_loss(connector(student, mask), teacher, self.margin, mask)
        return loss


class Connector(nn.Module):
    """Linear layer over the channels, and a batch norm over the places that count.

    Args:
        channels, teacher_channels: Channels of the student's and of the teacher's features.
    """

    def __init__(self, channels: int, teacher_channels: int):
        super().__init__()
        self.linear = nn.Linear(channels, teacher_channels, bias=False)
        nn.init.normal_(self.linear.weight, std=math.sqrt(2 / teacher_channels))
        self.norm = ProcessBatchNorm(teacher_channels)

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Connect features (B, *grid, C), of which places (B, *grid) bool count: (B, *grid, C')."""
        connected = self.linear(features)
        if mask is None:
            return self.norm(connected.flatten(0, -2)).view_as(connected)
        return torch.zeros_like(connected).masked_scatter(mask[..., None], self.norm(connected[mask]))


def activation_boundary_loss(
    connected: torch.Tensor, teacher: torch.Tensor, margin: float = 1.0, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Activation boundary loss: Σ max(0, μ − A_S)² where A_T > 0, and max(0, μ + A_S)² elsewhere.

    Args:
        connected: Connected features of the student (B, *grid, C).
        teacher: Features of the teacher (B, *grid', C); images are average-pooled to the smaller grid.
        margin: Margin μ.
        mask: Mask (B, T) bool of the tokens of texts that count; None for all places.

    Returns:
        Losses (B,), sums over places and channels.
    """
    connected, teacher = to_smaller_grid(connected, teacher)
    distances = (margin - torch.where(teacher > 0, connected, -connected)).relu().square().sum(dim=-1)
    if mask is not None:
        distances = distances * mask
    return distances.flatten(1).sum(dim=1) if distances.ndim > 1 else distances
