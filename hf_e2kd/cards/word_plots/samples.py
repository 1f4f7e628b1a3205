"""Texts and the models' readings of them: the content of the page and of the plot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..escaping import escape_controls


@dataclass(frozen=True)
class WordRow:
    """One model's reading of one text.

    Args:
        heading: the model's name, as "Teacher".
        words: the text's words, in its order.
        scores: one signed number a word: above 0 for the explained class, below 0 against it, of any scale.
        prediction: the class that the model chooses.
        similarity: of its scores to the teacher's.

    Raises:
        ValueError: words and scores differ in number, or a score is not finite.
    """

    heading: str
    words: Sequence[str]
    scores: Sequence[float]
    prediction: str | None = None
    similarity: float | None = None

    def __post_init__(self) -> None:
        if len(self.words) != len(self.scores):
            raise ValueError(
                f"{self.heading!r} has {len(self.words)} words and {len(self.scores)} scores. Give one score a word."
            )
        if not all(math.isfinite(score) for score in self.scores):
            raise ValueError(f"The scores of {self.heading!r} hold NaN or infinite values; leave this sample out.")

    def shares(self) -> list[float]:
        """The scores over their largest magnitude, from −1 to 1; all 0 where no score differs from 0."""
        peak = max((abs(float(score)) for score in self.scores), default=0.0)
        return [float(score) / peak if peak else 0.0 for score in self.scores]

    def captions(self) -> list[str]:
        """The lines beside the words: the class, the similarity, and whether there is nothing to see."""
        lines = [] if self.prediction is None else [f"predicts: {escape_controls(self.prediction)}"]
        if self.similarity is not None:
            lines.append(f"similarity: {float(self.similarity):.2f}")
        return lines if any(self.scores) else [*lines, "empty map"]


@dataclass(frozen=True)
class WordSample:
    """One text and each model's reading of it.

    Args:
        text: the text; white space between words is drawn as it stands here, none in Chinese for example.
        rows: one a model, in their order.
        label: the text's true class.
        explained: the class that all scores are about, as the teacher's prediction.
    """

    text: str
    rows: Sequence[WordRow]
    label: str | None = None
    explained: str | None = None

    def captions(self) -> list[str]:
        """The lines above the rows: the true class and the explained one."""
        named = {"true": self.label, "explained": self.explained}
        return [f"{name}: {escape_controls(value)}" for name, value in named.items() if value is not None]


def gaps(text: str, words: Sequence[str]) -> list[str]:
    """The text before each word and after the last one.

    Where the words can't be found in the text, in their order, they are parted by spaces and the text isn't used.

    Example:
        >>> gaps("It's good.", ["It", "'s", "good"])
        ['', '', ' ', '.']
    """
    found, end = [], 0
    for word in words:
        start = text.find(word, end)
        if start < 0:
            return ["", *[" "] * (len(words) - 1), ""]
        found.append(text[end:start])
        end = start + len(word)
    return [*found, text[end:]]


def texts_of(samples: Sequence[WordSample]) -> list[str]:
    """List all that is drawn of samples."""
    texts = [text for sample in samples for text in [sample.text, *sample.captions()]]
    rows = [row for sample in samples for row in sample.rows]
    return texts + [text for row in rows for text in [row.heading, *row.words, *row.captions()]]


def require_rows(samples: Sequence[WordSample]) -> None:
    """Refuse samples that would draw nothing.

    Raises:
        ValueError: there is no sample, or one without a row.
    """
    if not samples:
        raise ValueError("There is no sample to show. Give at least one WordSample.")
    for number, sample in enumerate(samples, start=1):
        if not sample.rows:
            raise ValueError(f"Text {number} has no row to show. Give it one WordRow a model.")
