"""Words: the character spans on which two tokenizers' tokens of one text are compared.

A word is the smallest span that no token of either tokenizer cuts, and that cuts no run of letters in a script that
puts spaces between words. So sub-words are summed to whole words where words are written apart, and Chinese, Japanese
or Thai are compared piece by piece, as finely as both tokenizers allow.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch

Span = tuple[int, int]
"""First character and the one after the last, in the text."""

LAYOUT_COLUMNS = ("word_ids", "special_tokens_mask", "offset_mapping", "text")
"""Columns that say what tokens are; explainers read them, and no model's forward takes them."""

# First and last code point of the scripts that write words without spaces between them.
_UNSPACED = (
    (0x0E00, 0x0FFF),  # Thai, Lao, Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x2FDF),  # CJK radicals
    (0x3005, 0x30FF),  # Hiragana, Katakana and their marks
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # CJK ideographs
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),  # halfwidth Katakana
    (0x20000, 0x3FFFF),
)
_ZERO_WIDTH_SPACE = "\u200b"
_ZERO_WIDTH_JOINER = "\u200d"
_UNDECODED = "\ufffd"
_SKIN_TONES = range(0x1F3FB, 0x1F400)


@dataclass(frozen=True)
class Words:
    """The words that every tokenizer has seen whole.

    Args:
        spans: First character of each word and the one after its last, in the order of the text.
        ids: Number of the word that each token belongs to, by tokenizer; −1 where a
            truncation left that word incomplete on some side.
    """

    spans: list[Span]
    ids: list[list[int]]


def align_words(text: str, *tokens: Sequence[Span]) -> Words:
    """Find the words of a text that was cut into tokens by one or more tokenizers.

    Args:
        tokens: Character span of each token, by tokenizer, as `return_offsets_mapping` gives it, without
            special tokens and padding. A token that holds spaces alone belongs to the word after it.
    """
    trimmed = [[trim(text, span) for span in side] for side in tokens]
    spans = _join(_split(text), [span for side in trimmed for span in side])
    word_at = {place: number for number, (start, end) in enumerate(spans) for place in range(start, end)}
    whole = set(range(len(spans)))
    for side in trimmed:
        seen = {place for start, end in side for place in range(start, end)}
        whole -= {word_at[place] for place, char in enumerate(text) if _is_needed(char) and place not in seen}
        # A word of nothing but marks may have no token at all.
        whole &= {word_at[start] for start, end in side if end > start}
    number = {word: rank for rank, word in enumerate(sorted(whole))}
    ids = [[number.get(word_at.get(start, -1), -1) for start, _ in side] for side in trimmed]
    return Words([spans[word] for word in sorted(whole)], ids)


def pool_words(scores: torch.Tensor, word_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum tokens' scores to words.

    Args:
        scores: Scores of tokens (B, *, T).
        word_ids: Word of each token (B, T); −1 where a token belongs to no word.

    Returns:
        The words' scores (B, *, W), W being the largest number of words in the batch and at least 1, and which of them
        exist, (B, W) bool.
    """
    count = max(1, int(word_ids.max()) + 1) if word_ids.numel() else 1
    # Column 0 collects what belongs to no word.
    columns = word_ids + 1
    exists = torch.zeros(len(columns), count + 1, dtype=torch.bool, device=columns.device)
    exists = exists.scatter(1, columns, torch.ones_like(columns, dtype=torch.bool))
    index = columns.view(len(columns), *[1] * (scores.ndim - 2), -1).expand_as(scores)
    sums = scores.new_zeros(*scores.shape[:-1], count + 1).scatter_add(-1, index, scores)
    return sums[..., 1:], exists[:, 1:]


def lay_out_tokens(
    scores: torch.Tensor, inputs: Mapping[str, Any]
) -> tuple[torch.Tensor, torch.Tensor, Literal["tokens", "words"]]:
    """Turn tokens' scores into a map: of words where the batch says which they are, else of tokens.

    Args:
        scores: Scores of tokens (B, T) or (B, K, T).
        inputs: The batch. `word_ids` (B, T) makes words; else the tokens that count are those of `attention_mask`
            without those of `special_tokens_mask`, as far as they are given.

    Returns:
        The map (B, [K,] cells), 0 in cells that don't count; which count, (B, cells) bool; and the layout.
    """
    if inputs.get("word_ids") is not None:
        maps, mask = pool_words(scores, inputs["word_ids"])
        return maps, mask, "words"
    tokens = inputs["input_ids"]
    mask = torch.ones_like(tokens, dtype=torch.bool)
    if inputs.get("attention_mask") is not None:
        mask = mask & (inputs["attention_mask"] != 0)
    if inputs.get("special_tokens_mask") is not None:
        mask = mask & (inputs["special_tokens_mask"] == 0)
    return scores.masked_fill(~(mask if scores.ndim == 2 else mask[:, None]), 0), mask, "tokens"


def mark_special_tokens(inputs: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Add `special_tokens_mask` (B, T) to a batch of tokens that neither has it nor knows its words."""
    if "input_ids" not in inputs or not inputs.keys().isdisjoint(("word_ids", "special_tokens_mask")):
        return dict(inputs)
    names = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "pad_token_id")
    special = {getattr(tokenizer, name, None) for name in names} - {None}
    if not special:
        return dict(inputs)
    tokens = inputs["input_ids"]
    return {**inputs, "special_tokens_mask": torch.isin(tokens, torch.tensor(sorted(special), device=tokens.device))}


def require_special_tokens(inputs: Mapping[str, Any], tokenizer: Any) -> None:
    """Refuse a batch of tokens of which nothing says which are special: these would dominate every map.

    Raises:
        ValueError: with the remedies.
    """
    known = ("word_ids", "special_tokens_mask")
    if tokenizer is None and "input_ids" in inputs and inputs.keys().isdisjoint(known):
        raise ValueError(
            "The batch has token ids, and nothing says which of them are special ([CLS], [SEP]): these would dominate "
            "the maps, and any two models would look alike. Give the trainer the tokenizer as processing_class, make "
            "the batches by hf_e2kd.TextCollator, or add a column `special_tokens_mask` "
            "(tokenizer(texts, return_special_tokens_mask=True))."
        )


def _split(text: str) -> list[Span]:
    """The finest words that a text can have, before any tokenizer is asked."""
    spans: list[Span] = []
    # The character before, and the last one that is no mark on another.
    previous = base = " "
    for place, char in enumerate(text):
        if not char.isspace():
            if not previous.isspace() and _belong_together(base, previous, char):
                spans[-1] = (spans[-1][0], place + 1)
            else:
                spans.append((place, place + 1))
        previous = char
        if not _attaches(char) or char == _ZERO_WIDTH_SPACE:
            base = char
    return spans


def _join(words: list[Span], tokens: list[Span]) -> list[Span]:
    """Join the words that a token spans."""
    joined: list[Span] = []
    # At one start the longest token comes first, so that each token need only be compared with the last word.
    pieces = sorted([*words, *(span for span in tokens if span[1] > span[0])], key=lambda span: (span[0], -span[1]))
    for start, end in pieces:
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def trim(text: str, span: Span) -> Span:
    """A token's span without the spaces at its ends, which byte-level tokenizers count to the token.

    Of spaces alone, an empty span is left, where the next word begins.
    """
    start, end = span
    while start < len(text) and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, max(start, end)


@lru_cache(maxsize=65536)
def _belong_together(base: str, previous: str, char: str) -> bool:
    """Tell whether no word may begin at `char` after `previous`, which is `base` or a mark on it."""
    return _attaches(char) or previous == _ZERO_WIDTH_JOINER or (_is_letter(base) and _is_letter(char))


@lru_cache(maxsize=65536)
def _attaches(char: str) -> bool:
    """Combining marks, variation selectors, joiners and skin tones belong to what stands before them."""
    return unicodedata.category(char) in ("Mn", "Mc", "Me", "Cf") or ord(char) in _SKIN_TONES


@lru_cache(maxsize=65536)
def _is_letter(char: str) -> bool:
    """A letter or digit of a script that puts spaces between words."""
    return char.isalnum() and not any(first <= ord(char) <= last for first, last in _UNSPACED)


def _is_needed(char: str) -> bool:
    """Tell whether a tokenizer that has seen a word must have a token over this character; marks may be dropped.

    BERT's drop control characters, and the one that stands for what couldn't be decoded.
    """
    if char.isspace() or char == _UNDECODED or _attaches(char):
        return False
    return unicodedata.category(char) not in ("Cc", "Co", "Cn", "Cs")
