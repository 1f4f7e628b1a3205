"""The grammar of the reviews: clauses with an opinion between two remarks, each word with its polarity."""

import random
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import NamedTuple

from ..sst import NEUTRAL
from .vocabulary import (
    ADDITIONS,
    ADJECTIVES,
    CLOSINGS,
    CONTRASTS,
    COUNTABLE,
    HINT_CLOSINGS,
    HINT_OPENINGS,
    LOWERING,
    NEGATED_RAISING,
    OPENINGS,
    PLURAL,
    POLARITIES,
    RAISING,
    RAISING_VERBS,
    UNCOUNTABLE,
    UNDERLINING,
    VERBS,
    WORDS,
)


class Piece(NamedTuple):
    """One word or punctuation mark, and its polarity on the treebank's scale."""

    text: str
    polarity: int = NEUTRAL


HINT = Piece("{hint}")
"""The place of the hint word."""


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
