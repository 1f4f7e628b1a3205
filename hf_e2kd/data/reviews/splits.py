"""The splits of the reviews: which serve training, validation and test, their hints and their columns."""

import random
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from datasets import Dataset, DatasetDict, Value

from ..checks import all_sizes, check_range, check_whole
from ..digits import CORRELATED
from ..sst import word_features
from .grammar import HINT, Piece, compose
from .vocabulary import CLASSES, HINTS

SIZES = {"teacher_train": 8000, "student_train": 4000, "validation": 1000, "test_id": 1000, "test_ood": 1000}
"""Number of reviews in each split, unless `sizes` says otherwise."""

SHARES = {"train": 65, "validation": 15, "test": 20}
"""Percentage of all possible reviews that may serve training, validation and test; none serves two of them."""


def reviews_with_hints(
    sizes: Mapping[str, int] | None = None,
    *,
    correlation: float = 0.9,
    negation: float = 0.5,
    contrast: float = 0.4,
    seed: int = 0,
) -> DatasetDict:
    """Short reviews whose film's genre predicts their sentiment in some splits and not in others.

    Args:
        sizes: reviews a split, for any of the splits of `SIZES`; the others keep their default size, and 0 leaves a
            split out.
        correlation: in `student_train`, `validation` and `test_id`, the probability that a review bears a hint word of
            its own class. Otherwise the hint's class is drawn uniformly from all, the own one among them, as it always
            is in `teacher_train` and `test_ood`. 0 is no relation, 1 a sure one.
        negation: the probability that a mild opinion is said by a negated word of the other side ("not dull").
        contrast: the probability of a first clause of the other side, which the second one overrules.
        seed: the same arguments give the same rows.

    Returns:
        A `DatasetDict` with the splits `teacher_train`, `student_train`, `validation`, `test_id`, `test_ood`. The two
        test splits have the same reviews with different hints, and no review but for its hint word serves two of
        training, validation and test. Columns:

        - `text`: the review
        - `label`: "very negative", "negative", "positive" or "very positive", a `ClassLabel`
        - `words`: its words and punctuation marks
        - `spans`: [start, end) of each word in `text`, in characters
        - `word_labels`: 0, 1, 3 or 4 for an opinion word, whatever stands around it; 2 for other words
        - `hint`: the class whose hint word the review bears
        - `hint_position`: the place of the hint word in `words`

    Raises:
        ValueError: for an argument outside its range, or a split that isn't in `SIZES`.

    Example:
        >>> splits = reviews_with_hints(dict.fromkeys(SIZES, 10))
        >>> splits["test_ood"].features["label"].names
        ['very negative', 'negative', 'positive', 'very positive']
        >>> splits["test_ood"][0]["text"]
        'As for the biopic by Felix: The landscapes are hardly very shallow! Anna will see it in Lagos.'
    """
    sizes = all_sizes(sizes, SIZES)
    check_range("correlation", correlation, 0, 1)
    check_range("negation", negation, 0, 1)
    check_range("contrast", contrast, 0, 1)
    check_whole("seed", seed, 0, None)

    splits = {}
    for name in SIZES:
        if sizes[name] == 0:
            continue
        # One generator for the reviews and one for their hints: the test splits share the first.
        pool = "test" if name.startswith("test") else "validation" if name == "validation" else "train"
        front = random.Random(f"{seed} {pool if pool == 'test' else name}")
        back = random.Random(f"{seed} {name} hints")
        share = correlation if name in CORRELATED else 0.0
        rows = []
        for _ in range(sizes[name]):
            label = front.randrange(len(CLASSES))
            hint = label if back.random() < share else back.randrange(len(CLASSES))
            review = draw_review(label, pool, negation, contrast, front)
            rows.append((review, label, hint, back.choice(HINTS[hint])))
        splits[name] = _dataset(rows)
    return DatasetDict(splits)


def draw_review(label: int, pool: str, negation: float, contrast: float, rng: random.Random) -> list[Piece]:
    """A review of a class, with `HINT` in the place of the hint word, out of the reviews of one pool of `SHARES`."""
    end = dict(zip(SHARES, accumulate(SHARES.values()), strict=True))[pool]
    while True:
        review = compose(label, negation, contrast, rng)
        # The text itself decides where a review belongs, so that splits of any size keep apart.
        text = " ".join(piece.text for piece in review)
        if end - SHARES[pool] <= zlib.crc32(text.encode()) % 100 < end:
            return review


def _write(words: Iterable[str]) -> tuple[str, list[str], list[list[int]]]:
    """The review as it is written, capital letters and no space before punctuation: text, words and their spans."""
    text, written, spans = "", [], []
    for word in words:
        if text[-1:] in ("", ".", "!", ":"):
            word = word[0].upper() + word[1:]
        start = len(text) + (text != "" and word not in tuple(".,:;!"))
        text = text.ljust(start) + word
        written.append(word)
        spans.append([start, len(text)])
    return text, written, spans


def _dataset(rows: Sequence[tuple[list[Piece], int, int, str]]) -> Dataset:
    features = word_features(CLASSES)
    features |= {"hint": Value("int64"), "hint_position": Value("int64")}
    columns: dict[str, list] = {name: [] for name in features}
    for review, label, hint, hint_word in rows:
        words = [hint_word if piece is HINT else piece.text for piece in review]
        text, written, spans = _write(words)
        row = (text, label, written, spans, [piece.polarity for piece in review], hint, review.index(HINT))
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    return Dataset.from_dict(columns, features=features)
