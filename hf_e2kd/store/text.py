"""Stored explanations of texts: scores of the teacher's tokens by the characters that they stand for.

A stored row knows nothing of the student's tokenizer. When a batch is made, the stored spans are matched with the
student's tokens into words (`alignment.words`), just as two tokenizers' tokens are.
"""

import zlib
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..alignment.texts import check_text, length_limit, require_offsets_and_padding
from ..alignment.words import pool_words
from ..data.labels import refuse_names, refuse_unequal
from ..data.text import TextCollator
from .files import StoreError

# Names of what a text's row holds; in a sample they stand after the reference's prefix.
SPANS, SCORES, FIRST, CHECKSUM = "spans", "scores", "first_tokens", "text_crc32"
TEXT_COLUMNS = (SPANS, SCORES, FIRST, CHECKSUM)


@dataclass
class TextRows:
    """The tokens of a batch that are text, without special tokens and padding.

    Args:
        places: Columns in the batch of each sample's tokens.
        spans: First character of each token and the one after its last, (n, 2) int32 a sample.
        first: Number of tokens of the first text; the others are of a pair's second.
        checksums: CRC-32 of each sample's text.
    """

    places: list[list[int]]
    spans: list[np.ndarray]
    first: list[int]
    checksums: list[int]


class SpanCollator:
    """Tokenize a batch of texts for the teacher, and keeps the characters that its tokens stand for.

    Args:
        tokenizer: The teacher's fast tokenizer.
        text_columns: Column of the texts, or two columns of pairs.
        label_column: Column of the labels, which may be missing.
        max_length: Longest input in tokens; the tokenizer's own by default.
    """

    def __init__(
        self,
        tokenizer: Any,
        text_columns: str | Sequence[str] = "text",
        label_column: str = "label",
        max_length: int | None = None,
    ):
        require_offsets_and_padding(tokenizer)
        self.tokenizer = tokenizer
        self.text_columns = (text_columns,) if isinstance(text_columns, str) else tuple(text_columns)
        self.label_column = label_column
        self.max_length = length_limit(tokenizer, max_length)

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> tuple[dict[str, torch.Tensor], TextRows]:
        """The batch: `input_ids`, `attention_mask`, … and `special_tokens_mask`, all (B, T), `labels` where there are
        some, and where the text is in them."""
        texts = [texts_of(sample, self.text_columns) for sample in samples]
        for row, parts in enumerate(texts):
            for text in parts:
                check_text(text, row)
        encoding = self.tokenizer(
            *(list(column) for column in zip(*texts, strict=True)),
            truncation=self.max_length is not None,
            max_length=self.max_length,
            padding=True,
        )
        rows = TextRows([], [], [], [checksum(parts) for parts in texts])
        special = torch.ones(len(texts), len(encoding["input_ids"][0]), dtype=torch.long)
        for row, tokens in enumerate(encoding.encodings):
            parts, offsets = tokens.sequence_ids, tokens.offsets
            places = [place for place, part in enumerate(parts) if part is not None]
            special[row, places] = 0
            rows.places.append(places)
            rows.spans.append(np.array([offsets[place] for place in places], np.int32).reshape(-1, 2))
            rows.first.append(sum(parts[place] == 0 for place in places))
        batch = {name: torch.tensor(values) for name, values in encoding.items()}
        batch["special_tokens_mask"] = special
        column = self.label_column if any(self.label_column in sample for sample in samples) else "labels"
        labels = [sample.get(column) for sample in samples]
        refuse_names(labels, column)
        refuse_unequal(labels, column)
        if None not in labels:
            batch["labels"] = torch.as_tensor(np.array(labels))
        return batch, rows


def texts_of(sample: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, ...]:
    """A sample's text, or its pair.

    Raises:
        StoreError: a column is missing or holds no text.
    """
    for column in columns:
        if not isinstance(sample.get(column), str):
            found = repr(sample[column]) if column in sample else f"nothing; the columns are {sorted(sample)}"
            raise StoreError(
                f"The column '{column}' holds {found} where a text is expected. Name it by `text_columns`."
            )
    return tuple(sample[column] for column in columns)


def checksum(texts: Sequence[str]) -> int:
    return zlib.crc32("\0".join(texts).encode())


class StoredTextCollator:
    """Make the student's batch with `TextCollator`, and the stored map over the words that both have seen.

    Args:
        collator: Collator of the student's tokenizer alone, `TextCollator(tokenizer)`.
        prefix: Prefix of the stored reference's columns.

    Raises:
        StoreError: on a call, a sample without stored columns, or whose text isn't the one that the teacher read.

    Example:

        reference = StoredReference("store")
        collator = StoredTextCollator(TextCollator(student_tokenizer))
        trainer = ExplanationDistillTrainer(
            student, args, train_dataset=reference.attach(train), data_collator=collator,
            references={"teacher": reference}, explainer="integrated_gradients",
        )
    """

    def __init__(self, collator: TextCollator, prefix: str = "reference"):
        if collator.teacher_tokenizer is not None:
            raise StoreError(
                "A stored teacher needs no tokenizer. Give TextCollator the student's alone: TextCollator(tokenizer)."
            )
        self.collator = collator
        self.prefix = prefix
        # `Trainer` saves the tokenizer that it finds on its collator.
        self.tokenizer = collator.tokenizer
        # And reads there which column's classes must be the student's.
        self.label_column = collator.label_column

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Columns of the texts."""
        return self.collator.text_columns

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the samples that are read."""
        stored = (*TEXT_COLUMNS, "logits", "target")
        return (*self.collator.columns, *(f"{self.prefix}_{name}" for name in stored))

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """The student's batch and, each after the prefix, `logits` (B, classes), `target` (B,) or (B, K), `map`
        (B, [K,] W) over the student's words, and `mask` (B, W) bool."""
        stored = [self._stored(sample) for sample in samples]
        tokens = _StoredTokens([row[SPANS] for row in stored], [int(row[FIRST]) for row in stored])
        # As if the stored spans were another tokenizer's.
        paired = copy(self.collator)
        paired.teacher_tokenizer, paired.teacher_max_length = tokens, None
        batch = paired(samples)
        del batch["teacher_input_ids"]
        word_ids = batch.pop("teacher_word_ids")
        target = torch.stack([row["target"] for row in stored])
        scores = torch.zeros(*target.shape, word_ids.shape[1])
        for number, row in enumerate(stored):
            scores[number, ..., : row[SCORES].shape[-1]] = row[SCORES]
        maps, mask = pool_words(scores, word_ids)
        added = {"logits": torch.stack([row["logits"] for row in stored]), "target": target, "map": maps, "mask": mask}
        return batch | {f"{self.prefix}_{name}": value for name, value in added.items()}

    def _stored(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        start = f"{self.prefix}_"
        stored = {name.removeprefix(start): value for name, value in sample.items() if name.startswith(start)}
        if not {*TEXT_COLUMNS, "logits", "target"} <= stored.keys():
            raise StoreError(
                f"A sample has no column '{start}{SPANS}'. Give the trainer `reference.attach(dataset)`, with the "
                "store of a teacher of texts; for another data set, such as one to evaluate on, build a store of its "
                "own: "
                "`reference.attach(dataset, folder=...)`."
            )
        if checksum(texts_of(sample, self.collator.text_columns)) != int(stored[CHECKSUM]):
            raise StoreError(
                f"The text {sample[self.collator.text_columns[0]]!r} is not the one that the teacher read when the "
                "store was built. Give the trainer the same texts, in the same order where the store has no ids."
            )
        return stored


class _StoredTokens:
    """A stand-in for the teacher's tokenizer: it knows one batch's tokens, and no text."""

    def __init__(self, spans: Sequence[torch.Tensor], first: Sequence[int]):
        self.encodings = [
            _Tokens([(start, end) for start, end in own.tolist()], count)
            for own, count in zip(spans, first, strict=True)
        ]

    def __call__(self, *texts: Any, **settings: Any) -> "_StoredTokens":
        longest = max(1, *(len(tokens.offsets) for tokens in self.encodings))
        for tokens in self.encodings:
            tokens.pad(longest)
        return self

    def __iter__(self) -> Any:
        return iter(("input_ids",))

    def __getitem__(self, name: str) -> list[list[int]]:
        return [tokens.ids for tokens in self.encodings]


class _Tokens:
    """One text's tokens, as `tokenizers.Encoding` shows them."""

    def __init__(self, offsets: list[tuple[int, int]], first: int):
        self.offsets = offsets
        self.sequence_ids: list[int | None] = [*[0] * first, *[1] * (len(offsets) - first)]
        self.ids = [0] * len(offsets)

    def pad(self, length: int) -> None:
        missing = length - len(self.offsets)
        self.offsets += [(0, 0)] * missing
        self.sequence_ids += [None] * missing
        self.ids += [0] * missing
