"""Lines of a width: texts in pieces, and where a line may end between these."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from .samples import WordRow, gaps


class Piece(NamedTuple):
    """Text without white space inside that is drawn at once: a word, or what stands between two."""

    text: str
    share: float = 0.0
    spaced: bool = False  # whether white space stands before it
    begins: bool = False  # whether a line's end stands before it, as between the texts of a pair


def row_pieces(text: str, row: WordRow) -> list[Piece]:
    """The row's words with their shares, and what stands between them in the text."""
    pieces: list[Piece] = []
    *between, tail = gaps(text, row.words)
    for gap, word, share in zip(between, row.words, row.shares(), strict=True):
        pieces += plain(gap)
        # White space inside a word, such as a line's end, would be drawn.
        word = " ".join(word.split())
        before = gap[len(gap.rstrip()) :]
        pieces += [Piece(word, share, bool(before), "\n" in before)] if word else []
    return pieces + plain(tail)


def plain(text: str) -> list[Piece]:
    """A text without scores, in pieces at its white space."""
    return [Piece(word, 0.0, bool(before), "\n" in before) for before, word in re.findall(r"(\s*)(\S+)", text)]


def wrap(
    pieces: Sequence[Piece], width: float, measure: Callable[[str], float], space: float
) -> list[list[tuple[float, Piece, float]]]:
    """Pieces in lines of a width: of each its start on the line, itself, and its length.

    A line ends where the text's does, at white space, or beside a character of the scripts that put no spaces between
    words. What is longer than a whole line is cut anywhere.
    """
    lines: list[list[tuple[float, Piece, float]]] = [[]]
    end = 0.0
    for group in _unbreakable(pieces):
        group = [part for piece in group for part in _cut(piece, width, measure)]
        lengths = [measure(piece.text) for piece in group]
        end += space if group[0].spaced and lines[-1] else 0
        if lines[-1] and (group[0].begins or end + sum(lengths) > width):
            lines.append([])
            end = 0.0
        for piece, length in zip(group, lengths, strict=True):
            if lines[-1] and end + length > width:
                lines.append([])
                end = 0.0
            lines[-1].append((end, piece, length))
            end += length
    return lines


def _unbreakable(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Pieces that must stay on one line, such as a word and its full stop."""
    groups: list[list[Piece]] = []
    for piece in pieces:
        mark = unicodedata.category(piece.text[0]).startswith("P")
        wide = groups and (_is_wide(groups[-1][-1].text[-1]) or _is_wide(piece.text[0]))
        if not groups or piece.spaced or (wide and not mark):
            groups.append([piece])
        else:
            groups[-1].append(piece)
    return groups


def _cut(piece: Piece, width: float, measure: Callable[[str], float]) -> Iterator[Piece]:
    """The piece, in parts where it is longer than a line."""
    text, spaced, begins = piece.text, piece.spaced, piece.begins
    while measure(text) > width and len(text) > 1:
        length = next((end - 1 for end in range(2, len(text)) if measure(text[:end]) > width), len(text) - 1)
        yield Piece(text[:length], piece.share, spaced, begins)
        text, spaced, begins = text[length:], False, False
    yield Piece(text, piece.share, spaced, begins)


def right_to_left(text: str) -> bool:
    """Tell whether the first character that has a direction runs from the right."""
    directions = (unicodedata.bidirectional(character) for character in text)
    return next((direction for direction in directions if direction in ("L", "R", "AL")), "L") != "L"


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"
