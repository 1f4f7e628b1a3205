"""Input×Gradient (Shrikumar et al., 2017), differentiable."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..architectures.layers import LayerName
from ..architectures.text import reads_embeddings
from ..architectures.text_baseline import text_baseline
from ..logs import get_logger
from .base import Explanation, Target
from .input_gradients import BaselineExplainer, differentiate, input_explanation, over_channels
from .layer_gradients import check_layer, differentiate_layer, layer_explanation, layer_maps

logger = get_logger(__name__)


class InputXGradient(BaselineExplainer):
    """Input×Gradient: Σ_c (x_c − b_c) · ∂z/∂x_c, each pixel's or token's first-order contribution to the logit, signed.

    x are the pixel values as the model gets them (normalised), or the word embeddings; the sum is over an image's
    colours, or over the dimensions of an embedding. b is zero. Only where a text's logits hardly depend on the length
    of its word embeddings, so that x · ∂z/∂x is zero, it is the mask token's embedding (`text_baseline`). Of a network
    without biases it equals Integrated Gradients.

    Args:
        layer: Layer whose activation is x, against zero: `"input"` (the default), the pixels or words; the activation
            in front of a block (or stage), by its number, or of the `"last"`; or the output of the layer at a path. The
            map is as fine as that layer (the depths of model guidance, Rao et al., ICCV 2023). At its words, a BERT's
            map marks mostly other words than those that count; that of its last layer is much more faithful.
    """

    name = "input_x_gradient"

    def __init__(self, layer: LayerName | None = None):
        self.layer = None if layer == "input" else layer

    def check(self, model: nn.Module, compiled: bool = False, trained: bool = True) -> None:
        super().check(model, compiled, trained)
        check_layer(model, self.layer, compiled)
        if self.layer is None and trained and reads_embeddings(model):
            logger.warning_once(
                "Input×Gradient at word embeddings marks other words than those that count, worse than chance on a "
                "BERT. Explain it by 'lrp', or here by layer='last'."
            )

    def forward(self, model: nn.Module, inputs: Mapping[str, Any], target: Target) -> Explanation:
        if self.layer is None:
            at = differentiate(model, inputs, target)
            is_text = inputs.get("pixel_values") is None
            baseline = text_baseline(model, inputs, self._tokenizer_ids) if is_text else None
            path = at.value if baseline is None else at.value - baseline.to(at.value)
            scores = [over_channels(path * gradient, inputs) for gradient in at.gradients]
            return input_explanation(at.logits, scores, at.target, inputs)
        logits, activation, gradients, classes, grid = differentiate_layer(model, self.layer, inputs, target)
        return layer_explanation(logits, layer_maps(activation, gradients, grid, classes), classes, inputs)
