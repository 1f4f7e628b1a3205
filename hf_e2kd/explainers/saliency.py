"""Saliency (Simonyan et al., 2014): the gradient at the input, differentiable."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from .base import Explanation, Target
from .input_gradients import InputExplainer, differentiate, input_explanation, over_channels


class Saliency(InputExplainer):
    """Saliency: Σ_c |∂z/∂x_c|, or Σ_c ∂z/∂x_c where signed, the logit's sensitivity to each pixel or token.

    The sum is over an image's colours, or over the dimensions of a word embedding.

    Args:
        signed: Keep each channel's sign, for images. Signed maps tell apart what speaks for the class and what against
            it; captum's `Saliency` is the unsigned one, before the sum. Of a text the signed sum is refused: a layer
            norm behind the embeddings doesn't see a shift of all dimensions, so it would be zero.
    """

    name = "saliency"
    of_meaning = ("signed",)

    def __init__(self, signed: bool = False):
        self.signed = signed

    def forward(self, model: nn.Module, inputs: Mapping[str, Any], target: Target) -> Explanation:
        if self.signed and inputs.get("pixel_values") is None:
            raise ValueError(
                "The signed sum of a text's gradient is zero behind a layer norm. Use signed=False, or the explainer "
                "'input_x_gradient', whose sign has a meaning."
            )
        at = differentiate(model, inputs, target)
        scores = [over_channels(gradient if self.signed else gradient.abs(), inputs) for gradient in at.gradients]
        return input_explanation(at.logits, scores, at.target, inputs)
