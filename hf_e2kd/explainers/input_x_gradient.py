"""Input×Gradient (Shrikumar et al., 2017), differentiable."""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

from torch import nn

from ..architectures.layers import LayerName
from ..architectures.text import reads_embeddings
from ..architectures.text_baseline import text_baseline
from ..architectures.transposed import DERIVATIVE, TransposeError
from ..logs import get_logger
from .base import Explanation, Target
from .input_gradients import BaselineExplainer, differentiate, input_explanation, over_channels
from .layer_gradients import check_layer, differentiate_layer, layer_explanation, layer_maps
from .lrp import LRP, is_written_out, shares_by_rules
from .scale_free import refuse_scale_free_layer

logger = get_logger(__name__)


class InputXGradient(BaselineExplainer):
    """Input×Gradient: Σ_c (x_c − b_c) · ∂z/∂x_c, each pixel's or token's first-order contribution to the logit, signed.

    x are the pixel values as the model gets them (normalised), or the word embeddings; the sum is over an image's
    colours, or over the dimensions of an embedding. b is zero. Only where a text's logits hardly depend on the length
    of its word embeddings, so that x · ∂z/∂x is zero, it is the mask token's embedding (`text_baseline`). Of a network
    without biases it equals Integrated Gradients.

    At a block of a family whose blocks are known to `lrp`, and at a text's words, the derivative is written out as a
    transposed pass, which training differentiates once. It gives the same map and gradient for less.

    Args:
        layer: Layer whose activation is x, against zero: `"input"` (the default), the pixels or words; the activation
            in front of a block (or stage), by its number, or of the `"last"`; or the output of the layer at a path. The
            map is as fine as that layer (the depths of model guidance, Rao et al., ICCV 2023). At its words, a BERT's
            map marks mostly other words than those that count; that of its last layer is much more faithful. Refused is
            a layer that goes straight into a norm, where the map would be zero: the last of a vision transformer that
            reads a class token, of a ConvNeXt, of a decoder.
    """

    name = "input_x_gradient"

    def __init__(self, layer: LayerName | None = None):
        self.layer = None if layer == "input" else layer
        self._by_hook = False

    def with_features(self, model: nn.Module, paths: Sequence[str]) -> "InputXGradient":
        """Return the explainer that runs the model's own blocks, where features are read."""
        fitting = copy(self)
        fitting._by_hook = bool(paths)
        return fitting

    def check(self, model: nn.Module, compiled: bool = False, trained: bool = True) -> None:
        super().check(model, compiled, trained)
        check_layer(model, self.layer, compiled)
        if self.layer is None and trained and reads_embeddings(model):
            logger.warning_once(
                "Input×Gradient at word embeddings marks other words than those that count, worse than chance on a "
                "BERT. Explain it by 'lrp', or here by layer='last'."
            )

    def forward(self, model: nn.Module, inputs: Mapping[str, Any], target: Target) -> Explanation:
        if self.layer is not None:
            refuse_scale_free_layer(model, self.layer, inputs, self.name)
        of_words = self.layer is None and "input_ids" in inputs and inputs.get("pixel_values") is None
        baseline = text_baseline(model, inputs, self._tokenizer_ids) if of_words else None
        opened = self._by_transposed_pass(model, inputs, target) if baseline is None else None
        if opened is not None:
            return opened
        if self.layer is None:
            at = differentiate(model, inputs, target)
            path = at.value if baseline is None else at.value - baseline.to(at.value)
            scores = [over_channels(path * gradient, inputs) for gradient in at.gradients]
            return input_explanation(at.logits, scores, at.target, inputs)
        logits, activation, gradients, classes, grid = differentiate_layer(model, self.layer, inputs, target)
        return layer_explanation(logits, layer_maps(activation, gradients, grid, classes), classes, inputs)

    def _by_transposed_pass(self, model: nn.Module, inputs: Mapping[str, Any], target: Target) -> Explanation | None:
        """Explain by a derivative that is written out; None where that isn't faster, or the blocks can't be opened."""
        if self._by_hook or not is_written_out(model, inputs, self.layer):
            return None
        try:
            LRP(layer=self.layer).refuse(model, inputs)
            return shares_by_rules(model, inputs, target, self.layer, DERIVATIVE)
        except TransposeError:  # an adapter, an activation, a layer inside a block: for the model's own forward
            return None
