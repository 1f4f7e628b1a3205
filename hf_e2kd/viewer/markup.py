"""A comparison as HTML, for the page and for the report alike. All given text is escaped."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image

from ..cards.escaping import escape_html
from ..cards.plots import COLORMAP
from ..cards.word_plots import AGAINST, AGAINST_DARK, FOR, FOR_DARK, WordRow, WordSample, word_rows
from .comparison import Comparison, Reading, spelled, strength, synonyms
from .drawing import STUDENT, TEACHER, data_uri, draw_difference, draw_map, opacity_of, place_of

OPACITY = 0.75

LIGHT = """--ink: #1a1a1a; --paper: #fff; --faint: #595959; --rule: #c8c8c8; --bar: #b9d3e6; --mark: #e8f1f8;
  --for: {for_light}; --against: {against_light};"""
DARK = """--ink: #f2f2f2; --paper: #161616; --faint: #b4b4b4; --rule: #4a4a4a; --bar: #2c5878; --mark: #1f2d38;
  --for: {for_dark}; --against: {against_dark};"""

STYLE = """
.e2kd {{ {light} container-type: inline-size; width: 100%;
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }}
{dark_rule}
.e2kd, .e2kd * {{ box-sizing: border-box; }}
.e2kd * {{ color: inherit; }}
.e2kd h1 {{ font-size: 1.4rem; font-weight: 700; margin: 0 0 .25rem; }}
.e2kd h2 {{ font-size: 1.15rem; font-weight: 700; margin: 0 0 .5rem; }}
.e2kd h3 {{ font-size: 1rem; font-weight: 600; margin: 0; }}
.e2kd p {{ margin: 0; }}
.e2kd a {{ text-decoration: underline; }}
.e2kd .verdict {{ background: var(--mark); border-inline-start: .4rem solid rgb({student}); padding: .5rem .75rem;
  margin: 0 0 .5rem; }}
.e2kd .verdict.differ {{ border-inline-start: .4rem dashed rgb({teacher}); }}
.e2kd .error {{ border: 2px solid rgb({teacher}); padding: .5rem .75rem; }}
.e2kd .facts, .e2kd .legend, .e2kd .note, .e2kd .true {{ color: var(--faint); font-size: .9rem; }}
.e2kd .facts b {{ color: var(--ink); font-weight: 600; }}
.e2kd > section + section {{ border-top: 1px solid var(--rule); margin-top: 1.5rem; padding-top: 1.5rem; }}
.e2kd .tiles {{ display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 1rem; margin: .75rem 0; }}
.e2kd .top-classes {{ display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1rem; margin: .75rem 0; }}
.e2kd figure {{ margin: 0; }}
.e2kd figure img {{ display: block; width: 100%; height: auto; margin: .25rem 0; border-radius: .2rem; }}
.e2kd .picture {{ position: relative; }}
.e2kd figure .layer {{ position: absolute; inset: 0; margin: 0; opacity: var(--opacity, {opacity}); }}
.e2kd ol {{ list-style: none; margin: 0; padding: 0; font-size: .9rem; }}
.e2kd li {{ display: flex; justify-content: space-between; gap: .5rem; padding: .1rem .35rem; margin: .15rem 0;
  background: linear-gradient(var(--bar), var(--bar)) no-repeat left / var(--p) 100%; }}
.e2kd li .percent {{ white-space: nowrap; font-variant-numeric: tabular-nums; }}
.e2kd .scale {{ display: inline-block; width: 4.5rem; height: .75rem; vertical-align: middle; border: 1px solid; }}
.e2kd .viridis {{ background: linear-gradient(to right, {viridis}); }}
.e2kd .signed {{ background: linear-gradient(to right, rgb({teacher}), #8888, rgb({student})); }}
.e2kd .legend {{ margin: .75rem 0 .5rem; }}
.e2kd .legend .for, .e2kd .legend .against {{ color: var(--ink); padding: .1em .2em; }}
.e2kd .legend .key {{ display: inline-block; margin-inline-end: 1rem; }}
.e2kd .row {{ display: grid; grid-template-columns: 11rem 1fr; gap: .25rem 1rem; margin-top: .75rem; }}
.e2kd .row .facts span {{ display: block; }}
.e2kd .words {{ line-height: 2; white-space: pre-wrap; }}
.e2kd .for, .e2kd .against {{ border-radius: .2em; padding: .1em 0; print-color-adjust: exact; }}
.e2kd .for {{ background: rgb(var(--for) / var(--s)); }}
.e2kd .against {{ background: rgb(var(--against) / var(--s)); }}
.e2kd .for.lined {{ text-decoration: underline solid; text-underline-offset: .3em; }}
.e2kd .against.lined {{ text-decoration: underline dotted; text-underline-offset: .3em; }}
.e2kd details {{ margin-top: .75rem; }}
.e2kd summary {{ cursor: pointer; width: fit-content; }}
.e2kd summary:focus-visible, .e2kd .scores:focus-visible {{ outline: 3px solid currentColor; outline-offset: 2px; }}
.e2kd .scores {{ overflow-x: auto; }}
.e2kd table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; width: auto; }}
.e2kd th, .e2kd td {{ border: 0; border-bottom: 1px solid var(--rule); padding: .15rem .6rem; text-align: end;
  overflow-wrap: normal; }}
.e2kd th[scope=row] {{ text-align: start; font-weight: normal; }}
@container (max-width: 40rem) {{
  .e2kd .tiles {{ grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .75rem; }}
  .e2kd .row {{ grid-template-columns: 1fr; }}
  .e2kd .row .facts span {{ display: inline; margin-inline-end: .75rem; }}
}}
"""


def style(dark: str) -> str:
    """Make the style sheet of everything inside an element of the class `e2kd`.

    Args:
        dark: Rule around the dark colours with `{}` in their place, as `".dark .e2kd {{ {} }}"`.
    """
    values = np.linspace(0, 1, 9)
    # As transparent as the maps are there.
    colours = np.column_stack([colormaps[COLORMAP](values)[:, :3], opacity_of(values)])
    stops = ", ".join(to_hex(colour, keep_alpha=True) for colour in colours)
    light = LIGHT.format(for_light=_numbers(FOR), against_light=_numbers(AGAINST))
    dark = dark.format(DARK.format(for_dark=_numbers(FOR_DARK), against_dark=_numbers(AGAINST_DARK)))
    return STYLE.format(
        light=light,
        dark_rule=dark,
        viridis=stops,
        student=_numbers(STUDENT),
        teacher=_numbers(TEACHER),
        opacity=OPACITY,
    )


@dataclass(frozen=True)
class DifferenceRow(WordRow):
    """Row of the student's minus the teacher's score of each word, from −1 to 1, drawn without scaling."""

    def shares(self) -> list[float]:
        return [float(score) for score in self.scores]

    def captions(self) -> list[str]:
        return ["blue, solid: student higher", "orange, dotted: teacher higher"] if any(self.scores) else ["none"]


def comparison_section(comparison: Comparison, number: int = 1) -> str:
    """Render one sample: both models' agreement, classes and explanations.

    Args:
        number: Number of the section on the page.
    """
    heading = "Comparison" if comparison.position is None else f"Row {comparison.position}"
    body = _words(comparison, number) if isinstance(comparison.sample, str) else _tiles(comparison)
    notes = "".join(f'<p class="note">{escape_html(note)}</p>\n' for note in comparison.notes)
    return (
        f'<section aria-labelledby="comparison-{number}">\n<h2 id="comparison-{number}">{heading}</h2>'
        f"\n{verdict(comparison)}\n{_facts(comparison)}\n{notes}{body}\n</section>"
    )


def verdict(comparison: Comparison) -> str:
    """State in a sentence if both models choose the same class, or what both score."""
    if comparison.teacher.score is not None and comparison.student.score is not None:
        teacher_score, student_score = comparison.teacher.score, comparison.student.score
        return (
            f'<p class="verdict agree">The teacher scores <b>{_score(teacher_score)}</b>, the student '
            f"<b>{_score(student_score)}</b> (student − teacher: {_score(student_score - teacher_score, '+')}).</p>"
        )
    teacher, student = (f"<b>{_class_name(each.names[0])}</b>" for each in (comparison.teacher, comparison.student))
    if comparison.agree:
        return f'<p class="verdict agree" dir="auto">✓ Same class: both choose {teacher}.</p>'
    return (
        f'<p class="verdict differ" dir="auto">✗ Different classes: the teacher chooses {teacher}, the student '
        f"{student}.</p>"
    )


def caption(comparison: Comparison) -> str:
    """Describe a browsed sample in one line: both classes or scores, the similarity, and a text's beginning."""
    sides = comparison.teacher, comparison.student
    if comparison.student.score is not None:
        parts = [" | ".join(f"{each.score:.2f}" for each in sides)]
    else:
        teacher, student = (textwrap.shorten(first_synonym(each.names[0]), 24, placeholder=" …") for each in sides)
        parts = [f"✓ {teacher}" if comparison.agree else f"✗ {teacher} | {student}"]
    if comparison.similarity is not None:
        parts.append(f"{comparison.similarity:.2f}")
    if isinstance(comparison.sample, str):
        parts.append(textwrap.shorten(comparison.sample, 80, placeholder=" …"))
    return " · ".join(parts)


def error_message(message: str) -> str:
    """Render an error in place of a comparison."""
    return f'<p class="error" role="alert" dir="auto">{escape_html(message)}</p>'


def image_legend() -> str:
    """Render the legend of the colours over an image."""
    return (
        '<p class="legend"><span class="key">Maps: 0 <i class="scale viridis"></i> the map\'s maximum</span> '
        '<span class="key">Difference: teacher more <i class="scale signed"></i> student more</span></p>'
    )


def word_legend() -> str:
    """Render the legend of the colours of words."""
    return (
        '<p class="legend"><span class="for lined" style="--s:1">blue, solid line</span> speaks for what is explained, '
        '<span class="against lined" style="--s:1">orange, dotted line</span> against it. The full colour is a '
        "model's strongest word.</p>"
    )


def first_synonym(name: str) -> str:
    """Return the first of a class's synonyms, as ImageNet's names list them.

    Example:
        >>> first_synonym("tench, Tinca tinca")
        'tench'
    """
    return name.split(",")[0].strip() or name


def is_right(reading: Reading, label: str) -> bool:
    """Tell whether a model's top class is the true one, by its whole name or one of its synonyms."""
    return spelled(label) in synonyms(reading.names[0])


def _class_name(name: str) -> str:
    """Render a class by its first synonym, with all of them on hover."""
    first = first_synonym(name)
    return escape_html(name) if first == name else f'<span title="{escape_html(name)}">{escape_html(first)}</span>'


def _facts(comparison: Comparison) -> str:
    values = comparison.similarity
    similar = "none, the teacher's map is empty" if values is None else f"{values:.2f}"
    facts = {
        "Explained" if comparison.student.score is not None else "Explained class": comparison.explained,
        "Explainer": comparison.explainer,
        "Explanation similarity": similar,
    }
    if comparison.label is not None:
        facts["Label" if comparison.student.score is not None else "True class"] = comparison.label
    listed = " · ".join(
        f"{name}: <b>{_class_name(value) if name.endswith('class') else escape_html(value)}</b>"
        for name, value in facts.items()
    )
    if comparison.label is not None and comparison.judged:
        sides = {"teacher": comparison.teacher, "student": comparison.student}
        listed += "".join(
            f" · {side} {'✓ right' if is_right(each, comparison.label) else '✗ wrong'}" for side, each in sides.items()
        )
    return f'<p class="facts" dir="auto">{listed}</p>'


def _tiles(comparison: Comparison) -> str:
    image = comparison.sample
    assert not isinstance(image, str)
    sides, grey = {}, image.convert("L")
    for heading, reading in (("Teacher", comparison.teacher), ("Student", comparison.student)):
        drawn = strength(reading.map, image)
        seen = f"{heading}'s explanation: " + (f"strongest {place_of(drawn)}." if drawn.any() else "an empty map.")
        empty = "" if drawn.any() else '<p class="note">empty map</p>'
        sides[heading] = _tile(heading, grey, seen, _top(reading) + empty, draw_map(image, drawn))
    difference = comparison.difference()
    seen = _difference_in_words(difference)
    note = f'<p class="note">{escape_html(seen)}</p>'
    difference_tile = _tile("Difference", grey, seen, note, draw_difference(image, difference))
    shown = _tile("Image", image, "What both models are shown.", '<p class="note">What both models are shown.</p>')
    return f'<div class="tiles">\n{sides["Teacher"]}\n{sides["Student"]}\n{difference_tile}\n{shown}\n</div>'


def _tile(heading: str, picture: Image.Image, seen: str, below: str, layer: Image.Image | None = None) -> str:
    """Render a picture with its heading, under a layer whose opacity the page's style sets."""
    size = f'width="{picture.width}" height="{picture.height}"'
    over = "" if layer is None else f'<img class="layer" src="{data_uri(layer)}" alt="" {size}>'
    return (
        f'<figure><h3>{heading}</h3><div class="picture"><img src="{data_uri(picture)}" alt="{escape_html(seen)}" '
        f"{size}>{over}</div><figcaption>{below}</figcaption></figure>"
    )


def _difference_in_words(difference: torch.Tensor) -> str:
    parts = []
    if (difference > 0).any():
        parts.append(f"student more {place_of(difference)}")
    if (difference < 0).any():
        parts.append(f"teacher more {place_of(-difference)}")
    return f"Most: {'; '.join(parts)}." if parts else "No difference."


def _top(reading: Reading) -> str:
    if reading.score is not None:
        return f'<p class="note">score {_score(reading.score)}</p>'
    classes = "".join(
        f'<li style="--p:{100 * probability:.0f}%"><span dir="auto">{_class_name(name)}</span> '
        f'<span class="percent">{_percent(probability)}</span></li>'
        for name, probability in zip(reading.names, reading.probabilities, strict=True)
    )
    return f"<ol>{classes}</ol>"


def _percent(probability: float) -> str:
    if probability < 0.001:
        return "&lt; 0.1 %"
    return f"{100 * probability:.1f} %" if probability < 0.1 else f"{100 * probability:.0f} %"


def _score(score: float, sign: str = "") -> str:
    return f"{score:{sign}.3f}"


def _words(comparison: Comparison, number: int) -> str:
    assert isinstance(comparison.sample, str)
    classes = "".join(
        f"<div><h3>{heading}</h3>{_top(reading)}</div>"
        for heading, reading in (("Teacher", comparison.teacher), ("Student", comparison.student))
    )
    rows: Sequence[WordRow] = [
        WordRow("Teacher", comparison.words, comparison.teacher.map.tolist()),
        WordRow("Student", comparison.words, comparison.student.map.tolist()),
        DifferenceRow("Difference", comparison.words, comparison.difference().tolist()),
    ]
    return f'<div class="top-classes">{classes}</div>\n{word_rows(number, WordSample(comparison.sample, rows))}'


def _numbers(colour: tuple[int, int, int]) -> str:
    return " ".join(map(str, colour))
