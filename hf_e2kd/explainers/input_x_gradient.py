"""Input×Gradient (Shrikumar et al., 2017), differentiable."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..architectures.text_baseline import text_baseline
from .base import Explanation, Target
from .input_gradients import BaselineExplainer, differentiate, input_explanation, over_channels
from .layer_gradients import differentiate_layer, layer_maps


class InputXGradient(BaselineExplainer):
    """Input×Gradient: Σ_c (x_c − b_c) · ∂z/∂x_c, each pixel's or token's first-order contribution to the logit, signed.

    x are the pixel values as the model gets them (normalised), or the word embeddings; the sum is over an image's
    colours, or over the dimensions of an embedding. b is zero. Only where a text's logits hardly depend on the length
    of its word embeddings, so that x · ∂z/∂x is zero, it is the mask token's embedding (`text_baseline`). Of a network
    without biases it equals Integrated Gradients.

    Args:
        layer: Path of a layer of an image model whose activation is x instead, so that the map is as fine as that
            layer (the depths of model guidance, Rao et al., ICCV 2023).
    """

    name = "input_x_gradient"

    def __init__(self, layer: str | None = None):
        self.layer = layer

    def check(self, model: nn.Module, compiled: bool = False, trained: bool = True) -> None:
        super().check(model, compiled, trained)
        if compiled and self.layer is not None:
            raise ValueError("torch_compile can't read a layer through a hook. Train without torch_compile.")

    def forward(self, model: nn.Module, inputs: Mapping[str, Any], target: Target) -> Explanation:
        if self.layer is None:
            at = differentiate(model, inputs, target)
            is_text = inputs.get("pixel_values") is None
            baseline = text_baseline(model, inputs, self._tokenizer_ids) if is_text else None
            path = at.value if baseline is None else at.value - baseline.to(at.value)
            scores = [over_channels(path * gradient, inputs) for gradient in at.gradients]
            return input_explanation(at.logits, scores, at.target, inputs)
        logits, activation, gradients, classes, grid = differentiate_layer(model, self.layer, inputs, target)
        return Explanation(logits, layer_maps(activation, gradients, grid, classes), classes)
