"""Factor transfer (Kim et al., NeurIPS 2018)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ...alignment.precision import at_least_float32
from ..base import ReferenceOutput, StepOutput
from ..numbers import read_count, read_number
from .base import FeatureTerm, to_smaller_grid, train_teacher_module


class FactorTransfer(FeatureTerm):
    """Distance of the student's factors, by a translator, to the teacher's, by a paraphraser.

    The paraphraser, an autoencoder of three convolutions and three transposed ones, learns in a first stage to
    reconstruct the teacher's features, ‖x − P(x)‖² (Eq. 1), and is frozen; the factors are its code. The translator,
    three convolutions, is trained with the student on the distance of the normalised factors (Eq. 3). As in the
    authors' code, no layer has batch normalisation. Factors of different grids are average-pooled to the smaller one.
    Han et al. (ICML 2023) take the weight 1000.

    Args:
        weight: Weight in the loss.
        layers: Path of the student's layers and of the teacher's; by default the last stage, or block, of both.
        reference: Name of the teacher.
        rate: Channels of the factors as a share of the teacher's.
        p: Exponent of the distance, 1 or 2.
        stage_epochs: Epochs of the paraphraser's stage.

    Raises:
        ValueError: an option is out of range; in `setup`, features without places in an image.
    """

    name = "factor_transfer"
    citation = r"""@inproceedings{kim2018paraphrasing,
    title = {Paraphrasing Complex Network: Network Compression via Factor Transfer},
    author = {Kim, Jangho and Park, SeongUk and Kwak, Nojun},
    booktitle = {Advances in Neural Information Processing Systems},
    year = {2018}
}"""

    def __init__(
        self,
        weight: float = 1.0,
        layers: Mapping[str, str] | None = None,
        reference: str | None = None,
        rate: float = 0.5,
        p: int = 1,
        stage_epochs: float = 1.0,
    ):
        super().__init__(weight, layers, reference)
        self.rate = read_number("rate", rate, above=0)
        self.p = read_count("p", p)
        if self.p > 2:
            raise ValueError(f"p is {p}. Factors are compared with the exponent 1 or 2.")
        self.stage_epochs = read_number("stage_epochs", stage_epochs, above=0)
        self.paraphrasers, self.translators = nn.ModuleList(), nn.ModuleList()

    def default_layers(self, student: list[str], teacher: list[str]) -> dict[str, str]:
        return {student[-1]: teacher[-1]}

    def setup(
        self, output: StepOutput, reference_output: ReferenceOutput, inputs: Mapping[str, Any], dataset: Any
    ) -> None:
        # Other terms may compare other layers of the student.
        features = [(path, output.features[path]) for path in self.taps]
        features += [(path, reference_output.features[path]) for path in self.reference_taps]
        flat = [(path, tuple(feature.shape)) for path, feature in features if feature.ndim != 4]
        if flat:
            raise ValueError(
                f"The term '{self.name}' compares feature maps by 3×3 convolutions, and the layer '{flat[0][0]}' gives "
                f"{flat[0][1]}, without rows and columns. Name layers that give feature maps of "
                "images, or take the term 'hint', which compares pooled features and tokens of texts too."
            )
        self.paraphrasers, self.translators = nn.ModuleList(), nn.ModuleList()
        for student, teacher in self.pairs(output, reference_output):
            factors = max(1, round(self.rate * teacher.shape[-1]))
            self.paraphrasers.append(Paraphraser(teacher.shape[-1], factors))
            self.translators.append(convolutions(student.shape[-1], student.shape[-1], factors, factors))
        self.paraphrasers.requires_grad_(False)

    def prepare(self, trainer: Any) -> None:
        train_teacher_module(self, self.paraphrasers, trainer, self.stage_epochs)

    def forward(
        self, output: StepOutput, reference_output: ReferenceOutput | None, inputs: Mapping[str, Any]
    ) -> torch.Tensor:
        assert reference_output is not None
        if self.in_first_stage:
            features = [
                at_least_float32(reference_output.features[path]).movedim(-1, 1) for path in self.reference_taps
            ]
            losses = [
                (at_least_float32(paraphraser(feature)) - feature).square().flatten(1).mean(dim=1)
                for paraphraser, feature in zip(self.paraphrasers, features, strict=True)
            ]
        else:
            losses = []
            for paraphraser, translator, (student, teacher) in zip(
                self.paraphrasers, self.translators, self.pairs(output, reference_output), strict=True
            ):
                with torch.no_grad():
                    factors = paraphraser.encoder(teacher.movedim(-1, 1))
                losses.append(factor_loss(translator(student.movedim(-1, 1)), factors, self.p))
        return torch.stack(losses).sum(dim=0)


class Paraphraser(nn.Module):
    """Convolutional autoencoder of a teacher's feature maps (B, C, h, w), whose code of fewer channels is the factors.

    Args:
        channels: Channels of the features.
        factors: Channels of the code.
    """

    def __init__(self, channels: int, factors: int):
        super().__init__()
        self.encoder = convolutions(channels, channels, factors, factors)
        self.decoder = convolutions(factors, factors, channels, channels, transposed=True)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(features))


def convolutions(*channels: int, transposed: bool = False) -> nn.Sequential:
    """Build 3×3 convolutions from each number of channels to the next, each with a leaky ReLU of slope 0.1."""
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layers: list[nn.Module] = []
    for before, after in zip(channels, channels[1:], strict=False):
        layers += [kind(before, after, 3, padding=1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


def factor_loss(student: torch.Tensor, teacher: torch.Tensor, p: int = 1) -> torch.Tensor:
    """Factor transfer: mean |F_S/‖F_S‖₂ − F_T/‖F_T‖₂|ᵖ (Eq. 3, with a mean over elements as in the authors' code).

    Args:
        student, teacher: Factors (B, C, h, w) and (B, C, h', w'), average-pooled to the smaller grid.
        p: Exponent.

    Returns:
        Losses (B,).
    """
    pooled = to_smaller_grid(*(at_least_float32(factors).movedim(1, -1) for factors in (student, teacher)))
    own, theirs = (F.normalize(factors.flatten(1), dim=1) for factors in pooled)
    return (own - theirs).abs().pow(p).mean(dim=1)
