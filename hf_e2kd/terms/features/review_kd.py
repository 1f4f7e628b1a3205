"""Knowledge review (Chen et al., CVPR 2021)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ...architectures.taps import pair_layers
from ..base import ReferenceOutput, StepOutput
from ..numbers import read_count
from .base import FeatureTerm
from .batch_norm import ProcessBatchNorm

STAGES = 4
"""Number of compared layers by default, as in the authors' networks."""


class ReviewKD(FeatureTerm):
    """Distance of the teacher's features to the student's, each fused with those of the student's deeper layers.

    Σ_layers HCL(F(A_S, deeper), A_T) with attention-based fusion modules F (Fig. 3), from the deepest layer to the
    first, and the hierarchical context loss (`hierarchical_context_loss`). The mean over places of the last layer is a
    further level, the deepest. Fused features are resized to the teacher's grid. The fusion modules are trained with
    the student. Images alone.

    Args:
        weight: Weight in the loss; the authors take 1 on ImageNet.
        layers: Paths of the student's layers and of the teacher's, from the first to the last; by default the last four
            ends of stages, or four blocks at even distances.
        reference: Name of the teacher.
        mid_channels: Channels of the fusion modules, which most of the cost depends on; by default those of the
            student's last layer, and at most 512, as in the authors' code.
    """

    name = "review_kd"
    citation = r"""@inproceedings{chen2021distilling,
    title = {Distilling Knowledge via Knowledge Review},
    author = {Chen, Pengguang and Liu, Shu and Zhao, Hengshuang and Jia, Jiaya},
    booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
    year = {2021}
}"""

    def __init__(
        self,
        weight: float = 1.0,
        layers: Mapping[str, str] | None = None,
        reference: str | None = None,
        mid_channels: int | None = None,
    ):
        super().__init__(weight, layers, reference)
        self.mid_channels = None if mid_channels is None else read_count("mid_channels", mid_channels)
        self.fusions = nn.ModuleList()

    def default_layers(self, student: list[str], teacher: list[str]) -> dict[str, str]:
        return pair_layers(student, teacher, at_most=STAGES)

    def setup(
        self, output: StepOutput, reference_output: ReferenceOutput, inputs: Mapping[str, Any], dataset: Any
    ) -> None:
        self.check_places(output, reference_output, inputs)
        self.refuse_pooled(output)
        if output.features[self.taps[0]].ndim == 3:
            raise ValueError(
                f"The term '{self.name}' fuses feature maps of images, and texts have a row of tokens. Take 'hint', "
                "'attention_transfer' or 'nst'."
            )
        levels = self.levels(output, reference_output)
        mid_channels = self.mid_channels or min(512, levels[0][0].shape[-1])
        self.fusions = nn.ModuleList(
            Fusion(student.shape[-1], mid_channels, teacher.shape[-1], first=number == 0)
            for number, (student, teacher) in enumerate(levels)
        )

    def levels(self, output: StepOutput, reference_output: ReferenceOutput) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """List the pairs of features (B, h, w, C), from the deepest, which is pooled, to the first layer's."""
        pairs = list(self.pairs(output, reference_output))
        student, teacher = (features.mean(dim=(1, 2), keepdim=True) for features in pairs[-1])
        return [(student, teacher), *reversed(pairs)]

    def forward(
        self, output: StepOutput, reference_output: ReferenceOutput | None, inputs: Mapping[str, Any]
    ) -> torch.Tensor:
        assert reference_output is not None
        losses, deeper = [], None
        for fusion, (student, teacher) in zip(self.fusions, self.levels(output, reference_output), strict=True):
            fused, deeper = fusion(student.movedim(-1, 1), deeper, teacher.shape[1:3])
            losses.append(hierarchical_context_loss(fused.movedim(1, -1), teacher))
        return torch.stack(losses).sum(dim=0)


class Fusion(nn.Module):
    """Attention-based fusion of a layer's features with those fused before, of deeper layers (Fig. 3a).

    Args:
        channels: Channels of the layer.
        mid_channels: Channels of the fused features.
        teacher_channels: Channels of the teacher's layer.
        first: True for the deepest level, which has nothing to be fused with.
    """

    def __init__(self, channels: int, mid_channels: int, teacher_channels: int, first: bool):
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(channels, mid_channels, 1, bias=False), ProcessBatchNorm(mid_channels))
        self.attention = None if first else nn.Conv2d(2 * mid_channels, 2, 1)
        self.expand = nn.Sequential(
            nn.Conv2d(mid_channels, teacher_channels, 3, padding=1, bias=False), ProcessBatchNorm(teacher_channels)
        )
        for block in (self.reduce, self.expand):
            nn.init.kaiming_uniform_(block[0].weight, a=1)

    def forward(
        self, features: torch.Tensor, deeper: torch.Tensor | None, size: torch.Size
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Fuse features.

        Args:
            features: Features of the layer (B, C, h, w).
            deeper: Fused features of the deeper layers (B, mid, h', w'); None for the deepest level.
            size: Rows and columns of the teacher's layer.

        Returns:
            Features to compare with the teacher's, (B, C_T, *size), and the fused ones (B, mid, *size).
        """
        fused = self.reduce(features)
        if self.attention is not None:
            assert deeper is not None
            # A convolution of both side by side; of the deeper ones before they are enlarged, which is the same.
            first, second = self.attention.weight.split(len(fused[0]), dim=1)
            scores = F.conv2d(fused, first, self.attention.bias)
            scores = scores + _resize(F.conv2d(deeper, second), fused.shape[2:])
            own, theirs = scores.sigmoid().split(1, dim=1)
            fused = torch.addcmul(fused * own, _resize(deeper, fused.shape[2:]), theirs)
        fused = _resize(fused, size)
        return self.expand(fused), fused


def _resize(features: torch.Tensor, size: torch.Size) -> torch.Tensor:
    return features if features.shape[2:] == size else F.interpolate(features, tuple(size), mode="nearest")


def hierarchical_context_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Hierarchical context loss: a weighted mean of mean squared differences at several sizes (Fig. 3b).

    Features are compared as they are, with the weight 1, and average-pooled to 4×4, 2×2 and 1×1 cells, as far as that
    is smaller, each with half of the weight before.

    Args:
        student, teacher: Features (B, h, w, C).

    Returns:
        Losses (B,).
    """
    difference = (student - teacher).movedim(-1, 1)
    loss, weight, total = difference.square().mean(dim=(1, 2, 3)), 1.0, 1.0
    for cells in (4, 2, 1):
        if cells < min(difference.shape[2:]):
            weight /= 2
            total += weight
            # The difference of pooled features is the pooled difference.
            loss = loss + weight * F.adaptive_avg_pool2d(difference, cells).square().mean(dim=(1, 2, 3))
    return loss / total
