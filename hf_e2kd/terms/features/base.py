"""Base of the terms that compare features: layers to tap, and features on one grid."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ...alignment.precision import at_least_float32
from ...architectures.taps import default_taps, find_layer, pair_layers
from ..base import ReferenceOutput, StepOutput, Term
from ..numbers import read_number


class FeatureTerm(Term):
    """A term that compares the student's features with a live teacher's, layer by layer.

    Args:
        weight: Weight in the loss.
        layers: Paths of the student's layers and of the teacher's that each is compared with. By default the ends of
            stages, or the blocks, of both, paired at the same relative depth.
        reference: Name of the teacher; by default the one named "teacher", or the only one.

    Raises:
        ValueError: the weight is out of range, or `layers` isn't a mapping of paths.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    in_first_stage = False
    """True while `train_teacher_module` trains a module of the term."""

    def __init__(self, weight: float = 1.0, layers: Mapping[str, str] | None = None, reference: str | None = None):
        super().__init__(weight, reference)
        paths = [] if not isinstance(layers, Mapping) else [*layers, *layers.values()]
        if layers is not None and not (paths and all(isinstance(path, str) for path in paths)):
            raise ValueError(
                f"layers of the term '{self.name}' must map paths of the student to paths of the teacher, as "
                f'{{"encoder.stages.3": "layer4"}}, not {layers!r}.'
            )
        self.layers = None if layers is None else dict(layers)

    def attach(self, student: nn.Module, reference: Any) -> None:
        layers = self.layers or self.default_layers(default_taps(student), reference.default_taps())
        for path in layers:
            find_layer(student, path)
        self.taps, self.reference_taps = tuple(layers), tuple(layers.values())

    def default_layers(self, student: list[str], teacher: list[str]) -> dict[str, str]:
        """Choose the compared layers among the default taps of both models."""
        return pair_layers(student, teacher)

    def pairs(
        self, output: StepOutput, reference_output: ReferenceOutput, inputs: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the features of each pair of layers, (B, *grid, C) and (B, *grid', C'), in at least float32.

        Args:
            inputs: Batch, by which features of a text's tokens are refused where those of both models differ.

        Raises:
            ValueError: in this batch the tokens differ, as of tokenizers that cut or spell some texts otherwise.
        """
        tokens_differ = inputs is not None and not _same_tokens(inputs)
        for own, theirs in zip(self.taps, self.reference_taps, strict=True):
            student, teacher = output.features[own], reference_output.features[theirs]
            if tokens_differ and student.ndim == 3:
                assert inputs is not None
                raise ValueError(
                    f"The term '{self.name}' compares the features of tokens, and in this batch the tokens of the "
                    f"student, {tuple(inputs['input_ids'].shape)}, and of the teacher, "
                    f"{tuple(inputs['teacher_input_ids'].shape)}, differ. It takes models of one tokenizer, which cuts "
                    "the texts of both alike: TextCollator(…, max_length=…), --max_length."
                )
            yield at_least_float32(student), at_least_float32(teacher)

    def check_places(
        self, output: StepOutput, reference_output: ReferenceOutput, inputs: Mapping[str, Any] | None = None
    ) -> None:
        """Refuse pairs of layers whose places don't correspond.

        Args:
            inputs: Batch, by whose tokens texts of two tokenizers are told where both have the same number of tokens.

        Raises:
            ValueError: a pooled feature beside one with places, or texts of two tokenizers.
        """
        one_tokenizer = _same_tokens(inputs or {})
        for (own, theirs), path, other in zip(
            self.pairs(output, reference_output), self.taps, self.reference_taps, strict=True
        ):
            same_tokens = own.ndim != 3 or (own.shape[1] == theirs.shape[1] and one_tokenizer)
            if own.ndim != theirs.ndim or not same_tokens:
                raise ValueError(
                    f"The term '{self.name}' can't compare the student's layer '{path}' with the teacher's '{other}': "
                    f"their features have the shapes {tuple(own.shape)} and {tuple(theirs.shape)}"
                    f"{'' if one_tokenizer else ', of the tokens of two tokenizers'}. Choose layers that both have "
                    "places, and of texts models of one tokenizer."
                )

    def refuse_pooled(self, output: StepOutput) -> None:
        """Refuse layers without places, after `check_places`.

        Raises:
            ValueError: a layer's output is pooled.
        """
        pooled = [path for path in self.taps if output.features[path].ndim == 2]
        if pooled:
            raise ValueError(
                f"The term '{self.name}' compares the places of features, and the layer '{pooled[0]}' has none: its "
                "output is pooled. Name a layer before the pooling, or take the term 'hint'."
            )


class PlacesTerm(FeatureTerm, ABC):
    """A term that compares the places of features pair by pair, and owns nothing.

    Args:
        weight: Weight in the loss.
        layers: Paths of the student's layers and of the teacher's.
        reference: Name of the teacher.
    """

    @abstractmethod
    def compare(self, student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Compare features (B, *grid, C) and (B, *grid', C') at the places, or tokens of a mask (B, T) bool: (B,)."""

    def setup(
        self, output: StepOutput, reference_output: ReferenceOutput, inputs: Mapping[str, Any], dataset: Any
    ) -> None:
        self.check_places(output, reference_output, inputs)
        self.refuse_pooled(output)

    def forward(
        self, output: StepOutput, reference_output: ReferenceOutput | None, inputs: Mapping[str, Any]
    ) -> torch.Tensor:
        assert reference_output is not None
        losses = [
            self.compare(student, teacher, token_mask(student, inputs))
            for student, teacher in self.pairs(output, reference_output, inputs)
        ]
        return torch.stack(losses).sum(dim=0)


class StagedFeatureTerm(FeatureTerm):
    """A term whose paper trains by it alone, in a first stage, the student's layers up to the compared ones.

    Args:
        weight: Weight in the loss after the stage; 0 for the stage alone, as in the papers.
        layers: Paths of the student's layers and of the teacher's.
        reference: Name of the teacher.
        stage_epochs: Epochs of the first stage; 0 for none.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        weight: float = 1.0,
        layers: Mapping[str, str] | None = None,
        reference: str | None = None,
        stage_epochs: float = 0.0,
    ):
        super().__init__(weight, layers, reference)
        self.stage_epochs = read_number("stage_epochs", stage_epochs, at_least=0)

    def prepare(self, trainer: Any) -> None:
        if self.stage_epochs:
            trainer.train_stage(self, self.stage_epochs)


def to_smaller_grid(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Average-pool features (B, h, w, C) and (B, h', w', C') to the smaller of both grids, side by side."""
    if first.ndim != 4:
        return first, second
    size = min(first.shape[1], second.shape[1]), min(first.shape[2], second.shape[2])
    return _pooled(first, size), _pooled(second, size)


def _pooled(features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    # Pooling to their own grid would copy them, and cost as much as the loss.
    if features.shape[1:3] == size:
        return features
    return F.adaptive_avg_pool2d(features.movedim(-1, 1), size).movedim(1, -1)


def _same_tokens(inputs: Mapping[str, Any]) -> bool:
    """Tell whether student and teacher read the same tokens of a batch."""
    ids, theirs = inputs.get("input_ids"), inputs.get("teacher_input_ids")
    return theirs is None or (ids is not None and torch.equal(ids, theirs))


def token_mask(features: torch.Tensor, inputs: Mapping[str, Any]) -> torch.Tensor | None:
    """Return the mask (B, T) of a text's tokens that are no padding; None for images, whose places all count."""
    mask = inputs.get("attention_mask")
    return None if mask is None or features.ndim != 3 else mask.bool()


def pool_places(features: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Average features (B, *grid, C) over each sample's places, or over those of a mask (B, T) bool: (B, C)."""
    if features.ndim == 2:
        return features
    if mask is None:
        return features.flatten(1, -2).mean(dim=1)
    return (features * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def train_teacher_module(term: FeatureTerm, module: nn.Module, trainer: Any, num_train_epochs: float) -> None:
    """Train one module of a term in a first stage without the student; the other modules stay as they are.

    Afterwards the module is frozen, as the term's `setup` left it.

    Args:
        term: The term, whose `forward` gives the module's loss while `term.in_first_stage` is True.
        module: The module, frozen.
        trainer: The trainer that the term's `prepare` is given.
        num_train_epochs: Epochs of the stage.
    """
    others = [parameter for parameter in term.parameters() if parameter.requires_grad]
    for parameter in others:
        parameter.requires_grad_(False)
    module.requires_grad_(True)
    term.in_first_stage = True
    try:
        trainer.train_stage(term, num_train_epochs, with_student=False)
    finally:
        term.in_first_stage = False
        module.requires_grad_(False)
        for parameter in others:
            parameter.requires_grad_(True)


def mean_over_channels(values: torch.Tensor) -> torch.Tensor:
    """Average values (B, *grid, C) over the channels: (B, *grid)."""
    # The gradient of `mean` is written out for all channels, against the order that they have in memory.
    return values.sum(dim=-1) / values.shape[-1]


def mean_over_places(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Average values (B, *grid) over each sample's places, or over those of a mask (B, *grid) bool: (B,)."""
    if values.ndim == 1:
        return values
    if mask is None:
        return values.flatten(1).mean(dim=1)
    return (values * mask).flatten(1).sum(dim=1) / mask.flatten(1).sum(dim=1).clamp(min=1)
