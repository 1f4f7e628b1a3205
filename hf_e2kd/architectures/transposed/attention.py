"""Softmax attention with its transpose."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .operations import Affine, Step, dropout, unchanged
from .refusals import TransposeError
from .rules import Rules

Turn = Callable[[torch.Tensor], Step]
"""A function of queries or keys (B, heads, tokens, d), such as a rotation by position or a norm, with its pullback."""

PairPullback = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

Score = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, PairPullback]]
"""Scores (B, heads, read, tokens) of queries and keys, with their pullback to both."""


def _as_it_is(x: torch.Tensor) -> Step:
    return x, unchanged


@dataclass
class Attention:
    """The parts of a self-attention layer.

    Args:
        query, key, value, output: Its projections.
        head_dim: Width d of a head.
        scale: Factor of the scores.
        dropout: Probability with which a weight is dropped; 0 outside training.
        bias: Added to the scores, broadcast to (B, heads, tokens, tokens); None where every token attends to all.
        turn_query, turn_key: What is done to queries and keys before they are multiplied.
        score: What scores queries and keys; their scaled products by default.
    """

    query: Affine
    key: Affine
    value: Affine
    output: Affine
    head_dim: int
    scale: float
    dropout: float = 0.0
    bias: torch.Tensor | None = None
    turn_query: Turn = _as_it_is
    turn_key: Turn = _as_it_is
    score: Score | None = None

    def __call__(self, x: torch.Tensor, read: int | None, rules: Rules) -> Step:
        """Attend among the tokens x (B, tokens, C) and give the output (B, read, C) for the first of them.

        Args:
            read: Number of tokens at the start that are read; None for all.
        """
        tokens = x.shape[1]
        query, turned_query = self.turn_query(self._heads(self.query(x[:, :read])))
        key, turned_key = self.turn_key(self._heads(self.key(x)))
        value = self._heads(self.value(x))
        scores, pull_scores = (self.score or self._products)(query, key)
        if self.bias is not None:
            scores = scores + (self.bias if self.bias.shape[-2] == 1 else self.bias[..., :read, :])
        weights = scores.softmax(dim=-1)
        kept, pull_kept = dropout(self.dropout, weights)

        def pullback(cotangent: torch.Tensor) -> torch.Tensor:
            mixed = self._heads(self.output.transposed(cotangent))
            share = 0.5 if rules.uniform else 1.0
            back = self.value.transposed(_merged(kept.transpose(-2, -1) @ mixed)) * share
            if not rules.through_weights:
                return back
            at_weights = pull_kept(mixed @ value.transpose(-2, -1)) * share
            at_scores = weights * (at_weights - (weights * at_weights).sum(-1, keepdim=True))
            at_query, at_key = pull_scores(at_scores * share)
            back = back + self.key.transposed(_merged(turned_key(at_key)))
            return back + widened(self.query.transposed(_merged(turned_query(at_query))), tokens)

        return self.output(_merged(kept @ value)), pullback

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _products(self, query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, PairPullback]:
        def pullback(cotangent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            scaled = cotangent * self.scale
            return scaled @ key, scaled.transpose(-2, -1) @ query

        return query @ key.transpose(-2, -1) * self.scale, pullback


def _merged(x: torch.Tensor) -> torch.Tensor:
    """Lay the heads (B, heads, tokens, d) side by side: (B, tokens, heads · d)."""
    return x.transpose(1, 2).flatten(2)


def widened(cotangent: torch.Tensor, tokens: int) -> torch.Tensor:
    """Fill up a cotangent (B, read, C) of the first tokens with zeros for the others: (B, tokens, C)."""
    return F.pad(cotangent, (0, 0, 0, tokens - cotangent.shape[1])) if cotangent.shape[1] < tokens else cotangent


def padding_bias(mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """Make what is added to scores, (B, 1, 1, T), so that no token attends to padding.

    Args:
        mask: The batch's attention mask (B, T); None where there is no padding.
    """
    if mask is None:
        return None
    if mask.ndim != 2:
        raise TransposeError(f"The attention mask must have the shape (batch, tokens), not {tuple(mask.shape)}.")
    return (mask[:, None, None] == 0).to(dtype) * torch.finfo(dtype).min
