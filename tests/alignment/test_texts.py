"""Texts tokenized for one or two models."""

import pytest

from hf_e2kd.alignment.texts import (
    _number_words,
    length_limit,
    read_texts,
    require_offsets_and_padding,
    same_tokenizer,
    tokenize_texts,
)
from hf_e2kd.cards.word_plots.samples import gaps
from tests.tokenizers import SENTENCES, VARIANTS, SlowTokenizer, tokenizer


@pytest.mark.parametrize("kind", VARIANTS)
def test_model_inputs_are_the_tokenizers_own(kind):
    """Prevents: a model shown other ids than its tokenizer's, or columns that its forward doesn't know."""
    own, texts = tokenizer(kind), SENTENCES[:4]
    (batch,), words = tokenize_texts([(text,) for text in texts], (own, 20))
    expected = own(texts, truncation=True, max_length=20, padding=True, return_tensors="pt")
    assert batch.keys() == expected.keys() | {"word_ids"}
    for name, column in expected.items():
        assert batch[name].tolist() == column.tolist()
    assert len(words) == 4 and words[0][:2] == ["The", "film"]


def test_one_tokenizer_alone_finds_its_own_words():
    """Prevents: `explain` with one tokenizer that can't name what stands in a map's cells."""
    (batch,), words = tokenize_texts([("It wasn't a wonderful film",)], (tokenizer("wordpiece"), None))
    assert words == [["It", "wasn", "'", "t", "a", "wonderful", "film"]]
    assert batch["word_ids"].max() == 6


def test_a_pairs_second_text_goes_on_counting():
    """Prevents: hypothesis and premise summed into the same words, or words counted over the gap between them."""
    for kind in ("wordpiece", "byte_bpe"):
        (batch, other), words = tokenize_texts(
            [("a film", "warm film"), ("", "a")], (tokenizer(kind), None), (tokenizer("unigram"), None)
        )
        assert words == [["a", "film", "warm", "film"], ["a"]]
        for side in (batch, other):
            counted = [[number for number in ids if number >= 0] for ids in side["word_ids"].tolist()]
            assert counted == [sorted(numbers) for numbers in counted]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_limit_of_one_side_leaves_words_out_on_both(side):
    """Prevents: the teacher's map over words that the student never saw; padding counted as a word."""
    text = "the film was wonderful a wonderful and warm film"
    own = tokenizer("wordpiece", truncation_side=side, padding_side=side, model_max_length=8)
    (batch, teachers), words = tokenize_texts([(text,), ("film",)], (own, 8), (tokenizer("byte_bpe"), None))
    assert batch["input_ids"].shape[1] == 8 < teachers["input_ids"].shape[1]
    kept = text.split()
    assert 1 < len(words[0]) < len(kept)
    assert words[0] == (kept[: len(words[0])] if side == "right" else kept[-len(words[0]) :])
    assert words[1] == ["film"]
    for columns in (batch, teachers):
        assert set(columns["word_ids"][0].tolist()) - {-1} == set(range(len(words[0])))


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_was_cut_off_is_not_shown(side):
    """Prevents: scores of a pair's second text, or of an end, drawn at the same words of what no model has read."""
    own, premise = tokenizer("wordpiece", truncation_side=side), "the film was a film a film a film"
    texts = [(premise, "(a film"), ("the film", "it!")]
    sides = ((own, 10), (tokenizer("byte_bpe"), None))
    first, second = read_texts(texts, *sides)
    assert first == ({"left": "… a film a film", "right": "the film was a …"}[side], "(a film")
    assert second == texts[1]
    words = tokenize_texts(texts, *sides)[1][0]
    *between, tail = gaps("\n".join(first), words)
    assert [gap for gap in between if "\n" in gap] == between[4:5] and words[5:] == ["a", "film"] and not tail
    assert read_texts([(premise, "warm warm")], (tokenizer("wordpiece"), 8)) == [("the film was …", "…")]
    assert read_texts([("", "!")], (own, 10)) == [("", "!")]


def test_text_within_special_tokens_names():
    """Prevents: a user's text that holds '[SEP]' or '<s>' taken for the template's own special tokens."""
    (batch, _), words = tokenize_texts(
        [("a [SEP] b <s>",)], (tokenizer("wordpiece"), None), (tokenizer("byte_bpe"), None)
    )
    assert "".join(words[0]) == "a[SEP]b<s>"
    assert (batch["word_ids"] >= 0).sum() == batch["word_ids"].numel() - 2


@pytest.mark.parametrize(
    ("own", "given", "limit"), [(512, None, 512), (512, 64, 64), (64, 512, 64), (10**30, None, None), (10**30, 64, 64)]
)
def test_limit(own, given, limit):
    """Prevents: a text longer than the position table, or no truncation where the tokenizer states a huge number."""
    assert length_limit(tokenizer("words", model_max_length=own), given) == limit


@pytest.mark.parametrize("given", [0, -1])
def test_limits_below_one_are_refused(given):
    """Prevents: an overflow somewhere in the tokenizer."""
    with pytest.raises(ValueError, match=f"at least 1, not {given}"):
        length_limit(tokenizer("words"), given)


def test_same_tokenizer():
    """Prevents: a teacher given ids of another vocabulary, and texts tokenized twice where both are the same."""
    own = tokenizer("wordpiece")
    assert same_tokenizer(own, own)
    assert same_tokenizer(own, tokenizer("wordpiece"))
    used = tokenizer("wordpiece")
    used(["a"], truncation=True, max_length=4, padding="max_length")  # a call's settings stay in the tokenizer
    assert same_tokenizer(own, used) and same_tokenizer(used, own)
    assert not any(same_tokenizer(own, tokenizer(kind)) for kind in VARIANTS if kind != "wordpiece")
    more = tokenizer("wordpiece")
    more.add_tokens(["wonderful"])
    assert not same_tokenizer(own, more)
    assert same_tokenizer(SlowTokenizer(), SlowTokenizer())
    assert not same_tokenizer(SlowTokenizer(), own) and not same_tokenizer(own, SlowTokenizer())


def test_tokenizers_without_offsets_or_padding_are_refused():
    """Prevents: NotImplementedError on `return_offsets_mapping`, or an error about padding in the first batch."""
    require_offsets_and_padding(tokenizer("wordpiece"))
    with pytest.raises(ValueError, match="SlowTokenizer is a slow tokenizer.*fast version.*DataCollatorWithPadding"):
        require_offsets_and_padding(SlowTokenizer())
    with pytest.raises(ValueError, match="no padding token.*tokenizer.pad_token = tokenizer.eos_token"):
        require_offsets_and_padding(tokenizer("byte_bpe", pad_token=None))


class CountedEncoding:
    """An encoding of one word a character, which counts how often its offsets are made."""

    def __init__(self, length: int):
        self.ids = list(range(length))
        self.sequence_ids = [0] * length
        self.made = 0

    @property
    def offsets(self) -> list[tuple[int, int]]:
        self.made += 1
        return [(place, place + 1) for place in self.ids]


@pytest.mark.parametrize("length", [10, 400])
def test_offsets_are_made_a_fixed_number_of_times(length):
    """Prevents: a data loader that takes a second a batch because each token asks for all offsets anew."""
    encodings = [CountedEncoding(length), CountedEncoding(length)]
    _number_words(("我" * length,), encodings)
    assert [encoding.made for encoding in encodings] == [1, 1]
