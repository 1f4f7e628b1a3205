"""Tiny text classifiers of eight families, built offline from their configurations, and a batch for them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from torch import nn

from hf_e2kd.models import SentenceEncoderConfig, SentenceEncoderForSequenceClassification
from tests.models import CLASS_NAMES, built

VOCABULARY = 60
PADDING, START, END = 0, 1, 2
_FIRST_WORD = 5

_BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "vocab_size": VOCABULARY,
    "pad_token_id": PADDING,
}
_DISTILBERT = {
    "dim": 16,
    "n_layers": 3,
    "n_heads": 2,
    "hidden_dim": 32,
    "max_position_embeddings": 32,
    "vocab_size": VOCABULARY,
    "pad_token_id": PADDING,
}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
# One global layer, then two that look one or two tokens to each side.
_MODERNBERT = {
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
    "local_attention": 4,
    "bos_token_id": START,
    "eos_token_id": END,
    "cls_token_id": START,
    "sep_token_id": END,
}


_LABELS = {"id2label": dict(enumerate(CLASS_NAMES)), "label2id": {v: k for k, v in enumerate(CLASS_NAMES)}}


def _classifier(family: str, **settings: Any) -> nn.Module:
    config = getattr(transformers, f"{family}Config")(**settings, **_LABELS)
    return getattr(transformers, f"{family}ForSequenceClassification")(config)


def _sentence_encoder(pooling: str = "mean", **settings: Any) -> nn.Module:
    config = SentenceEncoderConfig(transformers.BertConfig(**settings), pooling, **_LABELS)
    return SentenceEncoderForSequenceClassification(config)


TEXT: dict[str, Callable[[], nn.Module]] = {
    "bert": partial(_classifier, "Bert", **_BERT),
    "distilbert": partial(_classifier, "DistilBert", **_DISTILBERT),
    "roberta": partial(_classifier, "Roberta", **_BERT),
    "electra": partial(_classifier, "Electra", **_BERT, embedding_size=8),
    "deberta": partial(_classifier, "DebertaV2", **_BERT, **_DEBERTA),
    "modernbert": partial(_classifier, "ModernBert", **_BERT, **_MODERNBERT),
    "albert": partial(_classifier, "Albert", **_BERT, embedding_size=8),
    "sentence encoder": partial(_sentence_encoder, **_BERT),
}
"""What builds a tiny text classifier of each family, by the family's name."""


def build_text(name: str, seed: int = 0, **settings: Any) -> nn.Module:
    """A tiny text classifier, in evaluation mode, its weights large enough for maps that differ between tokens.

    Args:
        name: One of `TEXT`.
        seed: Of the weights. The global generator is left as it was.
        settings: Of the configuration, beside the family's own (`classifier_pooling="mean"`).
    """
    return built((name, seed, repr(settings)), partial(TEXT[name], **settings), seed)


def token_batch(batch: int = 2, tokens: int = 9, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random `input_ids` and `attention_mask` (batch, tokens); the last row ends with two padded places."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(_FIRST_WORD, VOCABULARY, (batch, tokens), generator=generator)
    ids[:, 0] = START
    ids[:, -1] = END
    ids[-1, -3:] = torch.tensor([END, PADDING, PADDING])
    return {"input_ids": ids, "attention_mask": (ids != PADDING).long()}


def token_rows(count: int) -> list[dict[str, torch.Tensor]]:
    """Samples of `token_batch` that say which of their tokens are special."""
    batch = token_batch(count)
    batch["special_tokens_mask"] = (batch["input_ids"] < _FIRST_WORD).long()
    return [{name: values[index] for name, values in batch.items()} for index in range(count)]
