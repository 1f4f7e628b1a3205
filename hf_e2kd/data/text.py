"""From texts to the batches of a student and a teacher, with the words that both see."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..alignment.texts import length_limit, require_offsets_and_padding, same_tokenizer, tokenize_texts


class TextCollator:
    """Tokenizes a batch of texts for the student and, where its tokenizer differs, for the teacher.

    Both get the numbers of the words that their tokens belong to, so that maps over different tokens are compared word
    by word (see `alignment.words`).

    Args:
        tokenizer: The student's fast tokenizer.
        teacher_tokenizer: The teacher's, where it isn't the same.
        text_columns: Column of the texts, or two columns of pairs.
        label_column: Column of the labels, which may be missing.
        teacher_text_columns: Columns of the teacher's texts, where it has its own; they must hold the same texts.
        max_length, teacher_max_length: Longest input in tokens, special ones included; the tokenizer's own by default.

    Raises:
        ValueError: a tokenizer without offsets or without a padding token; on a call, a missing column, something that
            is no text, or a teacher's text that isn't the student's.

    Example:

        collator = TextCollator(student_tokenizer, teacher_tokenizer, text_columns="sentence")
        trainer = ExplanationDistillTrainer(student, args, data_collator=collator, teacher_model=teacher, ...)
    """

    def __init__(
        self,
        tokenizer: Any,
        teacher_tokenizer: Any = None,
        text_columns: str | Sequence[str] = "text",
        label_column: str = "label",
        teacher_text_columns: str | Sequence[str] | None = None,
        max_length: int | None = None,
        teacher_max_length: int | None = None,
    ):
        self.tokenizer = tokenizer
        same = teacher_tokenizer is None or same_tokenizer(tokenizer, teacher_tokenizer)
        # A teacher with the same tokenizer and length reads the student's batch.
        self.teacher_tokenizer = (
            None if same and teacher_max_length in (None, max_length) else teacher_tokenizer or tokenizer
        )
        self.text_columns = _names(text_columns)
        self.teacher_text_columns = self.text_columns if teacher_text_columns is None else _names(teacher_text_columns)
        self.label_column = label_column
        self.max_length = length_limit(tokenizer, max_length)
        self.teacher_max_length = length_limit(teacher_tokenizer or tokenizer, teacher_max_length or max_length)
        for side in filter(None, (tokenizer, self.teacher_tokenizer)):
            require_offsets_and_padding(side)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the data set that are read."""
        return tuple(dict.fromkeys((*self.text_columns, *self.teacher_text_columns, self.label_column, "labels")))

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns `input_ids`, `attention_mask`, … and `word_ids`, all (B, T), the same with `teacher_` before them
        where the teacher has its own tokenizer, and `labels` (B,)."""
        texts = [_texts(sample, self.text_columns) for sample in samples]
        if self.teacher_text_columns != self.text_columns:
            self._require_same_texts(samples, texts)
        sides = [(self.tokenizer, self.max_length)]
        if self.teacher_tokenizer is not None:
            sides.append((self.teacher_tokenizer, self.teacher_max_length))
        (batch, *teacher), _ = tokenize_texts(texts, *sides)
        batch |= {f"teacher_{name}": column for columns in teacher for name, column in columns.items()}
        label_column = self.label_column if self.label_column in samples[0] else "labels"
        if label_column in samples[0]:
            batch["labels"] = torch.tensor([sample[label_column] for sample in samples])
        return batch

    def _require_same_texts(self, samples: Sequence[Mapping[str, Any]], texts: Sequence[tuple[str, ...]]) -> None:
        for row, (sample, own) in enumerate(zip(samples, texts, strict=True)):
            shown = _texts(sample, self.teacher_text_columns)
            if shown != own:
                raise ValueError(
                    f"The teacher's text differs from the student's in sample {row} of the batch: {shown!r} and "
                    f"{own!r}. Explanations are compared on the words of one text; give both the same."
                )


def _texts(sample: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, ...]:
    missing = [column for column in columns if column not in sample]
    if missing:
        raise ValueError(
            f"The data has no text column {missing}. Its columns: {sorted(sample)}. Name it by `text_columns`; a "
            "`Trainer` keeps only columns that its collator names."
        )
    texts = tuple(sample[column] for column in columns)
    for column, text in zip(columns, texts, strict=True):
        if not isinstance(text, str):
            raise ValueError(f"The column '{column}' holds {text!r} where a text is expected. Leave such samples out.")
    return texts


def _names(columns: str | Sequence[str]) -> tuple[str, ...]:
    names = (columns,) if isinstance(columns, str) else tuple(columns)
    if len(names) not in (1, 2):
        raise ValueError(f"text_columns names one column or two of pairs, not {len(names)}: {list(names)}.")
    return names
