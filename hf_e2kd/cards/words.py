"""Pictures of the words that teacher and students look at: a page to read, and a figure for a model card."""

import html
import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

FOR = (0x6A, 0xAF, 0xE6)  # blue, of a word that speaks for the class
AGAINST = (0xF5, 0xA5, 0x4A)  # orange, against it: told apart by colour-blind people, and both light under black
FOR_DARK = (0x1C, 0x5D, 0xA0)  # the same under white
AGAINST_DARK = (0x96, 0x4B, 0x00)
LINED = 0.1  # from this share of the largest score a word is underlined, so that the sign can be seen without colour

WIDTH = 8.0  # inches, the figure's
MARGIN = 0.15  # inches
HEADING = 1.7  # inches, the column of the models' names
SIZES = {"sample": 10.0, "heading": 9.0, "caption": 8.0, "word": 10.0}  # points
LINE = 1.75  # a line's height, in its type size
POINT = 1 / 72  # inches


@dataclass(frozen=True)
class WordRow:
    """How one model reads one text.

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
        """What is said beside the words: the class, the similarity, and whether there is nothing to see."""
        lines = [] if self.prediction is None else [f"predicts: {self.prediction}"]
        if self.similarity is not None:
            lines.append(f"similarity: {float(self.similarity):.2f}")
        return lines if any(self.scores) else [*lines, "empty map"]


@dataclass(frozen=True)
class WordSample:
    """One text and how each model reads it.

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
        named = {"true": self.label, "explained": self.explained}
        return [f"{name}: {value}" for name, value in named.items() if value is not None]


def word_page(
    samples: Sequence[WordSample],
    path: str | Path | None = None,
    *,
    title: str = "Words that the models look at",
    note: str = "",
) -> str:
    """A page of its own, without scripts or anything from elsewhere: each text once a model, its words coloured.

    Blue words speak for the explained class and orange ones against it, strongest where the model's own largest score
    in this text is. The sign is seen without colour too (a solid or a dotted line below the word), the score is the
    word's tooltip, and all scores of a text stand in a table that unfolds. It follows the reader's light or dark
    setting and fits a phone.

    Args:
        samples: the texts.
        path: where to save the page too.
        title: the page's title and heading.
        note: a sentence below it, such as which models and data these are.

    Returns:
        The page's HTML. All given text is escaped.

    Raises:
        ValueError: there is no sample, or one without a row.

    Example:
        >>> row = WordRow("Teacher", ["not", "good"], [0.8, 0.1], prediction="negative")
        >>> page = word_page([WordSample("not good", [row], label="negative")], title="Reviews")
        >>> '<span class="for lined" style="--s:0.12" title="+0.1">good</span>' in page
        True
    """
    _require(samples)
    body = "\n".join(_section(number, sample) for number, sample in enumerate(samples, start=1))
    page = PAGE.format(
        title=_escape(title), style=_style(), note=f"<p>{_escape(note)}</p>\n" if note else "", samples=body
    )
    if path is not None:
        Path(path).write_text(page, encoding="utf-8")
    return page


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1 dir="auto">{title}</h1>
{note}<p class="legend"><span class="for lined" style="--s:1">blue, solid line</span>: speaks for the explained class.
<span class="against lined" style="--s:1">orange, dotted line</span>: speaks against it.
Each model's strongest word in a text has the full colour, so colours compare words of one row, not rows.
The scores are in the words' tooltips and in the table below each text.</p>
{samples}
</main>
</body>
</html>
"""

STYLE = """
:root {{ --for: {for_light}; --against: {against_light}; --ink: #1a1a1a; --paper: #fff; --faint: #595959;
  --rule: #c8c8c8; color-scheme: light dark; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --for: {for_dark}; --against: {against_dark}; --ink: #f2f2f2; --paper: #161616; --faint: #b4b4b4;
    --rule: #4a4a4a; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }}
main {{ max-width: 56rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.4rem; }}
h2 {{ font-size: 1.1rem; margin: 0 0 .25rem; }}
h3 {{ font-size: 1rem; margin: 0; }}
section {{ border-top: 1px solid var(--rule); padding: 1rem 0; }}
.row {{ display: grid; grid-template-columns: 11rem 1fr; gap: .25rem 1rem; margin-top: .75rem; }}
.row p, .true {{ margin: 0; }}
.facts, .true, .legend {{ color: var(--faint); font-size: .9rem; }}
.facts span {{ display: block; }}
.words {{ line-height: 2; white-space: pre-wrap; }}
.for, .against {{ border-radius: .2em; padding: .1em 0; color: var(--ink); -webkit-print-color-adjust: exact;
  print-color-adjust: exact; }}
.for {{ background: rgb(var(--for) / var(--s)); }}
.against {{ background: rgb(var(--against) / var(--s)); }}
.for.lined {{ text-decoration: underline solid; text-underline-offset: .3em; }}
.against.lined {{ text-decoration: underline dotted; text-underline-offset: .3em; }}
details {{ margin-top: .75rem; }}
summary {{ cursor: pointer; width: fit-content; }}
summary:focus-visible, .scores:focus-visible {{ outline: 3px solid currentColor; outline-offset: 2px; }}
.scores {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }}
th, td {{ border-bottom: 1px solid var(--rule); padding: .15rem .6rem; text-align: end; overflow-wrap: normal; }}
th[scope=row] {{ text-align: start; font-weight: normal; }}
@media (max-width: 38rem) {{
  .row {{ grid-template-columns: 1fr; }}
  .facts span {{ display: inline; margin-inline-end: .75rem; }}
}}
"""


def _style() -> str:
    colours = {"for_light": FOR, "against_light": AGAINST, "for_dark": FOR_DARK, "against_dark": AGAINST_DARK}
    return STYLE.format(**{name: " ".join(map(str, colour)) for name, colour in colours.items()})


def _section(number: int, sample: WordSample) -> str:
    captions = " · ".join(_escape(caption) for caption in sample.captions())
    captions = f'<p class="true">{captions}</p>\n' if captions else ""
    return (
        f'<section aria-labelledby="text-{number}">\n<h2 id="text-{number}">Text {number}</h2>\n{captions}'
        f"{word_rows(number, sample)}</section>"
    )


def word_rows(number: int, sample: WordSample) -> str:
    """A text once a model and the table of its scores, for pages of the page's own style."""
    rows = "\n".join(_row(sample.text, row) for row in sample.rows)
    return f"{rows}\n{_table(number, sample.rows)}"


def _row(text: str, row: WordRow) -> str:
    *between, tail = gaps(text, row.words)
    words = "".join(
        _escape(gap) + _word(word, score, share)
        for gap, word, score, share in zip(between, row.words, row.scores, row.shares(), strict=True)
    )
    facts = "".join(f'<span dir="auto">{_escape(line)}</span> ' for line in row.captions())
    return (
        f'<div class="row">\n<div><h3 dir="auto">{_escape(row.heading)}</h3><p class="facts">{facts}</p></div>\n'
        f'<p class="words" dir="auto">{words}{_escape(tail)}</p>\n</div>'
    )


def _word(word: str, score: float, share: float) -> str:
    if share == 0:
        return f'<span title="0">{_escape(word)}</span>'
    kind = ("for" if share > 0 else "against") + (" lined" if abs(share) >= LINED else "")
    return f'<span class="{kind}" style="--s:{abs(share):.2f}" title="{_number(score)}">{_escape(word)}</span>'


def _table(number: int, rows: Sequence[WordRow]) -> str:
    """All scores in numbers, for those who can't hover or see: one table, or one a model where their words differ."""
    shared = all(list(row.words) == list(rows[0].words) for row in rows)
    tables = "\n".join(_scores(group) for group in ([rows] if shared else [[row] for row in rows]))
    return (
        f"<details>\n<summary>Scores of text {number} in numbers</summary>\n"
        f'<div class="scores" role="region" aria-label="Scores of text {number}" tabindex="0">\n{tables}\n'
        "</div>\n</details>\n"
    )


def _scores(rows: Sequence[WordRow]) -> str:
    head = "".join(f'<th scope="col" dir="auto">{_escape(row.heading)}</th>' for row in rows)
    lines = [
        f'<tr><th scope="row" dir="auto">{_escape(word)}</th>'
        + "".join(f"<td>{_number(row.scores[place])}</td>" for row in rows)
        + "</tr>"
        for place, word in enumerate(rows[0].words)
    ]
    return f'<table>\n<thead><tr><th scope="col">word</th>{head}</tr></thead>\n<tbody>\n' + "\n".join(
        [*lines, "</tbody>\n</table>"]
    )


def _number(score: float) -> str:
    return "0" if score == 0 else f"{score:+.3g}"


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


def gaps(text: str, words: Sequence[str]) -> list[str]:
    """What stands in the text before each word and after the last one.

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


def word_figure(samples: Sequence[WordSample], path: str | Path | None = None, *, title: str = "") -> Figure:
    """The page's texts as a picture: each text once a model, blue words for the explained class and orange against it.

    Long texts are wrapped, those of a right-to-left script from the right (their letters are joined and ordered by
    matplotlib 3.11 or newer). Fonts that lack a character are completed by installed ones that have it; where none
    has, matplotlib warns and draws a box.

    Args:
        samples: the texts.
        path: where to save the figure too, at 150 dpi; the suffix decides the format.
        title: a line above.

    Returns:
        The figure, 8 inches wide and as high as its texts need. It belongs to no pyplot window, so the user's backend
        isn't touched and nothing must be closed.

    Raises:
        ValueError: there is no sample, or one without a row.

    Example:
        >>> row = WordRow("Teacher", ["not", "good"], [0.8, 0.1], prediction="negative")
        >>> word_figure([WordSample("not good", [row], label="negative")]).get_size_inches()[0].item()
        8.0
    """
    _require(samples)
    sheet = _Sheet(_families(samples, title))
    if title:
        sheet.write(_plain(title), 0, "sample", weight="bold")
    sheet.write(
        [
            _Piece("blue, solid line", 1.0),
            *_plain(": for the explained class,  "),
            _Piece("orange, dotted line", -1.0, spaced=True),
            *_plain(": against it; full colour: the model's strongest word in the text"),
        ],
        0,
        "caption",
    )
    for number, sample in enumerate(samples, start=1):
        sheet.rule()
        sheet.write(_plain(" · ".join([f"Text {number}", *sample.captions()])), 0, "sample")
        for row in sample.rows:
            top = sheet.top
            sheet.write(_plain(row.heading), 0, "heading", width=HEADING, weight="bold")
            for line in row.captions():
                sheet.write(_plain(line), 0, "caption", width=HEADING, colour="#595959")
            below, sheet.top = sheet.top, top
            sheet.write(_pieces(sample.text, row), HEADING + MARGIN, "word")
            sheet.top = max(sheet.top, below) + MARGIN / 2
    figure = sheet.draw()
    if path is not None:
        figure.savefig(path, dpi=figure.dpi)
    return figure


class _Piece(NamedTuple):
    """Text without white space inside that is drawn at once: a word, or what stands between two."""

    text: str
    share: float = 0.0
    spaced: bool = False  # whether white space stands before it


class _Sheet:
    """Takes lines from the top down, and draws them once their height is known. Places in inches from the top left."""

    def __init__(self, families: list[str]):
        self.top = MARGIN
        self.families = families
        self.artists: list[tuple[float, float, float, float, _Piece, FontProperties, str]] = []
        self.rules: list[float] = []
        self.figure = Figure(dpi=150)
        self.renderer = FigureCanvasAgg(self.figure).get_renderer()

    def rule(self) -> None:
        """A line across."""
        self.rules.append(self.top + MARGIN / 2)
        self.top += MARGIN

    def write(
        self,
        pieces: Sequence[_Piece],
        left: float,
        kind: str,
        *,
        width: float | None = None,
        weight: str = "normal",
        colour: str = "black",
    ) -> None:
        """Pieces in lines below the last ones, from `left` of the margin on."""
        font = FontProperties(family=self.families, size=SIZES[kind], weight=weight)
        width = WIDTH - 2 * MARGIN - left if width is None else width
        from_right = _right_to_left("".join(piece.text for piece in pieces))
        height = SIZES[kind] * POINT
        for line in wrap(pieces, width, lambda text: self._measure(text, font), 0.3 * height):
            for x, piece, long in line:
                start = MARGIN + left + (width - x - long if from_right else x)
                self.artists.append((start, self.top, long, height, piece, font, colour))
            self.top += LINE * height

    def draw(self) -> Figure:
        """The figure of all that was written."""
        bottom = self.top + MARGIN / 2
        self.figure.set_size_inches(WIDTH, bottom)
        scale = self.figure.dpi_scale_trans
        for place in self.rules:
            y = bottom - place
            self.figure.add_artist(Line2D([MARGIN, WIDTH - MARGIN], [y, y], color="#c8c8c8", lw=0.8, transform=scale))
        for x, top, width, height, piece, font, colour in self.artists:
            base = bottom - top - 1.2 * height
            if piece.share:
                box = Rectangle((x, base - 0.32 * height), width, 1.4 * height, transform=scale, lw=0)
                box.set_facecolor(blend(piece.share))
                self.figure.add_artist(box)
            if abs(piece.share) >= LINED:
                y = base - 0.27 * height
                style = "-" if piece.share > 0 else (0, (1, 1.2))
                self.figure.add_artist(Line2D([x, x + width], [y, y], color="black", lw=1, ls=style, transform=scale))
            # A dollar sign in a review is no formula.
            self.figure.text(
                x, base, piece.text, fontproperties=font, color=colour, va="baseline", transform=scale, parse_math=False
            )
        return self.figure

    def _measure(self, text: str, font: FontProperties) -> float:
        return self.renderer.get_text_width_height_descent(text, font, ismath=False)[0] / self.figure.dpi


def wrap(
    pieces: Sequence[_Piece], width: float, measure: Callable[[str], float], space: float
) -> list[list[tuple[float, _Piece, float]]]:
    """Pieces in lines of a width: of each its start on the line, itself, and its length.

    A line ends at white space, or beside a character of the scripts that put no spaces between words. What is longer
    than a whole line is cut anywhere.
    """
    lines: list[list[tuple[float, _Piece, float]]] = [[]]
    end = 0.0
    for group in _unbreakable(pieces):
        group = [part for piece in group for part in _cut(piece, width, measure)]
        lengths = [measure(piece.text) for piece in group]
        end += space if group[0].spaced and lines[-1] else 0
        if lines[-1] and end + sum(lengths) > width:
            lines.append([])
            end = 0.0
        for piece, length in zip(group, lengths, strict=True):
            if lines[-1] and end + length > width:
                lines.append([])
                end = 0.0
            lines[-1].append((end, piece, length))
            end += length
    return lines


def _unbreakable(pieces: Sequence[_Piece]) -> list[list[_Piece]]:
    """Pieces that must stay on one line, such as a word and its full stop."""
    groups: list[list[_Piece]] = []
    for piece in pieces:
        mark = unicodedata.category(piece.text[0]).startswith("P")
        wide = groups and (_is_wide(groups[-1][-1].text[-1]) or _is_wide(piece.text[0]))
        if not groups or piece.spaced or (wide and not mark):
            groups.append([piece])
        else:
            groups[-1].append(piece)
    return groups


def _cut(piece: _Piece, width: float, measure: Callable[[str], float]) -> Iterator[_Piece]:
    """The piece, in parts where it is longer than a line."""
    text, spaced = piece.text, piece.spaced
    while measure(text) > width and len(text) > 1:
        length = next((end - 1 for end in range(2, len(text)) if measure(text[:end]) > width), len(text) - 1)
        yield _Piece(text[:length], piece.share, spaced)
        text, spaced = text[length:], False
    yield _Piece(text, piece.share, spaced)


def _pieces(text: str, row: WordRow) -> list[_Piece]:
    """The row's words with their shares, and what stands between them in the text."""
    pieces: list[_Piece] = []
    *between, tail = gaps(text, row.words)
    for gap, word, share in zip(between, row.words, row.shares(), strict=True):
        pieces += _plain(gap)
        # White space inside a word, such as a line's end, would be drawn.
        word = " ".join(word.split())
        pieces += [_Piece(word, share, gap[-1:].isspace())] if word else []
    return pieces + _plain(tail)


def _plain(text: str) -> list[_Piece]:
    """A text without scores, in pieces at its white space."""
    return [_Piece(word, spaced=place > 0 or text[:1].isspace()) for place, word in enumerate(text.split())]


def blend(share: float) -> tuple[float, float, float]:
    """The colour of a share from −1 to 1 on white paper: red, green and blue from 0 to 1.

    Example:
        >>> blend(0.0)
        (1.0, 1.0, 1.0)
    """
    red, green, blue = (1 - abs(share) * (1 - channel / 255) for channel in (FOR if share > 0 else AGAINST))
    return red, green, blue


def _right_to_left(text: str) -> bool:
    """Whether the first character that has a direction runs from the right."""
    directions = (unicodedata.bidirectional(character) for character in text)
    return next((direction for direction in directions if direction in ("L", "R", "AL")), "L") != "L"


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"


def _families(samples: Sequence[WordSample], title: str) -> list[str]:
    """Font families for all that is drawn: the user's, and installed ones for characters that those lack."""
    texts = [title, *(text for sample in samples for text in [sample.text, *sample.captions()])]
    texts += [text for sample in samples for row in sample.rows for text in [row.heading, *row.words, *row.captions()]]
    families = list(FontProperties().get_family())
    wanted = {ord(character) for character in "".join(texts) if not character.isspace()}
    missing = wanted - get_font(findfont(FontProperties())).get_charmap().keys()
    for font in sorted(fontManager.ttflist, key=lambda font: font.name) if missing else []:
        if not missing or font.style != "normal" or font.weight != 400 or font.name.startswith("Last Resort"):
            continue
        # Fonts of pictures alone, as of some emoji, can't be opened.
        with suppress(RuntimeError):
            has = missing & get_font(font.fname).get_charmap().keys()
            if has:
                families.append(font.name)
                missing -= has
    return families


def _require(samples: Sequence[WordSample]) -> None:
    if not samples:
        raise ValueError("There is no sample to show. Give at least one WordSample.")
    for number, sample in enumerate(samples, start=1):
        if not sample.rows:
            raise ValueError(f"Text {number} has no row to show. Give it one WordRow a model.")
