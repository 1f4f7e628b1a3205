"""Class attention transfer (Guo et al., CVPR 2023)."""

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from ...alignment.precision import at_least_float32
from ...architectures.linear_heads import linear_head, pooled_layer
from ...architectures.taps import find_layer
from ..base import ReferenceOutput, StepOutput
from ..numbers import read_count, read_switch
from .base import FeatureTerm

NEARLY_LINEAR = 0.05
"""Relative error of half precision, with room; of another kind of classifier it is about 1."""

_REMEDY = (
    "Where the classifier reads a token or a norm, as in vision transformers and ConvNeXts, take 'attention_transfer' "
    "or the loss between explanations."
)


class ClassAttentionTransfer(FeatureTerm):
    """Mean squared difference of the student's and the teacher's class activation maps, of all shared classes.

    A class's map is its row of the classifier's weights times the features at each place, which takes a classifier that
    is one linear layer of the features' mean over the places, on both sides: other models are refused, such as vision
    transformers, whose classifiers read a token. Maps are average-pooled to a few cells.

    Args:
        weight: Weight in the loss (the paper's β), which the authors choose for each pair of networks: 0.5 on ImageNet
            with 4×4 cells, 15 for ResNet32x4 and ResNet8x4 on CIFAR-100.
        layers: Path of the student's layer and of the teacher's whose outputs the classifiers pool; by default as known
            of the architectures.
        reference: Name of the teacher.
        cells: Rows and columns to which the maps are pooled.
        normalize: True to divide each map by its norm, as the paper does where it transfers maps alone (CAT).
    """

    name = "cat_kd"
    needs = frozenset({"features", "logits"})
    citation = r"""@inproceedings{guo2023class,
    title = {Class Attention Transfer Based Knowledge Distillation},
    author = {Guo, Ziyao and Yan, Haonan and Li, Hui and Lin, Xiaodong},
    booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
    year = {2023}
}"""

    def __init__(
        self,
        weight: float = 1.0,
        layers: Mapping[str, str] | None = None,
        reference: str | None = None,
        cells: int = 2,
        normalize: bool = False,
    ):
        super().__init__(weight, layers, reference)
        if self.layers is not None and len(self.layers) != 1:
            raise ValueError(
                f"layers of the term '{self.name}' must name the one layer of each side whose output the classifier "
                f"pools, not {len(self.layers)}."
            )
        self.cells = read_count("cells", cells)
        self.normalize = read_switch("normalize", normalize)

    def attach(self, student: nn.Module, reference: Any) -> None:
        teacher = reference.tapped_model()
        self._names = f"the student, a {type(student).__name__}", f"the teacher, a {type(teacher).__name__}"
        for model, name in zip((student, teacher), self._names, strict=True):
            if linear_head(model) is None:
                raise ValueError(f"{self._need()}, and {name}, has no linear classifier. {_REMEDY}")
        layers = self.layers or {pooled_layer(student): pooled_layer(teacher)}
        for path in layers:
            find_layer(student, path)
        self.taps, self.reference_taps = tuple(layers), tuple(layers.values())
        # Not the models themselves, which would become parts of this module.
        self._heads = partial(linear_head, student), partial(linear_head, teacher)
        self._select = reference.student_logits, reference.shared_logits

    def setup(
        self, output: StepOutput, reference_output: ReferenceOutput, inputs: Mapping[str, Any], dataset: Any
    ) -> None:
        assert reference_output.logits is not None
        (pair,) = self.pairs(output, reference_output)
        logits = self._select[0](output.logits), reference_output.logits
        for side, (path,) in enumerate((self.taps, self.reference_taps)):
            if not self._is_pooled(side, pair[side], logits[side]):
                raise ValueError(
                    f"{self._need()}, and the logits of {self._names[side]}, are no such function of its layer "
                    f"'{path}' (features {tuple(pair[side].shape)}). Where another layer's output is pooled, name it: "
                    f'layers={{"path.in.the.student": "path.in.the.teacher"}}. {_REMEDY}'
                )

    def _need(self) -> str:
        return (
            f"The term '{self.name}' needs a classifier that is one linear layer of the mean over the places of a "
            "feature map"
        )

    def _is_pooled(self, side: int, features: torch.Tensor, logits: torch.Tensor) -> bool:
        """Tell whether logits (B, shared) are the classifier's of the mean of features (B, h, w, C)."""
        weight, bias = self._head(side)
        if features.ndim != 4 or features.shape[-1] != weight.shape[1]:
            return False
        error = F.linear(features.mean(dim=(1, 2)), weight, bias) - logits
        return bool(error.norm() < NEARLY_LINEAR * logits.norm())

    def _head(self, side: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The weights (shared, C) and biases (shared,) of the student's (0) or the teacher's (1) classifier."""
        head, select = cast(nn.Linear, self._heads[side]()), self._select[side]
        weight = at_least_float32(select(head.weight.mT).mT)
        return weight, None if head.bias is None else at_least_float32(select(head.bias[None])[0])

    def forward(
        self, output: StepOutput, reference_output: ReferenceOutput | None, inputs: Mapping[str, Any]
    ) -> torch.Tensor:
        assert reference_output is not None
        ((student, teacher),) = self.pairs(output, reference_output)
        own = class_maps(student, self._head(0)[0], self.cells)
        theirs = class_maps(teacher, self._head(1)[0], self.cells).detach()
        return class_attention_loss(own, theirs, self.normalize)


def class_maps(features: torch.Tensor, weight: torch.Tensor, cells: int) -> torch.Tensor:
    """Class activation maps, average-pooled.

    Args:
        features: Features (B, h, w, C).
        weight: Weights (classes, C) of the classifier.
        cells: Rows and columns of the maps.

    Returns:
        Maps (B, classes, cells, cells).
    """
    # Pooling and the classifier are linear, so that few places need be classified.
    pooled = F.adaptive_avg_pool2d(features.movedim(-1, 1), cells)
    return torch.einsum("bchw,kc->bkhw", pooled, weight)


def class_attention_loss(student: torch.Tensor, teacher: torch.Tensor, normalize: bool = False) -> torch.Tensor:
    """Class attention transfer loss: the mean over classes and cells of (M_S − M_T)².

    Args:
        student, teacher: Class activation maps (B, classes, h, w).
        normalize: True to divide each map by its norm.

    Returns:
        Losses (B,).
    """
    if normalize:
        student, teacher = (F.normalize(maps, dim=(2, 3)) for maps in (student, teacher))  # type: ignore[arg-type]
    return (student - teacher).square().mean(dim=(1, 2, 3))
