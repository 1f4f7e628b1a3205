"""From texts to the batches of a student and a teacher, with the words that both see."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset, load_from_disk

from ..alignment.texts import length_limit, read_texts, require_offsets_and_padding, same_tokenizer, tokenize_texts
from .files import load_data_file, load_data_folder
from .holding_out import hold_out, state_names
from .labels import refuse_missing, refuse_names, refuse_unequal
from .sst import load_sst


class TextCollator:
    """Tokenize a batch of texts for the student and, where its tokenizer differs, for the teacher.

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
        self.text_columns = _names(text_columns)
        self.teacher_text_columns = self.text_columns if teacher_text_columns is None else _names(teacher_text_columns)
        self.label_column = label_column
        self.max_length = length_limit(tokenizer, max_length)
        teachers = tokenizer if teacher_tokenizer is None else teacher_tokenizer
        given = max_length if teacher_max_length is None else teacher_max_length
        self.teacher_max_length = length_limit(teachers, given)
        # A teacher whose tokenizer makes the same batch of every text reads the student's.
        alike = same_tokenizer(tokenizer, teachers)
        same = alike and self.teacher_max_length == self.max_length and tokenizer.padding_side == teachers.padding_side
        same = same and (self.max_length is None or tokenizer.truncation_side == teachers.truncation_side)
        pair = len(self.text_columns) == 2
        # DistilBERT's own gives no token types, without which BERT reads a pair as one text.
        same = same and not (pair and set(teachers.model_input_names) - set(tokenizer.model_input_names))
        # None: the teacher's isn't known here.
        self.same_tokens = None if teacher_tokenizer is None else alike
        self.teacher_tokenizer = None if same else teachers
        for side, limit in ((tokenizer, self.max_length), (teachers, self.teacher_max_length)):
            require_offsets_and_padding(side)
            special = side.num_special_tokens_to_add(pair=pair)
            if limit is not None and limit <= special:
                raise ValueError(
                    f"{limit} tokens leave no room for a text: {type(side).__name__} adds {special} special ones. "
                    "Raise max_length or teacher_max_length."
                )

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the data set that are read."""
        return tuple(dict.fromkeys((*self.text_columns, *self.teacher_text_columns, self.label_column, "labels")))

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch: `input_ids`, `attention_mask`, … and `word_ids`, all (B, T), the same with `teacher_` before them
        where the teacher has its own tokenizer, and `labels` (B,)."""
        texts = self.texts(samples)
        if self.teacher_text_columns != self.text_columns:
            self._require_same_texts(samples, texts)
        (batch, *teacher), _ = tokenize_texts(texts, *self._sides())
        batch |= {f"teacher_{name}": column for columns in teacher for name, column in columns.items()}
        label_column = self.label_column if any(self.label_column in sample for sample in samples) else "labels"
        labels = [sample.get(label_column) for sample in samples]
        if any(label is not None for label in labels):
            refuse_missing(labels, label_column)
            refuse_names(labels, label_column)
            refuse_unequal(labels, label_column)
            # Each by itself: several labels a sample may be a tensor already, as of data in torch's format.
            batch["labels"] = torch.stack([torch.as_tensor(label) for label in labels])
        return batch

    def texts(self, samples: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
        """The texts of samples as they were written, (B) tuples of one or two."""
        return [_texts(sample, self.text_columns) for sample in samples]

    def read_texts(self, samples: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
        """The texts of samples as far as they are read, (B) tuples of one or two; see `alignment.texts.read_texts`."""
        return read_texts(self.texts(samples), *self._sides())

    def words(self, samples: Sequence[Mapping[str, Any]]) -> list[list[str]]:
        """The words that `word_ids` number, as they were written, (B) lists."""
        return tokenize_texts(self.texts(samples), *self._sides())[1]

    def _sides(self) -> list[tuple[Any, int | None]]:
        sides = [(self.tokenizer, self.max_length)]
        if self.teacher_tokenizer is not None:
            sides.append((self.teacher_tokenizer, self.teacher_max_length))
        return sides

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


def load_text_splits(source: str, config: str | None = None) -> Mapping[str, Dataset]:
    """All splits of a source as for `load_texts`; "train" where there is one."""
    splits = _read_splits(source, config)
    state_names(splits)
    return splits


def _read_splits(source: str, config: str | None) -> Mapping[str, Dataset]:
    folder = Path(source)
    if folder.is_file():
        return load_data_file(source)
    if (folder / "train.txt").is_file() and (folder / "dev.txt").is_file():
        return load_sst(folder)
    if (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file():
        saved = load_from_disk(source)
        return {"train": saved} if isinstance(saved, Dataset) else saved
    return load_data_folder(source) if folder.is_dir() else load_dataset(source, config)


def load_texts(
    source: str,
    train_split: str,
    eval_split: str,
    text_column: str | Sequence[str],
    label_column: str,
    eval_share: float = 0.1,
    seed: int = 0,
    config: str | None = None,
) -> tuple[Dataset, Dataset]:
    """Load labelled texts to distil on.

    Args:
        source: A Hub id, a folder saved by `save_to_disk`, a folder of CSV, JSON or Parquet files or one
            such file, or a folder of the Stanford Sentiment Treebank's trees (train.txt, dev.txt, test.txt). No code of
            the data set is run.
        train_split, eval_split: Names of the splits. Of a source with one split alone, such as a single file, that
            is taken, and `eval_share` of it is held out by `seed`, unless other names than `train` and `validation` are
            given.
        text_column: Column of the texts, or the two of pairs.
        label_column: Column of the labels.
        config: Name of the data set's configuration on the Hub.

    Returns:
        The training and the evaluation set, with a column `length` in characters, by which
        `train_sampling_strategy="group_by_length"` saves padding.

    Raises:
        ValueError: a split or a column is missing; those that exist are listed. A row without a text, by its number.
    """
    columns = _names(text_column)
    splits = dict(load_text_splits(source, config))
    named = {train_split, eval_split} - {"train", "validation", *splits}
    if len(splits) == 1 and eval_split not in splits and not named:
        ((name, only),) = splits.items()
        train, held_out = hold_out(only, name, eval_share, seed)
        check_texts(only, columns, source)
        splits = {train_split: train, eval_split: held_out}
    for split in (train_split, eval_split):
        if split not in splits:
            raise ValueError(f"'{source}' has no split '{split}'. Its splits: {', '.join(splits)}.")
        for column in (*columns, label_column):
            if column not in splits[split].column_names:
                raise ValueError(
                    f"'{source}' has no column '{column}'. Its columns: {', '.join(splits[split].column_names)}."
                )
        check_texts(splits[split], columns, source)
    return _with_length(splits[train_split], columns), _with_length(splits[eval_split], columns)


def check_texts(data: Dataset, columns: Sequence[str], source: str | None = None) -> None:
    """Refuse rows without a text, such as an empty cell of a CSV file.

    Args:
        source: Where the data are from, for the message.

    Raises:
        ValueError: naming the rows, counted from 0, and the remedy.
    """
    of = f" of '{source}'" if source else ""
    for column in columns:
        if column not in data.column_names:
            continue
        values = data.with_format(None)[column]
        faulty = [row for row, text in enumerate(values) if not isinstance(text, str)]
        if faulty:
            shown = ", ".join(map(str, faulty[:5])) + ", …" * (len(faulty) > 5)
            raise ValueError(
                f"The column '{column}'{of} holds no text but {values[faulty[0]]!r} in "
                f"row{'s' * (len(faulty) > 1)} {shown}, counted from 0 without the header. Fill in the texts, or take "
                f"such rows out, in Python by dataset.filter(lambda row: row['{column}'])."
            )


def text_lengths(data: Any, columns: Sequence[str]) -> list[int]:
    """The lengths in characters of a data set's texts, or of its pairs together."""
    if isinstance(data, Dataset):
        plain = data.with_format(None)
        return [sum(map(len, texts)) for texts in zip(*(plain[column] for column in columns), strict=True)]
    return [sum(map(len, _texts(data[row], columns))) for row in range(len(data))]


def _with_length(data: Dataset, columns: Sequence[str]) -> Dataset:
    if "length" in data.column_names:
        return data
    return data.add_column("length", text_lengths(data, columns))
