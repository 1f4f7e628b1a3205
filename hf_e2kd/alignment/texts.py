"""Texts as token ids of one or two tokenizers, with the words that all of them see."""

import json
from collections.abc import Sequence
from typing import Any

import torch

from .words import Span, align_words, trim

# transformers states no limit of a tokenizer as a very large number.
_NO_LIMIT = 10**6
_NOT_FOR_THE_MODEL = ("offset_mapping", "special_tokens_mask", "overflow_to_sample_mapping")


def tokenize_texts(
    texts: Sequence[tuple[str, ...]], *sides: tuple[Any, int | None]
) -> tuple[list[dict[str, torch.Tensor]], list[list[str]]]:
    """Tokenize a batch for each side.

    Args:
        texts: Texts (B), each a tuple of one or, for a pair, two.
        sides: A fast tokenizer and its longest input in tokens, None for no limit.

    Returns:
        For each side what the model takes (`input_ids`, `attention_mask`, …) and `word_ids`, all (B, T); and the words
        themselves, (B) lists. A pair's second text goes on counting.

    Raises:
        ValueError: something that is no text, or no valid one, with its place in the batch.
    """
    encodings = _encodings(texts, *sides)
    numbers: list[list[list[int]]] = []
    words: list[list[str]] = []
    for row, parts in enumerate(texts):
        ids, spans = _number_words(parts, [encoding.encodings[row] for encoding in encodings])
        numbers.append(ids)
        words.append([text[start:end] for text, own in zip(parts, spans, strict=True) for start, end in own])
    batches = []
    for side, encoding in enumerate(encodings):
        columns = {name: torch.tensor(encoding[name]) for name in encoding if name not in _NOT_FOR_THE_MODEL}
        batches.append({**columns, "word_ids": torch.tensor([ids[side] for ids in numbers])})
    return batches, words


def read_texts(texts: Sequence[tuple[str, ...]], *sides: tuple[Any, int | None]) -> list[tuple[str, ...]]:
    """Write texts as all sides read them: an ellipsis stands for a beginning or an end of which they see no word.

    What a truncation cut off may hold the same words as a pair's second text.

    Args:
        texts, sides: As of `tokenize_texts`.
    """
    encodings = _encodings(texts, *sides)
    rows = []
    for row, parts in enumerate(texts):
        _, spans = _number_words(parts, [encoding.encodings[row] for encoding in encodings])
        rows.append(tuple(_read_part(text, own) for text, own in zip(parts, spans, strict=True)))
    return rows


def _read_part(text: str, spans: Sequence[Span]) -> str:
    if not spans:
        return "…" if any(map(str.isalnum, text)) else text
    start, end = spans[0][0], spans[-1][1]
    before = "… " if any(map(str.isalnum, text[:start])) else text[:start]
    after = " …" if any(map(str.isalnum, text[end:])) else text[end:]
    return f"{before}{text[start:end]}{after}"


def length_limit(tokenizer: Any, given: int | None = None) -> int | None:
    """The longest input in tokens: the smaller of what is given and what the tokenizer states; None for neither."""
    if given is not None and given < 1:
        raise ValueError(f"max_length must be at least 1, not {given}.")
    own = tokenizer.model_max_length if tokenizer.model_max_length < _NO_LIMIT else None
    return own if given is None else given if own is None else min(given, own)


def same_tokenizer(first: Any, second: Any) -> bool:
    """Tell whether two tokenizers cut every text alike into the same ids, and fill batches up with the same one.

    Decoders look for a text's end by their padding token, whatever the attention mask says.
    """
    if first is second:
        return True
    padding = {first.pad_token_id, second.pad_token_id} - {None}
    if len(padding) > 1:
        return False
    # A slow tokenizer's rules are in its class.
    same_rules = first.is_fast or type(first) is type(second)
    return same_rules and tokenizer_definition(first) == tokenizer_definition(second)


def tokenizer_definition(tokenizer: Any) -> dict[str, Any]:
    """A fast tokenizer's definition without the truncation and padding of its last call; a slow one's vocabulary."""
    if not tokenizer.is_fast:
        return tokenizer.get_vocab()
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    return {name: value for name, value in definition.items() if name not in ("truncation", "padding")}


def require_offsets_and_padding(tokenizer: Any) -> None:
    """Refuse tokenizers whose tokens can't be matched to words, or whose texts can't be batched.

    Raises:
        ValueError: a slow tokenizer, or one without a padding token, with the remedy.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} is a slow tokenizer and gives no character offsets, so its tokens can't be "
            "matched to words. Load its fast version (AutoTokenizer.from_pretrained), or, where teacher and student "
            "share it, tokenize beforehand and use transformers' DataCollatorWithPadding, which compares by token."
        )
    if tokenizer.pad_token is None:
        raise ValueError(
            f"{type(tokenizer).__name__} has no padding token, so texts can't be batched. Set one: "
            "tokenizer.pad_token = tokenizer.eos_token, and model.config.pad_token_id = tokenizer.pad_token_id."
        )


def check_text(text: Any, row: int) -> None:
    """Refuse what tokenizers answer by a TypeError.

    Raises:
        ValueError: no text, or one with half of a character, by its number in the batch.
    """
    if not isinstance(text, str):
        raise ValueError(f"Number {row} of the batch is {text!r}, no text. Leave it out.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"Number {row} of the batch, {text[:40]!r}, holds half of a character at {error.start} (a lone surrogate, "
            r"as '\ud83d' in JSON). Leave it out, or replace it: text.encode(errors='replace').decode()."
        ) from None


def _encodings(texts: Sequence[tuple[str, ...]], *sides: tuple[Any, int | None]) -> list[Any]:
    for row, parts in enumerate(texts):
        for text in parts:
            check_text(text, row)
    return [_encode(tokenizer, texts, limit) for tokenizer, limit in sides]


def _encode(tokenizer: Any, texts: Sequence[tuple[str, ...]], limit: int | None) -> Any:
    columns = list(zip(*texts, strict=True))
    return tokenizer(
        *(list(column) for column in columns),
        truncation=limit is not None,
        max_length=limit,
        padding=True,
        return_offsets_mapping=True,
    )


def _number_words(parts: tuple[str, ...], encodings: Sequence[Any]) -> tuple[list[list[int]], list[list[Span]]]:
    """For each side's encoding of one sample the word of each token; and the words' spans, by part."""
    numbers = [[-1] * len(encoding.ids) for encoding in encodings]
    found: list[list[Span]] = []
    # Asked once: each time, the encoding copies all of them.
    offsets = [encoding.offsets for encoding in encodings]
    for part, text in enumerate(parts):
        # Special tokens and padding belong to no part.
        places = [
            [place for place, sequence in enumerate(encoding.sequence_ids) if sequence == part]
            for encoding in encodings
        ]
        spans = [[all_spans[p] for p in own] for all_spans, own in zip(offsets, places, strict=True)]
        words, before = align_words(text, *spans), sum(map(len, found))
        for side, own in enumerate(places):
            for place, word in zip(own, words.ids[side], strict=True):
                numbers[side][place] = word + before if word >= 0 else -1
        found.append(words.spans)
    return numbers, found


def number_spans(
    tokenizer: Any, texts: Sequence[str], spans: Sequence[Sequence[Span]], limit: int | None
) -> torch.Tensor:
    """For each token the given span that its first character lies in, (B, T); −1 for none and for special tokens.

    Args:
        spans: [start, end) of each text's parts to which scores shall be summed, such as a treebank's words, in order.
        limit: Limit that `tokenize_texts` was given, so that the columns are the same.
    """
    encoding = _encode(tokenizer, [(text,) for text in texts], limit)
    rows = []
    for row, own in enumerate(spans):
        tokens = encoding.encodings[row]
        at = {place: number for number, (start, end) in enumerate(own) for place in range(start, end)}
        trimmed = [trim(texts[row], offset) for offset in tokens.offsets]
        rows.append(
            [
                -1 if sequence is None else at.get(start, -1)
                for sequence, (start, _) in zip(tokens.sequence_ids, trimmed, strict=True)
            ]
        )
    return torch.tensor(rows)
