"""ModernBERT, opened for a transposed pass."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from transformers.masking_utils import create_bidirectional_mask, create_bidirectional_sliding_window_mask

from .attention import Attention, Turn
from .blocks import (
    by_activation,
    by_factor,
    by_gate,
    by_linear,
    by_mean,
    by_norm,
    by_token,
    chain,
    followed,
    in_turn,
    pre_norm_block,
)
from .families import register_family
from .operations import Step, affine, factor, norm, split_affine
from .rules import Rules
from .text import TextFamily


class _Context(NamedTuple):
    """The padding mask (B, T), and by type of layer the model's mask and the rotation by position."""

    padding: torch.Tensor | None
    masks: dict[str, torch.Tensor | None]
    rotations: dict[str, tuple[torch.Tensor, torch.Tensor]]


class ModernBert(TextFamily):
    """ModernBERT: norms in front, positions by rotation, windows in some layers, gated linear units."""

    def __init__(self, model: Any):
        super().__init__(model)
        self.read = 1 if model.config.classifier_pooling == "cls" else None

    @property
    def blocks(self) -> dict[str, Any]:
        return {f"model.layers.{number}": layer for number, layer in enumerate(self.model.model.layers)}

    def embed_words(self, words: torch.Tensor, inputs: Mapping[str, Any], rules: Rules) -> Step:
        embeddings = self.model.model.embeddings
        normalised, pull_norm = norm(embeddings.norm, words, rules)
        hidden, pull_dropout = factor(embeddings.drop, normalised)
        return hidden, lambda cotangent: pull_norm(pull_dropout(cotangent))

    def context(self, hidden: torch.Tensor, inputs: Mapping[str, Any]) -> _Context:
        padding, config = inputs.get("attention_mask"), self.model.config
        given = {"config": config, "inputs_embeds": hidden, "attention_mask": padding}
        positions = inputs.get("position_ids")
        if positions is None:
            positions = torch.arange(hidden.shape[1], device=hidden.device).unsqueeze(0)
        return _Context(
            padding,
            {
                "full_attention": create_bidirectional_mask(**given),
                "sliding_attention": create_bidirectional_sliding_window_mask(**given),
            },
            {kind: self.model.model.rotary_emb(hidden, positions, kind) for kind in sorted(set(config.layer_types))},
        )

    def run(self, block: Any, hidden: torch.Tensor, context: _Context) -> torch.Tensor:
        kind = block.attention_type
        return block(hidden, attention_mask=context.masks[kind], position_embeddings=context.rotations[kind])

    def open(self, block: Any, hidden: torch.Tensor, context: _Context, read: int | None, rules: Rules) -> Step:
        own, mask = block.attn, context.masks[block.attention_type]
        rotate = _rotation(*context.rotations[block.attention_type])
        query, key, value = split_affine(own.Wqkv, 3)
        attention = Attention(
            query,
            key,
            value,
            affine(own.Wo),
            head_dim=own.head_dim,
            scale=own.head_dim**-0.5,
            dropout=own.attention_dropout if own.training else 0.0,
            bias=None if mask is None else _additive(mask, hidden.dtype),
            turn_query=rotate,
            turn_key=rotate,
        )
        gate, linear_part = split_affine(block.mlp.Wi, 2)
        feed_forward = in_turn(
            by_gate(block.mlp.act, gate, linear_part), by_factor(block.mlp.drop), by_linear(block.mlp.Wo)
        )
        attend = followed(attention, by_factor(own.out_drop))
        return pre_norm_block(hidden, read, rules, block.attn_norm, attend, block.mlp_norm, feed_forward)

    def classify(self, tokens: torch.Tensor, context: _Context, rules: Rules) -> Step:
        model = self.model
        head = [by_linear(model.head.dense), by_activation(model.head.act), by_norm(model.head.norm)]
        pooling = by_token(0) if self.read == 1 else by_mean(0, context.padding)
        norm_and_pooling = [by_norm(model.model.final_norm), pooling]
        return chain(tokens, rules, [*norm_and_pooling, *head, by_factor(model.drop), by_linear(model.classifier)])


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return (~mask).to(dtype) * torch.finfo(dtype).min if mask.dtype == torch.bool else mask


def _rotation(cosines: torch.Tensor, sines: torch.Tensor) -> Turn:
    """Make the rotation of queries and keys (B, heads, tokens, d) by the first of the positions (1, T, d)."""

    def turned(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, -1)
        return torch.cat([-second, first], -1)

    def rotate(x: torch.Tensor) -> Step:
        cos, sin = (each[:, None, : x.shape[2]] for each in (cosines, sines))
        return x * cos + turned(x) * sin, lambda cotangent: cotangent * cos - turned(cotangent * sin)

    return rotate


register_family("ModernBertForSequenceClassification", ModernBert)
