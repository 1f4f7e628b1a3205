"""Explanations of texts by teacher and students: similarity, word attribution against known polarities, pictures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn

from ..alignment.captions import named_labels, predicted_names
from ..alignment.labels import LabelAlignment, align_labels, class_names, data_labels
from ..alignment.texts import length_limit, number_spans, read_texts, tokenize_texts
from ..alignment.words import LAYOUT_COLUMNS, pool_words
from ..callbacks.panels import CHOOSE_FROM
from ..cards.choice import at_quantiles, gain, rule
from ..cards.word_plots import WordRow, WordSample, word_page, word_plot
from ..data.text import text_lengths
from ..explainers import Explainer
from ..metrics import explanation_similarity, word_attribution

CLASS_POLARITY = {2: (-1, 1), 3: (-1, 0, 1), 4: (-1, -1, 1, 1), 5: (-1, -1, 0, 1, 1)}
"""Polarity of each class by the number of classes, in the treebank's order."""


@dataclass
class Reading:
    """Explanations of some texts by one model; lists of one entry a text.

    Args:
        logits: Logits (N, classes).
        words: Scores of the words that teacher and students share, for the teacher's top class among those that they
            share.
        spans: Scores of the data's own words for the model's top class, where the data has `spans` and `word_labels`.
    """

    logits: torch.Tensor
    words: list[list[float]]
    spans: list[list[float]]


@dataclass
class WordStudy:
    """Explain a sample of texts by teacher and students.

    Args:
        teacher: Teacher.
        teacher_tokenizer: Its tokenizer.
        tokenizer: Tokenizer of the students.
        evaluations: Data with a text column and labels; with `spans` and `word_labels`, words are scored against these.
        explainer: Explainer of the models.
        text_columns: Column of the texts, or the two of pairs.
        label_column: Column of the labels.
        samples: Number of texts of each evaluation set that are explained, drawn by a fixed seed.
        batch_size: Texts at a time.
        max_length: Longest text in tokens.
    """

    teacher: nn.Module
    teacher_tokenizer: Any
    tokenizer: Any
    evaluations: Mapping[str, Dataset]
    explainer: Explainer
    text_columns: str | Sequence[str] = "text"
    label_column: str = "label"
    samples: int = 300
    batch_size: int = 32
    max_length: int | None = None
    _teacher_readings: dict[tuple[Any, ...], Reading] = field(default_factory=dict)

    def measure(self, model: nn.Module, split: str) -> dict[str, float]:
        """Measure a student's similarity to the teacher, and word attribution where the data has words' polarities."""
        data = self._drawn(split, self.samples)
        is_teacher = model is self.teacher
        teacher = self._teacher_reading(split, self.samples, None if is_teacher else model)
        reading = teacher if is_teacher else self._read(model, data, teacher)
        metrics: dict[str, float] = {}
        if not is_teacher:
            pairs = zip(reading.words, teacher.words, strict=True)
            results = [explanation_similarity(_as_map(own), _as_map(taught)) for own, taught in pairs if taught]
            values = torch.tensor([value.item() for value, valid in results if valid])
            if len(values):
                metrics["explanation_similarity"] = values.mean().item()
        match = data_labels(data, model, self.label_column)
        if _has_words(data) and match is not None:
            figures = word_attribution(
                reading.spans,
                data["word_labels"],
                match(torch.tensor(data[self.label_column][:])).tolist(),
                reading.logits.argmax(1).tolist(),
                class_polarity=_polarity(reading.logits.shape[1], match.order),
            )
            # Undefined where no word counts, or where all of them agree with their text.
            names = [name for name in ("word_accuracy", "word_auroc", "word_auprc") if not math.isnan(figures[name])]
            metrics |= {name: figures[name] for name in names}
        return metrics

    def picture(self, students: Mapping[str, nn.Module], count: int, folder: Path) -> None:
        """Write explanations.html and explanations.png: texts of the last evaluation set, words coloured.

        Of 64 drawn texts those at evenly spaced quantiles of the last student's gain in similarity over the first
        student are shown, or of its similarity if there is no other.
        """
        split = list(self.evaluations)[-1]
        data = self._drawn(split, CHOOSE_FROM)
        any_student = next(iter(students.values()))
        teacher = self._teacher_reading(split, CHOOSE_FROM, any_student)
        readings = {"Teacher": teacher} | {
            f"{variant} student": self._read(student, data, teacher) for variant, student in students.items()
        }
        similarities = {
            heading: _similarities(reading, teacher) for heading, reading in readings.items() if reading is not teacher
        }
        value, values = gain(similarities)
        chosen = at_quantiles(values, count)
        names = class_names(any_student) or [str(index) for index in range(teacher.logits.shape[1])]
        classes = align_labels(self.teacher, any_student)
        # The students may have other classes, or the same in another order.
        shared = classes.teacher_logits(teacher.logits)
        target = classes.to_student(shared.argmax(1)).tolist()
        taught = predicted_names(shared, any_student, classes.student.tolist())
        predictions = {
            heading: taught if reading is teacher else predicted_names(reading.logits, any_student)
            for heading, reading in readings.items()
        }
        labels = named_labels([data[self.label_column][row] for row in chosen], data, any_student, self.label_column)
        texts = self._texts(data)
        words = self._tokenized(texts)[1]
        texts = read_texts(texts, *self._sides())
        shown = []
        for place, row in enumerate(chosen):
            rows = []
            for heading, reading in readings.items():
                similar = None if reading is teacher or not words[row] else similarities[heading][row].item()
                rows.append(WordRow(heading, words[row], reading.words[row], predictions[heading][row], similar))
            label = None if labels is None else labels[place]
            # A pair's second text begins a line.
            shown.append(WordSample("\n".join(texts[row]), rows, label=label, explained=names[target[row]]))
        note = rule(len(chosen), len(data), value)
        word_page(shown, folder / "explanations.html", note=note)
        word_plot(shown, folder / "explanations.png", note=note)

    def _drawn(self, split: str, count: int) -> Dataset:
        data = self.evaluations[split].shuffle(seed=0)
        return data.select(range(min(count, len(data))))

    def _teacher_reading(self, split: str, count: int, student: nn.Module | None) -> Reading:
        """Explain the teacher's top class among those that it shares with a student; among all where that is None."""
        classes = None if student is None else align_labels(self.teacher, student)
        if classes is not None and len(classes.teacher) == classes.teacher_classes:
            classes = None
        key = (split, count, None if classes is None else tuple(sorted(classes.teacher.tolist())))
        if key not in self._teacher_readings:
            self._teacher_readings[key] = self._read(self.teacher, self._drawn(split, count), None, classes)
        return self._teacher_readings[key]

    def _columns(self) -> list[str]:
        return [self.text_columns] if isinstance(self.text_columns, str) else list(self.text_columns)

    def _texts(self, rows: Any) -> list[tuple[str, ...]]:
        """List the texts, or the pairs, of a data set or of a batch of its rows."""
        return list(zip(*(rows[column] for column in self._columns()), strict=True))

    def _tokenized(self, texts: list[tuple[str, ...]]) -> tuple[list[dict[str, torch.Tensor]], list[list[str]]]:
        return tokenize_texts(texts, *self._sides())

    def _sides(self) -> list[tuple[Any, int | None]]:
        both = self.teacher_tokenizer, self.tokenizer
        return [(tokenizer, length_limit(tokenizer, self.max_length)) for tokenizer in both]

    def _read(
        self, model: nn.Module, data: Dataset, teacher: Reading | None, shared: LabelAlignment | None = None
    ) -> Reading:
        """Explain texts; a student's words are scored for the teacher's top class, its spans for its own.

        Args:
            teacher: The teacher's reading; None where the model is the teacher.
            shared: Classes among which the teacher's words are scored for the top one; None for all.
        """
        model.eval()
        device = next(model.parameters()).device
        tokenizer = self.teacher_tokenizer if teacher is None else self.tokenizer
        explainer = self.explainer.with_tokenizer(tokenizer)
        labels = align_labels(self.teacher, model)
        logits, words, spans = [], [], []
        # Texts of similar length share a batch, which saves most of the padding.
        order = sorted(range(len(data)), key=text_lengths(data, self._columns()).__getitem__)
        for start in range(0, len(data), self.batch_size):
            chosen = order[start : start + self.batch_size]
            rows = data[chosen]
            texts = self._texts(rows)
            batches, names = self._tokenized(texts)
            batch = {key: value.to(device) for key, value in batches[0 if teacher is None else 1].items()}
            tokens = {key: value for key, value in batch.items() if key not in LAYOUT_COLUMNS}
            if teacher is not None:
                taught = teacher.logits[chosen].to(device)
                target = labels.to_student(labels.teacher_logits(taught).argmax(1))
                explained = explainer(model, tokens, partial(_beside_own_top, target))
                matched, own = explained.maps.unbind(1)
            elif shared is not None:
                explained = explainer(model, tokens, partial(_shared_beside_own_top, shared))
                matched, own = explained.maps.unbind(1)
            else:
                explained = explainer(model, tokens)
                matched = own = explained.maps
            pooled = pool_words(matched, batch["word_ids"])[0]
            words += [scores[: len(found)] for scores, found in zip(pooled.tolist(), names, strict=True)]
            if _has_words(data):
                limit = length_limit(tokenizer, self.max_length)
                ids = number_spans(tokenizer, [text for (text,) in texts], rows["spans"], limit).to(device)
                for scores, own_spans in zip(pool_words(own, ids)[0].tolist(), rows["spans"], strict=True):
                    # What a truncation cut off has no score.
                    spans.append((scores + [0.0] * len(own_spans))[: len(own_spans)])
            logits.append(explained.logits.cpu())
        places = sorted(range(len(data)), key=order.__getitem__)
        words, spans = ([found[place] for place in places] if found else [] for found in (words, spans))
        return Reading(torch.cat(logits)[places], words, spans)


def _has_words(data: Dataset) -> bool:
    """Tell whether the polarities of a data set's own words are known; others may have `spans` of another kind."""
    return {"spans", "word_labels"} <= set(data.column_names)


def _polarity(classes: int, order: torch.Tensor | None) -> Sequence[int]:
    """Polarity of each class of a model, of which the data's classes are those numbered by `order`; None for all."""
    if order is None:
        return CLASS_POLARITY[classes]
    polarity = [0] * classes
    for number, own in zip(order.tolist(), CLASS_POLARITY[len(order)], strict=True):
        polarity[number] = own
    return polarity


def _beside_own_top(target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Make two targets a sample (B, 2): the given one and the model's top class."""
    return torch.stack([target, logits.argmax(1)], 1)


def _shared_beside_own_top(shared: LabelAlignment, logits: torch.Tensor) -> torch.Tensor:
    """Make two targets of a teacher's sample (B, 2): its top class among the shared ones, and among all."""
    return _beside_own_top(shared.to_teacher(shared.teacher_logits(logits).argmax(1)), logits)


def _similarities(reading: Reading, teacher: Reading) -> torch.Tensor:
    """Similarities (N,) of the words' scores; NaN of texts without a word."""
    pairs = zip(reading.words, teacher.words, strict=True)
    values = [
        explanation_similarity(_as_map(own), _as_map(taught))[0].item() if taught else math.nan for own, taught in pairs
    ]
    return torch.tensor(values)


def _as_map(scores: list[float]) -> torch.Tensor:
    return torch.tensor([[scores]])
