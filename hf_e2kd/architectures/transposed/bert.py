"""BERT, RoBERTa, XLM-R, CamemBERT and ELECTRA, opened for a transposed pass."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from .attention import Attention, padding_bias
from .blocks import (
    Layer,
    by_activation,
    by_factor,
    by_linear,
    by_mean,
    by_token,
    chain,
    followed,
    in_turn,
    post_norm_block,
)
from .families import register_family
from .operations import Step, active, affine, factor, linear, norm
from .refusals import TransposeError
from .rules import Rules
from .text import TextFamily


class Bert(TextFamily):
    """BERT and its kin: norms behind the sums, a class token.

    Args:
        head: Layers of the classifier, as a function of the model.
        read: Number of tokens that it reads: 1, the class token, or None, the mean of all.
    """

    def __init__(self, model: Any, head: Any, read: int | None = 1):
        super().__init__(model)
        self.head, self.read = head, read

    @property
    def blocks(self) -> dict[str, Any]:
        if self.model.base_model.config.is_decoder:
            raise TransposeError(
                f"Relevance isn't propagated through this {type(self.model).__name__}, which is causal (config."
                "is_decoder). Explain it by 'integrated_gradients'."
            )
        prefix = f"{self.model.base_model_prefix}.encoder.layer"
        return {f"{prefix}.{number}": layer for number, layer in enumerate(self.model.base_model.encoder.layer)}

    def embed_words(self, words: torch.Tensor, inputs: Mapping[str, Any], rules: Rules) -> Step:
        embeddings = self.model.base_model.embeddings
        ids = inputs["input_ids"]
        positions = inputs.get("position_ids")
        if positions is None and hasattr(embeddings, "create_position_ids_from_input_ids"):
            positions = embeddings.create_position_ids_from_input_ids(ids, embeddings.padding_idx)
        elif positions is None:
            positions = embeddings.position_ids[:, : ids.shape[1]]
        types = inputs.get("token_type_ids")
        types = torch.zeros_like(ids) if types is None else types
        summed = words + embeddings.token_type_embeddings(types) + embeddings.position_embeddings(positions)
        normalised, pull_norm = norm(embeddings.LayerNorm, summed, rules)
        hidden, pull_dropout = factor(embeddings.dropout, normalised)
        project = getattr(self.model.base_model, "embeddings_project", None)
        if project is None:
            return hidden, lambda cotangent: pull_norm(pull_dropout(cotangent))
        projected, pull_project = linear(project, hidden)
        return projected, lambda cotangent: pull_norm(pull_dropout(pull_project(cotangent)))

    def open(self, block: Any, hidden: torch.Tensor, context: Any, read: int | None, rules: Rules) -> Step:
        own, output = block.attention.self, block.attention.output
        attention = Attention(
            affine(own.query),
            affine(own.key),
            affine(own.value),
            affine(output.dense),
            head_dim=own.attention_head_size,
            scale=own.attention_head_size**-0.5,
            dropout=active(own.dropout),
            bias=padding_bias(context, hidden.dtype),
        )
        return post_norm_block(
            hidden,
            read,
            rules,
            followed(attention, by_factor(output.dropout)),
            output.LayerNorm,
            in_turn(
                by_linear(block.intermediate.dense),
                by_activation(block.intermediate.intermediate_act_fn),
                by_linear(block.output.dense),
                by_factor(block.output.dropout),
            ),
            block.output.LayerNorm,
        )

    def classify(self, tokens: torch.Tensor, context: Any, rules: Rules) -> Step:
        pooling = by_token(0) if self.read == 1 else by_mean(0, context)
        return chain(tokens, rules, [pooling, *self.head(self.model)])


def _bert_head(model: Any) -> list[Layer]:
    pooler = model.bert.pooler
    return [
        by_linear(pooler.dense),
        by_activation(pooler.activation),
        by_factor(model.dropout),
        by_linear(model.classifier),
    ]


def _classification_head(activation: Any, model: Any) -> list[Layer]:
    head = model.classifier
    if not type(head).__name__.endswith("ClassificationHead"):
        raise TransposeError(
            f"Relevance is propagated through the classifier of transformers, and {type(model).__name__} has a "
            f"{type(head).__name__} in its place. Explain it by 'integrated_gradients'."
        )
    return [
        by_factor(head.dropout),
        by_linear(head.dense),
        by_activation(activation),
        by_factor(head.dropout),
        by_linear(head.out_proj),
    ]


def _sentence_encoder(model: Any) -> Bert | None:
    poolings = {"cls": 1, "mean": None}
    if type(model.base_model).__name__ not in _ENCODERS or model.config.pooling not in poolings:
        return None
    return Bert(model, lambda model: [by_linear(model.classifier)], poolings[model.config.pooling])


_ENCODERS = ("BertModel", "RobertaModel", "XLMRobertaModel", "CamembertModel", "ElectraModel")

register_family("SentenceEncoderForSequenceClassification", _sentence_encoder)
register_family("BertForSequenceClassification", partial(Bert, head=_bert_head))
for _name in ("Roberta", "XLMRoberta", "Camembert"):
    register_family(f"{_name}ForSequenceClassification", partial(Bert, head=partial(_classification_head, "tanh")))
register_family("ElectraForSequenceClassification", partial(Bert, head=partial(_classification_head, "gelu")))
