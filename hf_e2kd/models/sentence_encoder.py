"""Text classifiers made of an encoder of sentences: its pooled tokens under one linear layer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from ..choices import unknown_choice
from .base import as_configuration


class SentenceEncoderConfig(PreTrainedConfig):
    """Configuration of a `SentenceEncoderForSequenceClassification`.

    Args:
        backbone_config: Configuration of the encoder, an object or a dictionary; of BERT by default.
        pooling: Feature of a text, a name of `POOLINGS`.

    Raises:
        ValueError: an unknown pooling.
    """

    model_type = "sentence_encoder_classifier"
    sub_configs = {"backbone_config": AutoConfig}

    def __init__(
        self,
        backbone_config: PreTrainedConfig | dict[str, Any] | None = None,
        pooling: str = "mean",
        **settings: Any,
    ):
        if pooling not in POOLINGS:
            raise ValueError(unknown_choice("pooling", pooling, POOLINGS))
        self.backbone_config: Any = as_configuration(backbone_config, model_type="bert")
        self.pooling = pooling
        # What text pipelines read of every model's configuration.
        for name in ("vocab_size", "max_position_embeddings", "pad_token_id", "num_hidden_layers"):
            if hasattr(self.backbone_config, name):
                settings.setdefault(name, getattr(self.backbone_config, name))
        super().__init__(**settings)


class SentenceEncoderForSequenceClassification(PreTrainedModel):
    """A classifier that is one linear layer on an encoder's pooled tokens, as sentence-transformers pools them.

    `fit_head` makes one of a published encoder.

    Raises:
        ValueError: the encoder states no width, or doesn't read texts.
    """

    config_class = SentenceEncoderConfig
    base_model_prefix = "backbone"
    main_input_name = "input_ids"
    input_modalities = ("text",)
    _supports_sdpa = True

    def __init__(self, config: SentenceEncoderConfig):
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.backbone_config)
        width = getattr(config.backbone_config, "hidden_size", None)
        if width is None or self.backbone.main_input_name != "input_ids":
            raise ValueError(
                f"{type(self.backbone).__name__} is no encoder of texts whose tokens a linear layer could read. Name "
                "another one, such as sentence-transformers/all-MiniLM-L6-v2."
            )
        self.classifier = nn.Linear(width, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **loss_kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Classify texts. `loss_kwargs` (`num_items_in_batch`) are passed on to the loss."""
        given = {
            **{"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids},
            **{"position_ids": position_ids, "inputs_embeds": inputs_embeds},
            **{"output_attentions": output_attentions, "output_hidden_states": output_hidden_states},
        }
        read = {name: value for name, value in given.items() if value is not None}
        seen = self.backbone(**read, return_dict=True)
        hidden = seen.last_hidden_state
        mask = hidden.new_ones(hidden.shape[:2], dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        logits = self.classifier(POOLINGS[self.config.pooling](hidden, mask))
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **loss_kwargs)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=seen.get("hidden_states"), attentions=seen.get("attentions")
        )


def _first(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return hidden[:, 0]


def _mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    counted = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * counted).sum(1) / counted.sum(1)


def _largest(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return hidden.masked_fill(~mask.unsqueeze(-1), float("-inf")).amax(1)


def _last(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    places = torch.arange(mask.shape[1], device=mask.device)
    return hidden[torch.arange(len(hidden), device=hidden.device), (places * mask).argmax(1)]


POOLINGS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": _first,
    "mean": _mean,
    "max": _largest,
    "lasttoken": _last,
}
"""Functions of tokens (B, T, C) and their mask (B, T) that give features (B, C), by sentence-transformers' names."""
