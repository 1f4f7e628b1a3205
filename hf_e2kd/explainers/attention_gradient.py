"""Gradient-weighted attention relevance (Chefer, Gur & Wolf, ICCV 2021), differentiable."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..alignment.precision import at_least_float32
from .attention_explainer import AttentionExplainer
from .base import one_hots
from .input_gradients import gradient_scale, run_at


class AttentionGradient(AttentionExplainer):
    """Gradient-weighted attention: rows of ∏_l (I + Ā_l) − I, with Ā = mean_h (∇A⊙A)⁺ (Chefer et al., ICCV 2021).

    This is the rule R ← R + Ā·R for self-attention, ∇A being the gradient of the explained class's logit with respect
    to a layer's weights. The identity that R starts from is left out of the map: it says no more than that each token
    is itself, and where the classifier reads a mean it would cover what was found. Only the row that the classifier
    reads is carried through the layers, from the last to the first.

    Args:
        layers: Numbers of the layers to follow; all by default, −1 for the last alone.
        heads: Numbers of the heads to average; all by default.
    """

    name = "attention_gradient"

    def _run(self, model: nn.Module, inputs: Mapping[str, Any]) -> torch.Tensor:
        # Differentiable at the input, so that a frozen model's attention has a gradient.
        return run_at(model, inputs)[0]

    def _relevance(
        self, logits: torch.Tensor, weights: list[torch.Tensor], read: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        create_graph = torch.is_grad_enabled()
        scale = gradient_scale(logits, *weights)
        chosen = one_hots(target, logits)
        scores = []
        for number, one_hot in enumerate(chosen):
            gradients = torch.autograd.grad(
                logits,
                weights,
                grad_outputs=one_hot * scale,
                create_graph=create_graph,
                retain_graph=create_graph or number + 1 < len(chosen),
            )
            # What attention adds to the identity's row; apart from it, where small numbers keep their digits.
            added = torch.zeros_like(read)
            for weight, gradient in zip(reversed(weights), reversed(gradients), strict=True):
                counted = at_least_float32(weight) * (at_least_float32(gradient) / scale)
                attention = self._mean_over_heads(counted.relu())
                relevance = (read + added).to(attention.dtype)
                added = added + torch.bmm(relevance.unsqueeze(1), attention).squeeze(1)
            scores.append(added)
        return torch.stack(scores, 1) if target.ndim == 2 else scores[0]
