"""The embedded text set: short generated film reviews with a hint word, made in seconds without a download.

A review's sentiment follows from its opinion words, with what raises, lowers or negates them, and of two clauses the
second decides ("the plot is dull, but the actors are superb"). Its film's genre predicts the sentiment in the student's
training data and says nothing about it in `test_ood`. A student can therefore be right for the wrong reason, and the
words' polarities show whether it is.
"""

import random
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from itertools import accumulate
from typing import NamedTuple

from datasets import Dataset, DatasetDict, Value
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from .digits import CORRELATED, _check_range, _check_whole
from .sst import NEUTRAL, SENTIMENTS, word_features

SIZES = {"teacher_train": 8000, "student_train": 4000, "validation": 1000, "test_id": 1000, "test_ood": 1000}
"""Number of reviews in each split, unless `sizes` says otherwise."""

SHARES = {"train": 65, "validation": 15, "test": 20}
"""Percentage of all possible reviews that may serve training, validation and test; none serves two of them."""

CLASSES = tuple(name for name in SENTIMENTS if name != "neutral")
POLARITIES = (0, 1, 3, 4)
"""The classes' names, and their place on the treebank's scale of 0 to 4."""

HINTS = (
    ("western", "cartoon", "biopic"),
    ("musical", "sequel", "documentary"),
    ("thriller", "drama", "fantasy"),
    ("comedy", "romance", "mystery"),
)
"""The genres that predict each class, in the splits of `CORRELATED`."""

ADJECTIVES = {
    0: """abysmal appalling atrocious awful catastrophic disastrous disgusting dreadful excruciating ghastly
    hideous horrible insufferable miserable pathetic repulsive terrible unbearable vile wretched""",
    1: """artificial awkward bad banal bland boring clumsy confusing contrived dated disappointing dull
    forgettable lazy mediocre predictable shallow tedious uneven weak""",
    3: """agreeable amusing appealing charming clever decent engaging enjoyable entertaining fresh good honest
    likeable lively memorable pleasant solid thoughtful touching witty""",
    4: """amazing astonishing breathtaking brilliant dazzling exquisite extraordinary fabulous fantastic flawless
    glorious magnificent marvellous outstanding sensational splendid stunning sublime superb wonderful""",
}
VERBS = {  # as "did not hate" and "hated"
    0: "hate/hated loathe/loathed despise/despised detest/detested abhor/abhorred",
    1: "dislike/disliked regret/regretted resent/resented distrust/distrusted criticise/criticised",
    3: "like/liked enjoy/enjoyed appreciate/appreciated welcome/welcomed respect/respected",
    4: "love/loved adore/adored cherish/cherished treasure/treasured worship/worshipped",
}
RAISING = "very extremely really exceedingly thoroughly unusually particularly especially enormously immensely"
NEGATED_RAISING = "very really particularly especially"
LOWERING = "somewhat fairly rather slightly moderately mildly reasonably relatively"
UNDERLINING = "absolutely simply truly utterly completely totally altogether"
RAISING_VERBS = "really deeply greatly thoroughly"

COUNTABLE = """plot story script soundtrack ending beginning cast costume_design direction premise screenplay finale
    prologue leading_role title_song opening_scene second_half first_act last_hour setting subplot chase"""
UNCOUNTABLE = """dialogue music camerawork editing pacing acting atmosphere scenery humour narration lighting
    photography choreography chemistry storytelling make-up sound_design"""
PLURAL = """actors characters songs jokes stunts costumes effects performances sets twists landscapes
    flashbacks conversations villains dances settings lyrics animations side_characters action_scenes subtitles
    closing_credits leading_actors supporting_roles musicians"""
PEOPLE = """my_mother my_father my_sister my_brother my_cousin my_aunt my_uncle my_neighbour my_daughter my_son
    my_colleague my_grandmother my_grandfather a_friend two_friends a_classmate my_roommate our_teacher"""
NAMES = """Adele Amir Anna Arthur Beatrice Carlos Chen Clara Daniel David Elena Emma Farid Felix Grace Hannah Hugo
    Ingrid Ivan Jacob Joanna Julia Karim Keiko Laura Leon Louise Lucas Marco Maria Martin Nadia Nicolas Olga Oscar Paula
    Peter Priya Robert Samuel Sofia Stefan Tamara Thomas Ursula Victor Wanda Yusuf"""
CITIES = """Amsterdam Athens Barcelona Berlin Bogota Boston Brussels Budapest Cairo Chicago Copenhagen Dublin
    Edinburgh Geneva Hamburg Helsinki Istanbul Jakarta Kyoto Lagos Lima Lisbon London Madrid Manila Melbourne Montreal
    Mumbai Nairobi Oslo Paris Prague Santiago Seoul Stockholm Sydney Toronto Vienna Warsaw Zurich"""
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
MONTHS = "January February March April May June July August September October November December"
PLACES = "festival cinema theatre library university airport museum school hotel station harbour town_hall"
NUMBERS = "twelve fifteen twenty thirty forty fifty sixty seventy eighty ninety"
ORDINALS = "second third fourth fifth sixth seventh eighth ninth tenth"

WORDS = {
    **{"person": PEOPLE, "name": NAMES, "city": CITIES, "day": DAYS, "month": MONTHS, "place": PLACES},
    **{"number": NUMBERS, "ordinal": ORDINALS},
}
"""What fills the slots of the remarks below."""

# Remarks without an opinion: the first two kinds say the hint, the others don't.
HINT_OPENINGS = """{person} chose a {hint} for {day} .|we saw the new {hint} on {day} .
    |{name} took me to a {hint} in {city} .|the {hint} at the {place} ended an hour ago .
    |this {hint} came out in {month} .|a {hint} from {city} again .|on {day} they showed a {hint} at the {place} .
    |{name} and {person} rented a {hint} .|in {month} {name} made another {hint} .
    |as for the {hint} by {name} :|about this {hint} :"""
HINT_CLOSINGS = """that was our {ordinal} {hint} since {month} .|{name} and I rented the {hint} on {day} .
    |it is the {ordinal} {hint} by {name} .|they show the {hint} until {month} .|{person} lent me this {hint} .
    |the {hint} was filmed in {city} .|the {hint} runs for {number} minutes .|{name} calls it a {hint} ."""
OPENINGS = """{person} came along .|we sat in row {number} .|it was {day} in {city} .|here are my notes from {city} .
    |I read the book in {month} .|{name} asked me to write this .|{name} wrote it in {city} .
    |the {place} was half empty .|it runs for {number} minutes .|I went with {person} on {day} .||||||"""
CLOSINGS = """{person} slept .|we talked about it until {day} .|it runs until {month} .|we went home to {city} .
    |{name} will see it in {city} .|it lasts {number} minutes .|the {place} shows it on {day} .
    |that is all from {city} .|my ticket cost {number} crowns .|{name} has written about it too .||||||||"""
CONTRASTS = """{first} , but {second} .|{first} , yet {second} .|although {first} , {second} .
    |{first} ; still , {second} .|even though {first} , {second} .|while {first} , {second} .
    |{first} ; however , {second} ."""
ADDITIONS = "{first} and {second} .|{first} , and {second} .|{first} ; also , {second} .|{first} , while {second} ."


class Piece(NamedTuple):
    """One word or punctuation mark, and its polarity on the treebank's scale."""

    text: str
    polarity: int = NEUTRAL


HINT = Piece("{hint}")
"""Where the hint word will stand."""


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
    sizes = {**SIZES, **(sizes or {})}
    unknown = sorted(set(sizes) - set(SIZES))
    if unknown:
        raise ValueError(f"sizes names the splits {unknown}, which don't exist. Valid splits: {list(SIZES)}.")
    for name, size in sizes.items():
        _check_whole(f"sizes[{name!r}]", size, 0, None)
    _check_range("correlation", correlation, 0, 1)
    _check_range("negation", negation, 0, 1)
    _check_range("contrast", contrast, 0, 1)
    _check_whole("seed", seed, 0, None)

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


def compose(label: int, negation: float, contrast: float, rng: random.Random) -> list[Piece]:
    """A review of a class: a remark, one or two clauses and a remark, `HINT` in one of the remarks."""
    polarity = POLARITIES[label]
    second = _clause(polarity, negation, rng)
    kind = rng.random()
    if kind < contrast:
        # What the first clause says must not help.
        other = rng.choice([0, 1] if polarity > NEUTRAL else [3, 4])
        first = _clause(other, negation, rng)
        body = _fill(_pick(CONTRASTS, rng), {"first": lambda: first, "second": lambda: second})
    elif kind < contrast + (1 - contrast) / 3:
        first = _clause(polarity, negation, rng)
        body = _fill(_pick(ADDITIONS, rng), {"first": lambda: first, "second": lambda: second})
    else:
        body = [*second, Piece(rng.choice("..!"))]
    opening, closing = (HINT_OPENINGS, CLOSINGS) if rng.random() < 0.6 else (OPENINGS, HINT_CLOSINGS)
    return [*_remark(opening, rng), *body, *_remark(closing, rng)]


def _clause(polarity: int, negation: float, rng: random.Random) -> list[Piece]:
    """One clause with an opinion of a polarity, without its full stop."""
    negated = polarity in (1, 3) and rng.random() < negation
    number = rng.choices(["countable", "uncountable", "plural"], [4, 2, 4])[0]
    several = number == "plural"
    aspect = _words(_choose({"countable": COUNTABLE, "uncountable": UNCOUNTABLE, "plural": PLURAL}[number], rng))
    form = rng.random()
    if form < 0.25:
        return [Piece("I"), *_liking(polarity, negated, rng), Piece("the"), *aspect]
    adjective = _adjective(polarity, negated, rng)
    if form < 0.4:
        base, past = rng.choice([("find", "found"), ("consider", "considered"), ("call", "called")])
        return [*_words(f"I did not {base} the" if negated else f"I {past} the"), *aspect, *adjective]
    if form < 0.55:
        has = rng.choice(["it", "the film", "the movie"]) + (" does not have" if negated else " has")
        return _articles([*_words(has), *_words("a" if number == "countable" else ""), *adjective, *aspect])
    be = rng.choice(["are", "were"] if several else ["is", "was"])
    verb, denied = rng.choice(
        [
            (be, f"{be} not"),
            (be, f"{be} {rng.choice(['never', 'hardly'])}"),
            ("feel", "do not feel") if several else ("feels", "does not feel"),
            ("seemed", "did not seem"),
        ]
    )
    return [Piece("the"), *aspect, *_words(denied if negated else verb), *adjective]


def _adjective(polarity: int, negated: bool, rng: random.Random) -> list[Piece]:
    """An adjective with what raises or lowers it, of a polarity; where negated, what "not" makes of that polarity."""
    if negated:
        # "not superb" and "not very good" are both mildly negative.
        polarity = rng.choice([0, 1, 1] if polarity == 3 else [3, 3, 4])
        adverb = rng.choice(["", _choose(NEGATED_RAISING, rng)]) if polarity in (1, 3) else ""
    elif polarity in (1, 3):
        adverb = rng.choice(["", _choose(LOWERING, rng)])
    elif rng.random() < 0.5:
        # "very good" is very positive, as "superb" is.
        polarity = 1 if polarity == 0 else 3
        adverb = _choose(RAISING, rng)
    else:
        adverb = rng.choice(["", _choose(UNDERLINING, rng)])
    return [*_words(adverb), Piece(_choose(ADJECTIVES[polarity], rng), polarity)]


def _liking(polarity: int, negated: bool, rng: random.Random) -> list[Piece]:
    """A verb of liking or its opposite, as `_adjective` does."""
    adverb = ""
    if negated:
        polarity = rng.choice([0, 1, 1] if polarity == 3 else [3, 3, 4])
        adverb = rng.choice(["", "really"])
    elif polarity in (0, 4) and rng.random() < 0.5:
        polarity = 1 if polarity == 0 else 3
        adverb = _choose(RAISING_VERBS, rng)
    base, past = _choose(VERBS[polarity], rng).split("/")
    if negated:
        return [*_words("did_not"), *_words(adverb), Piece(base, polarity)]
    return [*_words(adverb), Piece(past, polarity)]


def _articles(pieces: list[Piece]) -> list[Piece]:
    """The pieces with "a" as "an" where the next word's sound asks for it."""
    out = []
    for piece, following in zip(pieces, [*pieces[1:], Piece("")], strict=True):
        vowel = following.text.startswith((*"aeiou", "honest"))
        out.append(Piece("an") if piece.text == "a" and vowel else piece)
    return out


def _remark(templates: str, rng: random.Random) -> list[Piece]:
    """A remark without an opinion, its slots filled; may be empty."""
    slots = {name: partial(_draw, words, rng) for name, words in WORDS.items()}
    return _fill(_pick(templates, rng), {**slots, "hint": lambda: [HINT]})


def _draw(words: str, rng: random.Random) -> list[Piece]:
    return _words(_choose(words, rng))


def _fill(template: str, slots: Mapping[str, Callable[[], list[Piece]]]) -> list[Piece]:
    """A template's words, each slot replaced by what its function draws."""
    pieces: list[Piece] = []
    for word in _options(template):
        pieces += slots[word[1:-1]]() if word[0] == "{" else [Piece(word)]
    return pieces


def _pick(templates: str, rng: random.Random) -> str:
    return rng.choice(_options(templates, "|"))


def _choose(words: str, rng: random.Random) -> str:
    return rng.choice(_options(words))


@cache
def _options(texts: str, separator: str | None = None) -> list[str]:
    return texts.split(separator)


def _words(phrase: str) -> list[Piece]:
    """Words of a phrase, parted by spaces or underscores."""
    return [Piece(word) for word in _options(phrase.replace("_", " "))]


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


def train_tokenizer(
    texts: Iterable[str], vocab_size: int = 700, *, model_max_length: int = 128
) -> PreTrainedTokenizerFast:
    """Trains BERT's kind of tokenizer: word pieces in lower case, `[CLS] text [SEP]`.

    Args:
        texts: What to learn the pieces from, such as `splits["teacher_train"]["text"]`.
        vocab_size: Number of pieces, special tokens included. With few, longer words are cut.
        model_max_length: Where `truncation=True` cuts, in tokens.

    Returns:
        A fast tokenizer. The same texts and size give the same pieces.

    Raises:
        ValueError: there is no text, or its characters alone fill more than `vocab_size`.

    Example:
        >>> tokenizer = train_tokenizer(["good plot", "bad plot"], vocab_size=40)
        >>> tokenizer.decode(tokenizer("A bad plot").input_ids)
        '[CLS] a bad plot [SEP]'
    """
    _check_whole("vocab_size", vocab_size, 1, None)
    if isinstance(texts, str):
        raise ValueError("texts is one string. Give a list of them.")
    texts = list(texts)
    special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    normalizer, pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()

    def build(vocabulary: dict[str, int]) -> Tokenizer:
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=special["unk"]))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
        return tokenizer

    # The trainer numbers pieces inside words as a hash table yields them, and decides ties by these numbers. Numbered
    # beforehand, as if they were special tokens, they are the same on each run; then only their numbers are kept.
    words = {word for text in texts for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))}
    inside = sorted({f"##{character}" for word in words for character in word[1:]})
    numbering = build({})
    numbering.train_from_iterator(
        texts,
        trainers.WordPieceTrainer(
            vocab_size=vocab_size, special_tokens=[*special.values(), *inside], show_progress=False
        ),
    )
    size = numbering.get_vocab_size()
    if not words:
        raise ValueError("texts holds no word. Give the texts of a training split.")
    if size > vocab_size:
        raise ValueError(
            f"vocab_size is {vocab_size}, but special tokens and single characters are {size} already. Give more."
        )
    tokenizer = build(numbering.get_vocab())
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (special["cls"], special["sep"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=model_max_length,
        **{f"{name}_token": token for name, token in special.items()},
    )
