"""Base of explainers that follow attention from the tokens that the classifier reads to the input."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..architectures import call_model
from ..architectures.refusals import refuse_dropped_patches
from .attention_weights import global_size, recorded_attention, refuse_checkpointing
from .base import Explainer, Explanation, Target, default_method, resolve_target
from .patch_grid import patch_grid
from .pooled_tokens import PooledTokens, find_pooled_tokens, token_mask

Choice = int | Sequence[int] | None
"""Layers or heads by their numbers, negative ones counted from the end; None for all."""


class AttentionExplainer(Explainer):
    """A method that follows attention from the tokens that the classifier reads back to the input's tokens.

    Every layer's weights are read from the model's own forward, which computes attention in the open for that one call,
    whatever kernel (sdpa, flash, flex, timm's fused one) it uses otherwise. Which tokens the classifier reads is found
    once for each model, by one more pass in evaluation mode.

    Args:
        layers: Numbers of the layers to follow; all by default, −1 for the last alone.
        heads: Numbers of the heads to average; all by default.
    """

    def __init__(self, layers: Choice = None, heads: Choice = None):
        self.layers = layers
        self.heads = heads
        self._pooled: WeakKeyDictionary[nn.Module, PooledTokens] = WeakKeyDictionary()

    def check(self, model: nn.Module, compiled: bool = False, trained: bool = True) -> None:
        if compiled:
            raise ValueError(
                f"torch_compile can't give the attention weights of {type(model).__name__}, which the explainer "
                f"'{self.name}' reads. Train without torch_compile, or explain by '{default_method(model)}'."
            )
        refuse_checkpointing(model)
        with recorded_attention(model):
            pass

    def forward(self, model: nn.Module, inputs: Mapping[str, Any], target: Target) -> Explanation:
        refuse_dropped_patches(model)
        if model not in self._pooled:
            ids = inputs.get("input_ids")
            if ids is not None and ids.shape[1] < 2:
                raise ValueError(
                    "Texts of one token show nothing of what a classifier reads. Tokenize with the special tokens, or "
                    "begin with a batch of longer texts."
                )
            self._pooled[model] = find_pooled_tokens(model, inputs)
        if torch.is_grad_enabled():
            refuse_checkpointing(model)
        # What checkpointing recomputes for the explanation's own gradient is recomputed in here.
        with recorded_attention(model) as recorded:
            logits = self._run(model, inputs)
            weights = list(recorded)
            tokens = global_size(model, weights, inputs, logits)
            followed = [weights[layer] for layer in _chosen("layers", self.layers, len(weights), model)]
            _chosen("heads", self.heads, followed[0].shape[1], model)
            read = self._pooled[model].weights(token_mask(inputs, tokens, logits))
            target = resolve_target(target, logits)
            # Products of many small numbers: in full precision, under autocast too.
            with torch.autocast(logits.device.type, enabled=False):
                scores = self._relevance(logits, followed, read, target)
        return _laid_out(model, inputs, logits, scores, target)

    def _run(self, model: nn.Module, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return the logits (B, classes) of the forward whose attention is recorded."""
        return call_model(model, inputs)

    @abstractmethod
    def _relevance(
        self, logits: torch.Tensor, weights: list[torch.Tensor], read: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """Compute the tokens' scores.

        Args:
            weights: Attention (B, heads, N, N) of each layer that is followed, first to last.
            read: Share (B, N) of each token in the classifier's input.
            target: Explained classes (B,) or (B, K).

        Returns:
            Scores (B, N), or (B, K, N) for targets (B, K).
        """

    def _mean_over_heads(self, weights: torch.Tensor) -> torch.Tensor:
        """Average attention (B, heads, N, N) over the chosen heads, in at least float32: (B, N, N)."""
        if self.heads is not None:
            weights = weights[:, [self.heads] if isinstance(self.heads, int) else list(self.heads)]
        return weights.mean(1, dtype=torch.float64 if weights.dtype == torch.float64 else torch.float32)


def _chosen(what: str, choice: Choice, count: int, model: nn.Module) -> list[int]:
    """Return the numbers of the layers or heads that an option names, in the model's order.

    Raises:
        ValueError: there is no such layer or head; the message gives the valid range.
    """
    if choice is None:
        return list(range(count))
    numbers = [choice] if isinstance(choice, int) else list(choice)
    if not numbers or not all(isinstance(number, int) and -count <= number < count for number in numbers):
        raise ValueError(
            f"{what}={choice!r}: {type(model).__name__} has {count} {what}. Give numbers from {-count} to {count - 1}."
        )
    return sorted({number % count for number in numbers})


def _laid_out(
    model: nn.Module, inputs: Mapping[str, Any], logits: torch.Tensor, scores: torch.Tensor, target: torch.Tensor
) -> Explanation:
    """Lay out tokens' scores (B, [K,] N): of an image as a map of its patches, without prefix tokens."""
    if inputs.get("pixel_values") is None:
        return Explanation(logits, scores, target, layout="tokens")
    grid = patch_grid(model, scores.shape[-1], *inputs["pixel_values"].shape[-2:])
    patches = scores[..., grid.prefix_tokens :].unflatten(-1, (grid.height, grid.width))
    return Explanation(logits, patches, target)
