"""Attention rollout (Abnar & Zuidema, ACL 2020), differentiable."""

import torch

from .attention_explainer import AttentionExplainer, Choice


class AttentionRollout(AttentionExplainer):
    """Attention rollout: rows of ∏_l rows₁(ρ·I + (1−ρ)·mean_h A_l), of the tokens that the classifier reads.

    The product runs from the last layer to the first; rows₁ makes each row sum to 1. Only the row that the classifier
    reads is carried through the layers, a vector (B, N), and where it reads a mean, that mean of rows. The map is the
    same for every class.

    Args:
        layers: Numbers of the layers to follow; all by default, −1 for the last alone.
        heads: Numbers of the heads to average; all by default.
        residual: ρ, the part of a token that the residual connection keeps, at least 0 and less than 1.
    """

    name = "attention_rollout"
    of_meaning = ("residual",)

    def __init__(self, layers: Choice = None, heads: Choice = None, residual: float = 0.5):
        super().__init__(layers, heads)
        if not 0 <= residual < 1:
            raise ValueError(f"residual={residual} must be at least 0 and less than 1, where attention has no part.")
        self.residual = residual

    def _relevance(
        self, logits: torch.Tensor, weights: list[torch.Tensor], read: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        flow = read
        for weight in reversed(weights):
            attention = self._mean_over_heads(weight)
            # Less than 1 under dropout; 0 where a model empties the rows of padding.
            total = self.residual + (1 - self.residual) * attention.sum(-1)
            flow = flow.to(attention.dtype) / total.clamp(min=torch.finfo(total.dtype).tiny)
            looked = torch.bmm(flow.unsqueeze(1), attention).squeeze(1)
            flow = self.residual * flow + (1 - self.residual) * looked
        if target.ndim == 1:
            return flow * (target >= 0).unsqueeze(1)
        return flow.unsqueeze(1) * (target >= 0).unsqueeze(2)
