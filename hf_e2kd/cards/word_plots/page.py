"""The page: texts in HTML, their words coloured, with all scores in tables."""

from collections.abc import Sequence
from pathlib import Path

from ..escaping import escape_html
from .colours import AGAINST, AGAINST_DARK, FOR, FOR_DARK, LINED
from .samples import WordRow, WordSample, gaps, require_rows


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
    require_rows(samples)
    body = "\n".join(_section(number, sample) for number, sample in enumerate(samples, start=1))
    page = PAGE.format(
        title=escape_html(title), style=_style(), note=f"<p>{escape_html(note)}</p>\n" if note else "", samples=body
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
    captions = " · ".join(escape_html(caption) for caption in sample.captions())
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
        escape_html(gap) + _word(word, score, share)
        for gap, word, score, share in zip(between, row.words, row.scores, row.shares(), strict=True)
    )
    facts = "".join(f'<span dir="auto">{escape_html(line)}</span> ' for line in row.captions())
    return (
        f'<div class="row">\n<div><h3 dir="auto">{escape_html(row.heading)}</h3><p class="facts">{facts}</p></div>\n'
        f'<p class="words" dir="auto">{words}{escape_html(tail)}</p>\n</div>'
    )


def _word(word: str, score: float, share: float) -> str:
    if share == 0:
        return f'<span title="0">{escape_html(word)}</span>'
    kind = ("for" if share > 0 else "against") + (" lined" if abs(share) >= LINED else "")
    return f'<span class="{kind}" style="--s:{abs(share):.2f}" title="{_number(score)}">{escape_html(word)}</span>'


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
    head = "".join(f'<th scope="col" dir="auto">{escape_html(row.heading)}</th>' for row in rows)
    lines = [
        f'<tr><th scope="row" dir="auto">{escape_html(word)}</th>'
        + "".join(f"<td>{_number(row.scores[place])}</td>" for row in rows)
        + "</tr>"
        for place, word in enumerate(rows[0].words)
    ]
    return f'<table>\n<thead><tr><th scope="col">word</th>{head}</tr></thead>\n<tbody>\n' + "\n".join(
        [*lines, "</tbody>\n</table>"]
    )


def _number(score: float) -> str:
    return "0" if score == 0 else f"{score:+.3g}"
