"""Text classifiers: their table of word embeddings, and the texts that fit them."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .base import keeps_forward

# What transformers calls the tables that embed a text's positions.
_POSITION_TABLES = (
    "char_position_embeddings",
    "embed_positions",
    "position_embedding",
    "position_embeddings",
    "positions_embed",
    "wpe",
)
_IMAGE_PARTS = ("vision", "visual", "image", "patch")


def word_embeddings(model: nn.Module) -> nn.Module:
    """The table that embeds a text's tokens: the one that the model names, else its only one of the vocabulary's size.

    Raises:
        ValueError: there is none.
    """
    try:
        table = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        table = None
    if isinstance(table, nn.Module) and isinstance(getattr(table, "weight", None), torch.Tensor):
        return table
    words = getattr(getattr(model, "config", None), "vocab_size", None)
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding) and len(module.weight) == words]
    if len(tables) != 1:
        raise ValueError(
            f"{type(model).__name__} names no table of word embeddings by get_input_embeddings(), so a text can't be "
            "explained at them."
        )
    return tables[0]


@contextmanager
def moved_embeddings(
    model: nn.Module, ids: torch.Tensor, move: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[list[torch.Tensor]]:
    """Move the word embeddings that the model makes of these ids (B, T); the hooks are gone after it.

    An encoder-decoder embeds twice, by tables that share their weight: the first call, the encoder's, is moved. Some
    models lengthen the text first, to a multiple of their window, and some put tokens before samples.

    Args:
        ids: (B, T) tokens.
        move: Function that moves the embeddings (B, T, C).

    Returns:
        A list that holds the moved embeddings once the model has run, differentiable there.
    """
    words = word_embeddings(model)
    moved: list[torch.Tensor] = []

    def replace(_module: nn.Module, args: Any, output: Any) -> Any:
        embedded = output[0] if isinstance(output, tuple) else output
        is_turned = _is_turned(args[0] if args else None, ids)
        rows = embedded.transpose(0, 1) if is_turned else embedded
        samples, tokens = ids.shape
        if moved or len(rows) != samples or rows.shape[1] < tokens:
            return None
        if rows.shape[1] > tokens and not (args and torch.equal(args[0][:, :tokens], ids)):
            return None
        moved.append(leaf_unless_connected(move(rows[:, :tokens])))
        rows = torch.cat([moved[0], rows[:, tokens:]], dim=1)  # a copy, even where nothing is added
        embedded = rows.transpose(0, 1) if is_turned else rows
        return (embedded, *output[1:]) if isinstance(output, tuple) else embedded

    weight = words.weight
    tables = [module for module in model.modules() if module is words or getattr(module, "weight", None) is weight]
    # An adapter's table holds the one that it adds to, whose embeddings aren't the whole.
    inner = {part for table in tables for part in table.modules() if part is not table}
    handles = [table.register_forward_hook(replace) for table in tables if table not in inner]
    try:
        yield moved
    finally:
        for handle in handles:
            handle.remove()


def _is_turned(embedded: torch.Tensor | None, ids: torch.Tensor) -> bool:
    """Tell whether a table is given the ids (T, B)."""
    if embedded is None or embedded.shape != ids.T.shape or torch.equal(embedded, ids):
        return False
    return torch.equal(embedded, ids.T)


def leaf_unless_connected(value: torch.Tensor) -> torch.Tensor:
    """A trained table's embeddings stay connected to it; everything else becomes a leaf to differentiate at."""
    return value if value.requires_grad else value.detach().requires_grad_()


# Families whose logits follow from word embeddings as they do from the tokens themselves.
_READ_EMBEDDINGS = (*("Bert", "DistilBert", "Roberta", "XLMRoberta", "Electra", "Albert", "DebertaV2", "ModernBert"),)


def reads_embeddings(model: nn.Module) -> bool:
    """Tell whether a text classifier is known to be a function of its word embeddings (B, T, C), as `inputs_embeds`.

    Of a subclass with a forward of its own nothing is known.
    """
    names = {f"{family}ForSequenceClassification" for family in _READ_EMBEDDINGS}
    known: Any = next((cls for cls in type(model).__mro__ if cls.__name__ in names), None)
    return known is not None and keeps_forward(model, known)


def text_at_embeddings(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of such a model beside `inputs_embeds`, so that it does with them what it does with the tokens."""
    others = {name: value for name, value in inputs.items() if name != "input_ids"}
    embeddings: Any = getattr(getattr(model, "base_model", None), "embeddings", None)
    if "position_ids" not in others and hasattr(embeddings, "create_position_ids_from_input_ids"):
        # RoBERTa counts positions from the first token that is no padding, which embeddings don't show.
        positions = embeddings.create_position_ids_from_input_ids(inputs["input_ids"], embeddings.padding_idx)
        others["position_ids"] = positions
    return others


def refuse_unfit_text(model: nn.Module, inputs: Mapping[str, Any]) -> None:
    """Refuse texts that would end in an error from deep inside the model, on a GPU one that spoils the process.

    Args:
        inputs: The batch; nothing is checked without `input_ids`.

    Raises:
        ValueError: the batch is empty, a text is longer than the table of positions, a token is outside the vocabulary,
            or the padding isn't the one by which the model finds a text's end; with the remedy.
    """
    ids = inputs.get("input_ids")
    if not isinstance(ids, torch.Tensor):
        return
    name = type(model).__name__
    if ids.ndim != 2 or ids.numel() == 0:
        raise ValueError(
            f"`input_ids` must have the shape (batch, tokens) with at least one text of one token, not "
            f"{tuple(ids.shape)}. Leave out empty batches, and tokenize with the special tokens, which no text lacks."
        )
    longest = longest_text(model)
    if longest is not None and ids.shape[1] > longest and inputs.get("position_ids") is None:
        raise ValueError(
            f"The texts have {ids.shape[1]} tokens and {name} has positions for {longest}. Cut them: "
            f"tokenizer(texts, truncation=True, max_length={longest})."
        )
    _refuse_foreign_padding(model, inputs)
    types, kinds = inputs.get("token_type_ids"), getattr(getattr(model, "config", None), "type_vocab_size", None)
    if isinstance(types, torch.Tensor) and kinds and types.numel() and int(types.max()) >= kinds:
        raise ValueError(
            f"`token_type_ids` holds {int(types.max())}, and {name} knows the types 0 to {kinds - 1}. Use the model's "
            "own tokenizer, or tokenize with return_token_type_ids=False."
        )
    try:
        words = len(word_embeddings(model).weight)
    except ValueError:  # no table, no limit
        return
    lowest, highest = int(ids.min()), int(ids.max())
    if lowest < 0 or highest >= words:
        raise ValueError(
            f"`input_ids` holds the id {lowest if lowest < 0 else highest}, and {name} knows the ids 0 to {words - 1}. "
            "Use the model's own tokenizer, or, where it was given more tokens, call "
            "model.resize_token_embeddings(len(tokenizer))."
        )


def _refuse_foreign_padding(model: nn.Module, inputs: Mapping[str, Any]) -> None:
    """Refuse padding behind texts that a decoder's classifier would read as their last token."""
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    if not isinstance(mask, torch.Tensor) or mask.shape != ids.shape:
        return
    forward = inspect.unwrap(type(model).forward)
    # As transformers' decoders call the place whose logits they give, found by the token and not by the mask.
    if "last_non_pad_token" not in getattr(getattr(forward, "__code__", None), "co_varnames", ()):
        return
    config: Any = getattr(model, "config", None)
    padding = getattr(config.get_text_config() if hasattr(config, "get_text_config") else config, "pad_token_id", None)
    if padding is None:
        return
    unknown = (mask[:, -1] == 0) & (ids[:, -1] != padding)
    if unknown.any():
        raise ValueError(
            f"Texts are filled up by the token {int(ids[unknown][0, -1])}, and {type(model).__name__} classifies by "
            f"each text's last token that isn't {padding}, its config.pad_token_id: it would read the padding. Set "
            "model.config.pad_token_id = tokenizer.pad_token_id."
        )


def longest_text(model: nn.Module) -> int | None:
    """The largest number of tokens of a text, by the model's shortest table of positions; None where it has none."""
    if getattr(getattr(model, "config", None), "reset_position_index_per_cell", False):
        return None  # TAPAS counts positions anew in each cell of a table, up to the last one
    tables = [
        module
        for path, module in model.named_modules()
        if path.split(".")[-1] in _POSITION_TABLES
        and not any(part in path for part in _IMAGE_PARTS)
        and isinstance(getattr(module, "weight", None), torch.Tensor)
    ]
    return min((len(module.weight) - _first_position(module) for module in tables), default=None)


def _first_position(table: nn.Module) -> int:
    """The row of a text's first token: RoBERTa's tables begin after the padding's row, BART's after an offset."""
    if getattr(table, "padding_idx", None) is not None:
        return table.padding_idx + 1
    return getattr(table, "offset", 0)


def explain_missing_padding(model: nn.Module, error: ValueError) -> ValueError:
    """The error to raise in place of a model's own on a missing padding token; other errors are given back."""
    if "no padding token is defined" not in str(error):
        return error
    return ValueError(
        f"{type(model).__name__} classifies by each text's last token before the padding, and its configuration names "
        "no padding token, which it needs for several texts and for several points of one. Set "
        "model.config.pad_token_id = tokenizer.pad_token_id (of a tokenizer without one, tokenizer.pad_token = "
        "tokenizer.eos_token first)."
    )
