"""Feature reduction (XDistillation, Alharbi et al., IEEE Big Data 2021): a penalty on weights."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from ..alignment.precision import at_least_float32
from ..metrics.citations import X_DISTILLATION
from ..models import XDistillationForImageClassification
from .base import ReferenceOutput, StepOutput, Term

_LAYERS = {"features": ("classifier",), "all": ("classifier", "explanation_classifier")}


class FeatureReduction(Term):
    """‖c‖₂², the squared weights c by which an XDistillation student's classifier reads its features (Eq. 6).

    The optimizer's weight decay leaves these weights out.

    Args:
        weight: Weight λ in the loss; the paper's by default.
        columns: `"features"`: the columns that read the backbone, whose signal the paper constrains so that the
            explanation has more say. `"all"`: those that read the explanation too.

    Raises:
        ValueError: unknown columns.
    """

    name = "feature_reduction"
    citation = X_DISTILLATION

    def __init__(self, weight: float = 5e-4, columns: str = "features"):
        super().__init__(weight)
        if columns not in _LAYERS:
            raise ValueError(f"columns of the term '{self.name}' must be one of {sorted(_LAYERS)}, not {columns!r}.")
        self.columns_penalised = columns

    def attach(self, student: nn.Module, reference: Any) -> None:
        if not isinstance(student, XDistillationForImageClassification):
            raise ValueError(
                f"The term '{self.name}' penalises the joint classifier of an XDistillationForImageClassification, and "
                f"{type(student).__name__} has none. Make the student by its `from_parts`, or leave the term out."
            )
        self.penalised = tuple(f"{layer}.weight" for layer in _LAYERS[self.columns_penalised])
        # Not the student itself, which would become a part of this module.
        self._weights = partial(_weights, student, self.penalised)

    def forward(
        self, output: StepOutput, reference_output: ReferenceOutput | None, inputs: Mapping[str, Any]
    ) -> torch.Tensor:
        return torch.stack([at_least_float32(weight).square().sum() for weight in self._weights()]).sum()


def _weights(student: nn.Module, paths: tuple[str, ...]) -> list[nn.Parameter]:
    return [student.get_parameter(path) for path in paths]
