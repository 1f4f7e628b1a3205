"""The embedded text set: the same rows each time, labels that follow from the words, the correlation asked for."""

import numpy as np
import pytest

from hf_e2kd.data import reviews_with_hints
from hf_e2kd.data.reviews import SIZES
from hf_e2kd.data.reviews.vocabulary import (
    ADJECTIVES,
    HINTS,
    LOWERING,
    NEGATED_RAISING,
    POLARITIES,
    RAISING,
    RAISING_VERBS,
    UNDERLINING,
    VERBS,
)

SMALL = {"teacher_train": 60, "student_train": 50, "validation": 40, "test_id": 30, "test_ood": 30}
NONE = dict.fromkeys(SIZES, 0)
NEGATIONS = {"not", "never", "hardly"}
RAISERS = {*RAISING.split(), *NEGATED_RAISING.split(), *RAISING_VERBS.split()}


@pytest.fixture(scope="module")
def splits():
    return reviews_with_hints(SMALL, correlation=0.9, seed=3)


@pytest.fixture(scope="module")
def reviews():
    return reviews_with_hints({**NONE, "test_ood": 500})["test_ood"]


def without_hint(row) -> tuple[str, ...]:
    return tuple(word for place, word in enumerate(row["words"]) if place != row["hint_position"])


def opinion(words: list[str], polarities: list[int]) -> int:
    """The last opinion of a review by the rules of its docstring, from 0 to 4."""
    place = max(place for place, polarity in enumerate(polarities) if polarity != 2)
    polarity = polarities[place]
    # Of the last clause alone: conjunctions and punctuation end what stands before.
    clause: list[str] = []
    for word in reversed(words[:place]):
        if word in {",", ";", ".", ":", "!", "and"}:
            break
        clause.append(word.lower())
    if NEGATIONS & set(clause):
        return 1 if polarity > 2 else 3
    if clause and clause[0] in RAISERS:
        return 0 if polarity < 2 else 4
    return polarity


def test_columns(splits):
    assert {name: len(split) for name, split in splits.items()} == SMALL
    for split in splits.values():
        assert split.features["label"].names == ["very negative", "negative", "positive", "very positive"]
        assert set(split["label"]) == set(range(4))
        for row in split:
            assert [row["text"][start:end] for start, end in row["spans"]] == row["words"]
            assert len(row["word_labels"]) == len(row["words"])
            assert row["words"][row["hint_position"]] in HINTS[row["hint"]]


def test_labels_follow_from_the_opinion_words(reviews):
    """A label that its words don't give could only be learnt by heart, or by the hint."""
    for row in reviews:
        assert opinion(row["words"], row["word_labels"]) == POLARITIES[row["label"]], row["text"]


def test_opinion_words_and_no_others_carry_their_polarity(reviews):
    known = {word: polarity for polarity, words in ADJECTIVES.items() for word in words.split()}
    known |= {form: polarity for polarity, verbs in VERBS.items() for verb in verbs.split() for form in verb.split("/")}
    for row in reviews:
        assert row["word_labels"] == [known.get(word.lower(), 2) for word in row["words"]], row["text"]


def test_no_word_has_two_meanings():
    lists = [*ADJECTIVES.values(), " ".join(VERBS.values()).replace("/", " "), RAISING, LOWERING, UNDERLINING]
    lists += [" ".join(genres) for genres in HINTS]
    words = [word for text in lists for word in text.split()]
    assert len(words) == len(set(words))


def test_the_hint_word_stands_once_and_never_needs_an(reviews):
    genres = {genre for group in HINTS for genre in group}
    for row in reviews:
        assert sum(word in genres for word in row["words"]) == 1
        assert row["words"][row["hint_position"]][0] not in "aeiou"


def test_neither_negation_nor_intensity_can_be_ignored(reviews):
    """Otherwise a bag of words would do, and there were no order of words to explain."""
    rows = list(reviews)
    negated = np.mean([bool(NEGATIONS & set(row["words"])) for row in rows])
    raised = np.mean([bool(RAISERS & set(row["words"])) for row in rows])
    mixed = np.mean([min(row["word_labels"]) < 2 < max(row["word_labels"]) for row in rows])
    assert 0.2 < negated < 0.6 and 0.2 < raised < 0.6 and 0.2 < mixed < 0.6


def test_negation_and_contrast_are_as_often_as_asked():
    plain = reviews_with_hints({**NONE, "validation": 200}, negation=0, contrast=0)["validation"]
    full = reviews_with_hints({**NONE, "validation": 200}, negation=1, contrast=1)["validation"]

    assert not any(NEGATIONS & set(row["words"]) for row in plain)
    assert not any(min(row["word_labels"]) < 2 < max(row["word_labels"]) for row in plain)
    assert all(sum(polarity != 2 for polarity in row["word_labels"]) == 2 for row in full)
    assert all(NEGATIONS & set(row["words"]) for row in full if row["label"] in (1, 2))


def test_several_hundred_words_and_hardly_a_review_twice():
    split = reviews_with_hints({**NONE, "teacher_train": 1500})["teacher_train"]

    assert len({word.lower() for words in split["words"] for word in words}) > 400
    assert len(set(split["text"])) > 1490
    assert max(len(words) for words in split["words"]) < 50


def test_texts_are_written_as_people_write():
    split = reviews_with_hints({**NONE, "teacher_train": 300})["teacher_train"]
    for text in split["text"]:
        assert text[0].isupper() and text[-1] in ".!" and "  " not in text and "{" not in text and "_" not in text
        assert not any(f" {mark}" in text for mark in ".,:;!")
        assert not any(f" a {vowel}" in text for vowel in "aeiou") and " an h" not in text.replace(
            " an hour", ""
        ).replace(" an honest", "")


def test_same_seed_gives_the_same_rows(splits):
    again = reviews_with_hints(SMALL, correlation=0.9, seed=3)
    other = reviews_with_hints(SMALL, correlation=0.9, seed=4)
    for name, split in splits.items():
        assert list(split) == list(again[name])
        assert list(split) != list(other[name])


def test_a_split_does_not_depend_on_the_others_sizes(splits):
    """Otherwise a user who wants fewer test reviews would train on other ones."""
    alone = reviews_with_hints({**NONE, "student_train": 20}, correlation=0.9, seed=3)

    assert list(alone) == ["student_train"]
    assert list(alone["student_train"]) == list(splits["student_train"])[:20]


def test_no_review_serves_two_of_training_validation_and_test():
    """Short reviews without negation or contrast come more than once."""
    splits = reviews_with_hints(dict.fromkeys(SIZES, 200), negation=0, contrast=0)
    train, student, validation, test = (
        {without_hint(row) for row in splits[name]}
        for name in ("teacher_train", "student_train", "validation", "test_id")
    )
    assert not (train | student) & validation and not (train | student) & test and not validation & test


def test_the_two_test_splits_differ_in_the_hint_alone(splits):
    inside, outside = splits["test_id"], splits["test_ood"]

    assert [without_hint(row) for row in inside] == [without_hint(row) for row in outside]
    assert inside["label"][:] == outside["label"][:]
    assert inside["hint"][:] != outside["hint"][:]


@pytest.mark.parametrize("correlation", [0.0, 0.7, 1.0])
def test_only_the_students_splits_are_correlated_and_as_asked(correlation):
    splits = reviews_with_hints(dict.fromkeys(SIZES, 200), correlation=correlation)
    for name, split in splits.items():
        own = np.mean(np.array(split["hint"]) == np.array(split["label"]))
        asked = correlation if name in {"student_train", "validation", "test_id"} else 0.0
        assert own == pytest.approx(asked + (1 - asked) / 4, abs=0.1), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": {"train": 10}}, "Valid splits.*student_train"),
        ({"sizes": {"validation": -1}}, r"sizes\['validation'\] is -1.*at least 0"),
        ({"correlation": 1.5}, "correlation is 1.5.*from 0 to 1"),
        ({"negation": float("nan")}, "negation is nan"),
        ({"contrast": -1}, "contrast is -1"),
        ({"seed": 0.5}, "seed is 0.5.*whole number"),
    ],
)
def test_bad_arguments_are_named_with_what_is_valid(arguments, message):
    with pytest.raises(ValueError, match=message):
        reviews_with_hints(**arguments)
