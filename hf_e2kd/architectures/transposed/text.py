"""What the families of text classifiers share: the batch, the padding mask, the position of word embeddings."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch

from .attention import padding_bias
from .families import Embedded, Family, Move
from .operations import Step
from .refusals import TransposeError
from .rules import Rules


class TextFamily(Family):
    """A classifier of texts whose blocks take a padding mask."""

    def embed(self, inputs: Mapping[str, Any], rules: Rules, move: Move) -> Embedded:
        refuse_embeddings(inputs)
        table = self.model.get_input_embeddings()
        if not any(module is table for module in self.model.base_model.embeddings.modules()):
            raise TransposeError(
                f"{type(self.model).__name__} doesn't embed its `input_ids` by the table that its "
                "get_input_embeddings() names, so relevance can't be propagated to its words."
            )
        words = move(table(inputs["input_ids"]))
        hidden, pullback = self.embed_words(words, inputs, rules)
        return Embedded(hidden, words, pullback, self.context(hidden, inputs))

    def context(self, hidden: torch.Tensor, inputs: Mapping[str, Any]) -> Any:
        return inputs.get("attention_mask")

    @abstractmethod
    def embed_words(self, words: torch.Tensor, inputs: Mapping[str, Any], rules: Rules) -> Step:
        """Compute the activation (B, T, C) in front of the first block from word embeddings (B, T, C)."""

    def run(self, block: Any, hidden: torch.Tensor, context: Any) -> torch.Tensor:
        output = block(hidden, self.own_mask(hidden, context))
        return output[0] if isinstance(output, tuple) else output

    def own_mask(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor | None:
        """Make the mask that the model's own kernel takes, (B, 1, 1, T)."""
        if mask is None or self.model.base_model.config._attn_implementation != "sdpa":
            return padding_bias(mask, hidden.dtype)
        return mask[:, None, None] != 0


def refuse_embeddings(inputs: Mapping[str, Any]) -> None:
    """Refuse a batch without tokens, or with what the opened forward doesn't pass on."""
    known = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
    unknown = sorted(name for name, value in inputs.items() if name not in known and value is not None)
    if unknown or inputs.get("input_ids") is None:
        raise TransposeError(
            f"Relevance is propagated from texts given as `input_ids`, with {', '.join(known[1:])}, not from "
            f"{', '.join(unknown) or 'none'}."
        )
