"""DistilBERT, opened for a transposed pass."""

from collections.abc import Mapping
from typing import Any

import torch

from .attention import Attention, padding_bias
from .blocks import by_activation, by_factor, by_linear, by_token, chain, in_turn, post_norm_block
from .families import register_family
from .operations import Step, active, affine, factor, norm
from .rules import Rules
from .text import TextFamily


class DistilBert(TextFamily):
    """DistilBERT: norms behind the sums, a class token."""

    @property
    def blocks(self) -> dict[str, Any]:
        layers = self.model.distilbert.transformer.layer
        return {f"distilbert.transformer.layer.{number}": layer for number, layer in enumerate(layers)}

    def embed_words(self, words: torch.Tensor, inputs: Mapping[str, Any], rules: Rules) -> Step:
        embeddings = self.model.distilbert.embeddings
        positions = inputs.get("position_ids")
        positions = embeddings.position_ids[:, : words.shape[1]] if positions is None else positions
        normalised, pull_norm = norm(embeddings.LayerNorm, words + embeddings.position_embeddings(positions), rules)
        hidden, pull_dropout = factor(embeddings.dropout, normalised)
        return hidden, lambda cotangent: pull_norm(pull_dropout(cotangent))

    def open(self, block: Any, hidden: torch.Tensor, context: Any, read: int | None, rules: Rules) -> Step:
        own = block.attention
        attention = Attention(
            affine(own.q_lin),
            affine(own.k_lin),
            affine(own.v_lin),
            affine(own.out_lin),
            head_dim=own.dim // own.n_heads,
            scale=(own.dim // own.n_heads) ** -0.5,
            dropout=active(own.dropout),
            bias=padding_bias(context, hidden.dtype),
        )
        feed_forward = in_turn(
            by_linear(block.ffn.lin1),
            by_activation(block.ffn.activation),
            by_linear(block.ffn.lin2),
            by_factor(block.ffn.dropout),
        )
        return post_norm_block(
            hidden, read, rules, attention, block.sa_layer_norm, feed_forward, block.output_layer_norm
        )

    def classify(self, tokens: torch.Tensor, context: Any, rules: Rules) -> Step:
        model = self.model
        head = [by_linear(model.pre_classifier), by_activation("relu"), by_factor(model.dropout)]
        return chain(tokens, rules, [by_token(0), *head, by_linear(model.classifier)])


register_family("DistilBertForSequenceClassification", DistilBert)
