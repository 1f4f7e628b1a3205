"""Input×Gradient (Shrikumar et al., 2017), differentiable."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from .base import Explanation, Target, resolve_target
from .input_gradients import InputExplainer, input_explanation, over_channels, run_at, target_gradients


class InputXGradient(InputExplainer):
    """What each pixel or token contributes to the logit, to first order: Σ_c x_c · ∂z/∂x_c, signed.

    x are the pixel values as the model gets them (normalised), or the word embeddings; the sum is over an image's
    colours, or over the dimensions of an embedding.
    """

    name = "input_x_gradient"

    def forward(self, model: nn.Module, inputs: Mapping[str, Any], target: Target) -> Explanation:
        logits, value = run_at(model, inputs)
        target = resolve_target(target, logits)
        gradients = target_gradients(logits, value, target)
        scores = [over_channels(value * gradient, inputs) for gradient in gradients]
        return input_explanation(logits, scores, target, inputs)
