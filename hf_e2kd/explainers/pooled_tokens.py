"""Pooled tokens of a classifier: a class token, the mean of all, or both."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..architectures.base import evaluating
from ..architectures.grids import MOST_PREFIX_TOKENS
from ..architectures.taps import untapped
from .attention_weights import global_size, recorded_attention
from .base import default_method, one_hots
from .hooks import graph_nodes
from .input_gradients import gradient_scale, run_at


@dataclass(frozen=True)
class PooledTokens:
    """Tokens of the last layer that a classifier reads.

    Args:
        alone: Positions of the tokens that are read by themselves: class and distillation tokens.
        mean_from: Position of the first token of those that are read as their mean; None where no mean is read.
    """

    alone: tuple[int, ...]
    mean_from: int | None

    def weights(self, mask: torch.Tensor) -> torch.Tensor:
        """Compute the share (B, N) of each token in what is read, 1 in total: single tokens and the mean are equal.

        Args:
            mask: Mask (B, N) bool of the tokens that are no padding.
        """
        parts = [torch.zeros(mask.shape, device=mask.device) for _ in self.alone]
        for part, place in zip(parts, self.alone, strict=True):
            part[:, place] = 1.0
        if self.mean_from is not None:
            averaged = mask.float()
            averaged[:, : self.mean_from] = 0.0
            parts.append(averaged / averaged.sum(1, keepdim=True).clamp(min=1.0))
        return torch.stack(parts).mean(0)


def find_pooled_tokens(model: nn.Module, inputs: Mapping[str, Any]) -> PooledTokens:
    """Find the tokens that the classifier reads: the rows of the last layer's attention whose gradient isn't zero.

    One forward and backward pass in evaluation mode; each module's training mode is put back as it was. Where the rows
    are all tokens, one that weighs far more than the mean's part is read by itself beside the mean, as DINOv2's class
    token is. A classifier that pools all tokens by weights of its own (SigLIP's) counts as one that reads their mean.

    Raises:
        ValueError: the model has no global attention, is causal, or reads tokens at places that depend on the sample,
            as the largest values over all tokens do.
    """
    # One derivative is taken, whatever the caller needs: `run_at` keeps the graph for it.
    with evaluating(model), untapped(), torch.no_grad(), recorded_attention(model) as recorded:
        logits, _ = run_at(model, inputs)
        weights = list(recorded)
        tokens = global_size(model, weights, inputs, logits)
        if not any(weight.triu(1).any() for weight in weights):
            raise ValueError(
                f"{type(model).__name__} is causal: its attention never looks ahead, so the first tokens lie on the "
                "most paths, whatever they say. Explain it by 'integrated_gradients' or 'input_x_gradient'."
            )
        sums = torch.cat([weight.detach().float().sum(-1).flatten() for weight in weights])
        if not torch.allclose(sums, torch.ones_like(sums), atol=0.02):
            raise ValueError(
                f"What {type(model).__name__} gives as its attention weights doesn't sum to 1 over the tokens, so it "
                "isn't what the values are weighted by. Explain it by 'integrated_gradients'."
            )
        (top,) = one_hots(logits.argmax(1), logits)
        scale = gradient_scale(logits, *weights)
        (gradient,) = torch.autograd.grad(logits, weights[-1], grad_outputs=top * scale, allow_unused=True)
    if gradient is None:
        raise ValueError(f"The last attention of {type(model).__name__} doesn't reach the logits.")
    if _takes_largest(logits, weights[-1]):
        raise ValueError(
            f"{type(model).__name__}'s classifier reads each feature at the token where it is largest, so attention "
            f"has no row to start from. Explain it by '{default_method(model)}'."
        )
    read = _pattern(gradient.float().abs().sum((1, 3)), token_mask(inputs, tokens, logits))
    if read is None:
        raise ValueError(
            f"{type(model).__name__}'s classifier reads neither its first tokens nor the mean of all, so attention has "
            "no row to start from. Explain it by 'integrated_gradients'."
        )
    return read


def _takes_largest(logits: torch.Tensor, last: torch.Tensor) -> bool:
    """Tell whether a maximum is taken behind the last attention: a gradient reaches every token there, too."""
    before = set(graph_nodes(last, logits))
    behind = {node.name() for node in graph_nodes(logits, last) if node not in before}
    return any(name.startswith(("AmaxBackward", "MaxBackward")) or "MaxPool" in name for name in behind)


def _pattern(strength: torch.Tensor, mask: torch.Tensor) -> PooledTokens | None:
    """Find the tokens read, by the size (B, N) of each one's gradient; None where samples differ."""
    read = strength > 0
    leading = min(MOST_PREFIX_TOKENS + 1, strength.shape[1] // 2)
    averaged = [first for first in range(leading) if torch.equal(read[:, first:], mask[:, first:])]
    mean_from = averaged[0] if averaged else None
    before = read[:, :mean_from]
    if (before != before[:1]).any() or before[:, leading:].any() or not read.any():
        return None
    if mean_from == 0:
        mean_from = _standing_out(strength, leading)
        return PooledTokens(tuple(range(mean_from)), mean_from)
    return PooledTokens(tuple(before[0].nonzero().flatten().tolist()), mean_from)


def _standing_out(strength: torch.Tensor, leading: int) -> int:
    """Count the tokens at the start that are read by themselves beside a mean over the others, as a class token.

    In a mean over N tokens each weighs 1/N; a token that is read by itself weighs 1. √N stands between.
    """
    averaged = strength.where(strength > 0, torch.nan)
    limit = averaged.nanmedian(1).values * (strength > 0).sum(1) ** 0.5
    return int((averaged[:, :leading] > limit.unsqueeze(1)).all(0).cumprod(0).sum())


def token_mask(inputs: Mapping[str, Any], tokens: int, logits: torch.Tensor) -> torch.Tensor:
    """Make the mask (B, N) bool of the tokens that are no padding."""
    mask = inputs.get("attention_mask")
    if mask is None:
        return torch.ones(len(logits), tokens, dtype=torch.bool, device=logits.device)
    return mask != 0
