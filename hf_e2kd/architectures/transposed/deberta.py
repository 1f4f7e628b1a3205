"""DeBERTa-v2 and -v3, opened for a transposed pass."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from .attention import Attention, PairPullback, padding_bias
from .blocks import by_activation, by_factor, by_linear, by_token, chain, followed, in_turn, post_norm_block
from .families import register_family
from .operations import Step, active, affine, factor, linear, norm
from .refusals import TransposeError
from .rules import Rules
from .text import TextFamily


class _Context(NamedTuple):
    """The padding mask (B, T), relative positions (1, T, T) and their embeddings (2 · span, C)."""

    mask: torch.Tensor | None
    positions: torch.Tensor | None
    embeddings: torch.Tensor | None


class DebertaV2(TextFamily):
    """DeBERTa-v2: BERT's blocks with attention that scores contents and relative positions apart."""

    @property
    def blocks(self) -> dict[str, Any]:
        encoder = self.model.deberta.encoder
        if encoder.conv is not None or self.model.deberta.z_steps > 1:
            raise TransposeError(
                f"Relevance isn't propagated through the convolution or the repeated last layer of this "
                f"{type(self.model).__name__}. Explain it by 'integrated_gradients'."
            )
        return {f"deberta.encoder.layer.{number}": layer for number, layer in enumerate(encoder.layer)}

    def embed_words(self, words: torch.Tensor, inputs: Mapping[str, Any], rules: Rules) -> Step:
        embeddings = self.model.deberta.embeddings
        summed, ids, mask = words, inputs["input_ids"], inputs.get("attention_mask")
        if embeddings.position_biased_input and embeddings.position_embeddings is not None:
            positions = inputs.get("position_ids")
            positions = embeddings.position_ids[:, : ids.shape[1]] if positions is None else positions
            summed = summed + embeddings.position_embeddings(positions)
        if embeddings.token_type_embeddings is not None:
            types = inputs.get("token_type_ids")
            summed = summed + embeddings.token_type_embeddings(torch.zeros_like(ids) if types is None else types)
        pull_project = None
        if embeddings.embed_proj is not None:
            summed, pull_project = linear(embeddings.embed_proj, summed)
        normalised, pull_norm = norm(embeddings.LayerNorm, summed, rules)
        present = 1.0 if mask is None else mask.unsqueeze(-1).to(normalised.dtype)
        hidden, pull_dropout = factor(embeddings.dropout, normalised * present)

        def pullback(cotangent: torch.Tensor) -> torch.Tensor:
            at_sum = pull_norm(pull_dropout(cotangent) * present)
            return at_sum if pull_project is None else pull_project(at_sum)

        return hidden, pullback

    def context(self, hidden: torch.Tensor, inputs: Mapping[str, Any]) -> _Context:
        encoder = self.model.deberta.encoder
        return _Context(inputs.get("attention_mask"), encoder.get_rel_pos(hidden), encoder.get_rel_embedding())

    def run(self, block: Any, hidden: torch.Tensor, context: _Context) -> torch.Tensor:
        mask = context.mask
        whole = hidden.new_ones(hidden.shape[:2]) if mask is None else mask
        mask = self.model.deberta.encoder.get_attention_mask(whole)
        return block(hidden, mask, relative_pos=context.positions, rel_embeddings=context.embeddings)[0]

    def open(self, block: Any, hidden: torch.Tensor, context: _Context, read: int | None, rules: Rules) -> Step:
        own, output = block.attention.self, block.attention.output
        scores = _DisentangledScores(own, context)
        attention = Attention(
            affine(own.query_proj),
            affine(own.key_proj),
            affine(own.value_proj),
            affine(output.dense),
            head_dim=own.attention_head_size,
            scale=scores.scale,
            dropout=active(own.dropout),
            bias=padding_bias(context.mask, hidden.dtype),
            score=scores if own.relative_attention else None,
        )
        feed_forward = in_turn(
            by_linear(block.intermediate.dense),
            by_activation(block.intermediate.intermediate_act_fn),
            by_linear(block.output.dense),
            by_factor(block.output.dropout),
        )
        attend = followed(attention, by_factor(output.dropout))
        return post_norm_block(hidden, read, rules, attend, output.LayerNorm, feed_forward, block.output.LayerNorm)

    def classify(self, tokens: torch.Tensor, context: Any, rules: Rules) -> Step:
        pooler = self.model.pooler
        pooled = [
            by_token(0),
            by_factor(pooler.dropout),
            by_linear(pooler.dense),
            by_activation(pooler.config.pooler_hidden_act),
        ]
        return chain(tokens, rules, [*pooled, by_factor(self.model.dropout), by_linear(self.model.classifier)])


class _DisentangledScores:
    """Scores of queries and keys with each other and with relative positions (He et al., ICLR 2021).

    A position's part of a score is a product with an embedding that no token contributes to: it is handed back to the
    query, or the key, alone.
    """

    def __init__(self, own: Any, context: _Context):
        self.own, self.context = own, context
        self.kinds = [kind for kind in ("c2p", "p2c") if kind in own.pos_att_type]
        self.scale = (own.attention_head_size * (1 + len(self.kinds))) ** -0.5

    def __call__(self, query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, PairPullback]:
        own, read = self.own, query.shape[2]
        positions, span = self.context.positions, own.pos_ebd_size
        assert positions is not None and self.context.embeddings is not None
        embeddings = own.pos_dropout(self.context.embeddings)[: 2 * span]
        scores = query @ key.transpose(-2, -1) * self.scale
        batched = (len(query), query.shape[1], -1, -1)
        if "c2p" in self.kinds:
            at_key = self._heads(own.key_proj if own.share_att_key else own.pos_key_proj, embeddings)
            ahead = (positions[:, :read] + span).clamp(0, 2 * span - 1).expand(*batched)
            scores = scores + (query @ at_key.transpose(-2, -1)).gather(-1, ahead) * self.scale
        if "p2c" in self.kinds:
            at_query = self._heads(own.query_proj if own.share_att_key else own.pos_query_proj, embeddings)
            back = (span - positions[:, :, :read]).clamp(0, 2 * span - 1).expand(*batched)
            scores = scores + (key @ at_query.transpose(-2, -1)).gather(-1, back).transpose(-2, -1) * self.scale

        def pullback(cotangent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            scaled = cotangent * self.scale
            turned = scaled.transpose(-2, -1)
            to_query, to_key = scaled @ key, turned @ query
            if "c2p" in self.kinds:
                to_query = to_query + _scattered(scaled, ahead, 2 * span) @ at_key
            if "p2c" in self.kinds:
                to_key = to_key + _scattered(turned, back, 2 * span) @ at_query
            return to_query, to_key

        return scores, pullback

    def _heads(self, projection: Any, embeddings: torch.Tensor) -> torch.Tensor:
        """Project the embeddings of positions: (heads, 2 · span, d)."""
        return projection(embeddings).unflatten(-1, (-1, self.own.attention_head_size)).transpose(0, 1)


def _scattered(values: torch.Tensor, places: torch.Tensor, width: int) -> torch.Tensor:
    """Sum values (B, heads, rows, tokens) at their places in rows of a width."""
    return values.new_zeros(*values.shape[:-1], width).scatter_add(-1, places, values)


register_family("DebertaV2ForSequenceClassification", DebertaV2)
