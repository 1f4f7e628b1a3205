"""Complete check of an explainer."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..explainers import Explainer, build_explainer
from .explained_gradient import check_explained_gradient
from .result import check_result
from .side_effects import check_hooks, check_modes


def check_explainer(
    explainer: str | Explainer,
    model: nn.Module,
    inputs: Mapping[str, Any],
    target: torch.Tensor | None = None,
    tolerance: float = 1e-4,
) -> None:
    """Check an explainer on one model for all properties that the trainer relies on. The model itself is not changed.

    - *Result*: the logits are those of the plain forward, and the maps finite, at least float32 and one a target.
    - *Modes*: no module's training mode, no parameter's gradient and no `requires_grad` is touched.
    - *Hooks*: none is left behind, after an error in the model neither.
    - *Gradient*: that of a loss of the maps equals finite differences in float64, in the parameters before the layer
      that is explained and in those behind it. A method without gradients (`trainable = False`) must refuse to be
      trained through instead.

    Args:
        explainer: Explainer, or its registered name.
        model: Small classifier, on the CPU. Its weights must let the maps vary; random ones do.
        inputs: The forward's keyword arguments for a batch of at least two samples, without labels.
        target: Explained classes (B,); the top ones by default.
        tolerance: Largest error of the gradient, relative to its norm.

    Raises:
        AssertionError: naming what failed, and the likely cause.

    Example:
        >>> import torch
        >>> from transformers import ResNetConfig, ResNetForImageClassification
        >>> from hf_e2kd.testing import check_explainer
        >>> _ = torch.manual_seed(0)
        >>> config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        >>> model = ResNetForImageClassification(config)
        >>> check_explainer("gradcam", model, {"pixel_values": torch.randn(2, 3, 32, 32)})
    """
    explainer = build_explainer(explainer) if isinstance(explainer, str) else explainer
    name = getattr(explainer, "name", type(explainer).__name__)
    for check in (check_result, check_modes, check_hooks, check_explained_gradient):
        try:
            check(explainer, copy.deepcopy(model).eval(), dict(inputs), target, tolerance)
        except AssertionError as error:
            raise AssertionError(f"The explainer '{name}' on {type(model).__name__}: {error}") from error.__cause__
