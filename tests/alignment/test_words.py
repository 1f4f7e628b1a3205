"""Words on which tokens of different tokenizers are compared, with tokenizers of several kinds and many scripts."""

import random

import pytest
import torch

from hf_e2kd.alignment.texts import tokenize_texts
from hf_e2kd.alignment.words import align_words, lay_out_tokens, mark_special_tokens, pool_words
from tests.tokenizers import KINDS, SENTENCES, VARIANTS, tokenizer

# What texts hold that tokenizers normalise, drop, cut or join.
_ODDITIES = [
    *"\t\n\r\u3000\u00a0\u200b\u200c\u200d\u00ad\ufeff\ufffd\u0301\x00\x01ﬁ½…‼㍿Ⅷ①İßŁ한\u1112\u1161'’_-.٣<",
    *("  ", "\r\n", "e\u0301\u0323", "\u0e33", "ก็", "葛\U000e0100", "1\ufe0f\u20e3", "🇩🇪", "👍🏽", "👩\u200d💻"),
    *("<s>", "[SEP]", "[CLS]", "</s>", "zzzqqqxxx"),
]
_PIECES = [word for sentence in SENTENCES for word in sentence.split()] + _ODDITIES


def random_text(generator):
    count = generator.randint(0, 12)
    return "".join(generator.choice(_PIECES) + generator.choice(["", "", " ", " ", "  "]) for _ in range(count))


def spans_of(kind, text):
    """Of a text's tokens, without special ones; and the tokenizer's encoding."""
    encoding = tokenizer(kind)(text).encodings[0]
    inside = [place for place, sequence in enumerate(encoding.sequence_ids) if sequence == 0]
    return [encoding.offsets[place] for place in inside]


def words_of(text, *kinds):
    return [text[start:end] for start, end in align_words(text, *(spans_of(kind, text) for kind in kinds)).spans]


# --- Which words -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The film  wasn't\tgood.\n", ["The", "film", "wasn", "'", "t", "good", "."]),
        ("Café, crème brûlée", ["Café", ",", "crème", "brûlée"]),
        ("Cafe\u0301 bru\u0302le\u0301e", ["Cafe\u0301", "bru\u0302le\u0301e"]),
        ("这部电影，很 好", [*"这部电影，很", "好"]),
        ("映画はカタカナ", [*"映画はカタカナ"]),
        ("か\u3099き", ["か\u3099", "き"]),
        ("ที่นี่ดี", ["ที่", "นี่", "ดี"]),
        ("यह फ़िल्म अच्छी थी।", ["यह", "फ़िल्म", "अच्छी", "थी", "।"]),
        ("क्\u200cष", ["क्\u200cष"]),
        ("هذا الفيلم، رائع", ["هذا", "الفيلم", "،", "رائع"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("이 영화는", ["이", "영화는"]),
        ("co\u00adoperate", ["co\u00adoperate"]),
        ("I ❤\ufe0fNY", ["I", "❤\ufe0f", "NY"]),
        ("👩\u200d💻👍🏽👍", ["👩\u200d💻", "👍🏽", "👍"]),
        ("葛\U000e0100城abc", ["葛\U000e0100", "城", "abc"]),
        ("3.14 and 1,000", ["3", ".", "14", "and", "1", ",", "000"]),
        ("", []),
        (" \t\n", []),
    ],
)
def test_finest_words(text, words):
    """Sub-words left apart where words are written apart, Chinese joined to sentences, marks cut from letters."""
    # Tokens of one character each are cut wherever a word may be.
    characters = [(place, place + 1) for place, char in enumerate(text) if not char.isspace()]

    found = align_words(text, characters, characters)

    assert [text[start:end] for start, end in found.spans] == words
    assert found.ids[0] == found.ids[1]
    assert sorted(set(found.ids[0])) == list(range(len(words)))


def test_chinese_is_compared_as_finely_as_both_tokenizers_cut_it():
    """Prevents: one Chinese sentence that is 13 words to one tokenizer and a single one to the other."""
    text = "这部电影非常好看"
    assert words_of(text, "wordpiece") == [*text]
    tokens = spans_of("byte_bpe", text)
    joined = [start for start, end in tokens if end - start > 1]
    words = words_of(text, "wordpiece", "byte_bpe")
    assert "".join(words) == text
    assert joined and 1 < len(words) < len(text)
    assert words_of(text, "wordpiece", "words") == [text]  # one unknown word to the other


def test_tokens_over_several_words_join_them():
    """Prevents: a token whose score is counted to the first of its words, the others having none."""
    text = "it was a film"
    found = align_words(text, [(0, 2), (3, 8), (9, 13)], [(0, 2), (3, 6), (6, 8), (8, 13)])
    assert [text[start:end] for start, end in found.spans] == ["it", "was a", "film"]
    assert found.ids == [[0, 1, 2], [0, 1, 1, 2]]


def test_overlapping_tokens_make_one_word():
    """Prevents: words cut by a token that begins within another one."""
    found = align_words("abc def", [(0, 2), (1, 5), (4, 7)], [(0, 3), (4, 7)])
    assert found.spans == [(0, 7)]
    assert found.ids == [[0, 0, 0], [0, 0]]


@pytest.mark.parametrize("kind", VARIANTS)
@pytest.mark.parametrize("text", ["a  film", "\n\ta film", "a \u3000\n film"])
def test_spaces_belong_to_the_word_after_them(kind, text):
    """Prevents: scores of a space of two, which no word would get, lost for tokenizers that keep spaces only."""
    found = align_words(text, spans_of(kind, text))
    assert [text[start:end] for start, end in found.spans] == ["a", "film"]
    assert set(found.ids[0]) == {0, 1}
    assert found.ids[0] == sorted(found.ids[0])


def test_spaces_at_the_end_belong_to_no_word():
    """Prevents: a place after the text's end, looked up as if there were a word."""
    assert align_words("film  ", [(0, 4), (4, 5), (5, 6)]).ids == [[0, -1, -1]]


def test_truncated_words_count_for_neither_side():
    """Prevents: a word's score summed over half of its tokens, compared with the whole."""
    text = "wonderful film"
    found = align_words(text, [(0, 6)], [(0, 9), (10, 14)])
    assert found.spans == []
    assert found.ids == [[-1], [-1, -1]]
    found = align_words(text, [(6, 9), (10, 14)], [(0, 9), (10, 14)])
    assert [text[start:end] for start, end in found.spans] == ["film"]
    assert found.ids == [[-1, 0], [-1, 0]]


@pytest.mark.parametrize("dropped", ["\x00", "\u200d", "\ufffd", "\u0301"])
def test_characters_that_a_tokenizer_drops_are_not_missed(dropped):
    """Prevents: a word left out because BERT's tokenizer gives a control or an undecoded character no token."""
    text = f"ab{dropped}cd"
    assert words_of(text, "wordpiece", "words") == [text]


def test_a_word_of_nothing_but_marks_needs_tokens_on_both_sides():
    """Prevents: a word that the teacher scores and the student has no token of, so that their maps differ in size."""
    found = align_words("a \u0301 b", [(0, 1), (4, 5)], [(0, 1), (2, 3), (4, 5)])
    assert found.ids == [[0, 1], [0, -1, 1]]


def test_unknown_words_are_words():
    """Prevents: texts of unknown words that have no map."""
    assert words_of("zzz qqq 中国", "words", "byte_bpe") == ["zzz", "qqq", "中国"]


# --- Properties of random texts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_no_token_cuts_a_word_and_both_sides_see_the_same_ones(seed):
    """Prevents: words of one side alone, tokens in two words, and maps of different sizes, in any script."""
    generator = random.Random(seed)
    for _ in range(60):
        text, kinds = random_text(generator), generator.sample(VARIANTS, 2)
        sides = [spans_of(kind, text) for kind in kinds]
        sides = [side[: generator.choice([None, None, 4])] for side in sides]  # a truncation
        found = align_words(text, *sides)

        assert found.spans == sorted(found.spans)
        assert all(first[1] <= second[0] for first, second in zip(found.spans, found.spans[1:], strict=False))
        for side, ids in zip(sides, found.ids, strict=True):
            assert len(ids) == len(side)
            assert set(ids) - {-1} == set(range(len(found.spans)))
            for (start, end), word in zip(side, ids, strict=True):
                covered = {place for place in range(start, end) if not text[place].isspace()}
                owners = {n for n, span in enumerate(found.spans) if covered & set(range(*span))}
                assert owners == (({word} if word >= 0 else set()) if covered else set()), (text, kinds)


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
def test_batches_of_both_sides_have_the_same_words(first, second, pair):
    """Prevents: two maps of one text that can't be compared, after padding, truncation on either side and in pairs."""
    generator = random.Random(1)
    for limit, other_limit, end in ((None, None, "right"), (9, None, "right"), (9, 13, "left"), (None, 5, "left")):
        sides = [
            (tokenizer(kind, truncation_side=end, padding_side=end), length)
            for kind, length in ((first, limit), (second, other_limit))
        ]
        texts = [tuple(random_text(generator) for _ in range(1 + pair)) for _ in range(6)]
        batches, words = tokenize_texts(texts, *sides)
        assert len(words) == len(texts)
        for batch in batches:
            assert batch["word_ids"].shape == batch["input_ids"].shape == batch["attention_mask"].shape
            assert not (batch["word_ids"] >= 0)[batch["attention_mask"] == 0].any()
            for ids, found in zip(batch["word_ids"].tolist(), words, strict=True):
                assert set(ids) - {-1} == set(range(len(found)))
        scores = [torch.rand(batch["input_ids"].shape, dtype=torch.float64) for batch in batches]
        maps = [lay_out_tokens(own, batch) for own, batch in zip(scores, batches, strict=True)]
        assert torch.equal(maps[0][1], maps[1][1])
        assert maps[0][0].shape == maps[1][0].shape
        for own, batch, (pooled, mask, layout) in zip(scores, batches, maps, strict=True):
            assert layout == "words"
            # What belongs to a complete word is kept, all of it, and nothing else.
            kept = (own * (batch["word_ids"] >= 0)).sum(1)
            torch.testing.assert_close(pooled.sum(1), kept)
            assert mask.sum(1).tolist() == [len(found) for found in words]
            assert not pooled[~mask].any()


# --- Scores of words -------------------------------------------------------------------------------------------------


def test_scores_are_summed_to_words():
    """Prevents: a mean, or the first token's score, in the place of a word's."""
    ids = torch.tensor([[-1, 0, 0, 1, -1], [-1, 2, 0, -1, -1]])
    scores = torch.tensor([[9.0, 1, 2, 4, 9], [9, 8, 16, 9, 9]])

    pooled, exists = pool_words(scores, ids)

    assert pooled.tolist() == [[3, 4, 0], [16, 0, 8]]
    assert exists.tolist() == [[True, True, False], [True, False, True]]
    several, again = pool_words(torch.stack([scores, -scores], 1), ids)
    assert torch.equal(several, torch.stack([pooled, -pooled], 1))
    assert torch.equal(again, exists)


@pytest.mark.parametrize("ids", [torch.full((2, 3), -1), torch.zeros(2, 0, dtype=torch.long)])
def test_texts_without_words_have_one_empty_cell(ids):
    """Prevents: a map without cells, whose mean is NaN, for a batch of empty texts."""
    pooled, exists = pool_words(torch.ones(ids.shape), ids)
    assert pooled.tolist() == [[0], [0]]
    assert not exists.any()


def test_summing_keeps_gradient_and_dtype():
    """Prevents: maps cut from the model, or double precision lost on the way to a word."""
    scores = torch.rand(2, 4, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([[0, 0, 1, -1], [0, 1, 1, -1]])
    pooled, _ = pool_words(scores, ids)
    assert pooled.dtype == torch.float64
    pooled.sum().backward()
    assert scores.grad.tolist() == [[1, 1, 1, 0]] * 2


# --- Maps of tokens --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [1, 2])
def test_without_words_the_tokens_count_that_are_no_padding_and_not_special(targets):
    """Prevents: scores of [CLS] and of padding in the map, which no reader sees and other texts don't have."""
    batch = {
        "input_ids": torch.tensor([[1, 7, 8, 2], [1, 9, 2, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
        "special_tokens_mask": torch.tensor([[1, 0, 0, 1], [1, 0, 1, 1]]),
    }
    counted = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0]]).bool()
    scores = torch.ones(2, 4) if targets == 1 else torch.ones(2, targets, 4)
    maps, mask, layout = lay_out_tokens(scores, batch)
    assert layout == "tokens"
    assert torch.equal(mask, counted)
    assert torch.equal(maps != 0, counted if targets == 1 else torch.stack([counted, counted], 1))
    alone = lay_out_tokens(torch.ones(2, 4), {"input_ids": batch["input_ids"]})
    assert alone[1].all() and alone[0].all()


def test_special_tokens_are_marked_by_their_ids():
    """Prevents: pre-tokenised batches whose map is ruled by the class token; and marks that overwrite given ones."""
    own = tokenizer("wordpiece")
    batch = dict(own(["a wonderful film", "a"], padding=True, return_tensors="pt"))
    marked = mark_special_tokens(batch, own)
    inside = [[sequence is not None for sequence in own(text).encodings[0].sequence_ids] for text in ("a",)]
    assert marked["special_tokens_mask"][1, :3].tolist() == [not real for real in inside[0]]
    assert marked["special_tokens_mask"].shape == batch["input_ids"].shape
    assert "special_tokens_mask" not in batch
    for given in ("word_ids", "special_tokens_mask"):
        assert mark_special_tokens({**batch, given: "own"}, own) == {**batch, given: "own"}
    for other in (None, object()):
        assert mark_special_tokens(batch, other).keys() == batch.keys()
    assert mark_special_tokens({"pixel_values": 1}, own) == {"pixel_values": 1}
