"""A comparison as HTML, for the page and for the report alike. All given text is escaped."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from ..cards.escaping import escape_html
from ..cards.strengths import PERCENTILE, is_fine
from ..cards.word_plots import WordRow, WordSample, word_rows
from .comparison import Comparison, Reading, first_synonym, strength
from .drawing import data_uri, draw_difference, draw_map, place_of


@dataclass(frozen=True)
class DifferenceRow(WordRow):
    """Row of the student's minus the teacher's score of each word, from −1 to 1, drawn without scaling."""

    def shares(self) -> list[float]:
        return [float(score) for score in self.scores]

    def captions(self) -> list[str]:
        return ["green, solid: student higher", "purple, dotted: teacher higher"] if any(self.scores) else ["none"]


def comparison_section(comparison: Comparison, number: int = 1, *, clickable: bool = False) -> str:
    """Render one sample: both models' agreement, classes and explanations.

    Args:
        number: Number of the section on the page.
        clickable: True to list classes as buttons, whose `data-class` is the position in `Pair.names`.
    """
    words = isinstance(comparison.sample, str)
    body = _words(comparison, number, clickable) if words else _tiles(comparison, clickable)
    notes = "".join(f'<p class="note">{escape_html(note)}</p>\n' for note in comparison.notes)
    return (
        f'<section class="{kinds(comparison)}" aria-labelledby="comparison-{number}">\n'
        f'<h2 id="comparison-{number}" dir="auto">{escape_html(heading(comparison))}</h2>'
        f"\n{verdict(comparison)}\n{_facts(comparison)}\n{notes}{body}\n</section>"
    )


def heading(comparison: Comparison) -> str:
    """Name a comparison by the sample's row and file."""
    if comparison.position is None:
        return "Comparison"
    return f"Row {comparison.position}" + (f" · {comparison.file}" if comparison.file else "")


def kinds(comparison: Comparison) -> str:
    """List what a comparison shows, as names of a filter: whether classes agree, and who is wrong."""
    wrong = [f"{side}-wrong" for side in ("teacher", "student") if comparison.right(side) is False]
    return " ".join(["agree" if comparison.agree else "differ", *wrong])


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


def error_message(message: str) -> str:
    """Render an error in place of a comparison."""
    return f'<p class="error" role="alert" dir="auto">{escape_html(message)}</p>'


def legend(comparisons: Sequence[Comparison]) -> str:
    """Render the legend of the colours of comparisons, all of images or all of texts."""
    if isinstance(comparisons[0].sample, str):
        return _word_legend()
    fine = {is_fine(side.map) for each in comparisons for side in (each.teacher, each.student)}
    clipped = f"the {PERCENTILE}th percentile of the smoothed map"
    most = clipped if all(fine) else "the map's maximum" + (f", of fine maps {clipped}" if any(fine) else "")
    return (
        f'<p class="legend"><span class="key">Maps: 0 <i class="scale viridis"></i> {most}</span> '
        '<span class="key">Difference: teacher more <i class="scale signed"></i> student more</span></p>'
    )


def _word_legend() -> str:
    return (
        '<p class="legend"><span class="for lined" style="--s:1">blue, solid line</span> speaks for what is explained, '
        '<span class="against lined" style="--s:1">orange, dotted line</span> against it. The full colour is a '
        "model's strongest word.</p>"
    )


def _class_name(name: str) -> str:
    """Render a class by its first synonym, with all of them on hover."""
    first = first_synonym(name)
    return escape_html(name) if first == name else f'<span title="{escape_html(name)}">{escape_html(first)}</span>'


def _facts(comparison: Comparison) -> str:
    teacher, student, scores = comparison.teacher, comparison.student, comparison.student.score is not None
    explained = f"<b>{_class_name(comparison.explained)}</b>"
    if not scores:
        explained += f" (teacher {_percent(teacher.explained)}, student {_percent(student.explained)})"
    value, chance = comparison.similarity, comparison.chance
    similar = "none, the teacher's map is empty" if value is None else f"{value:.2f}"
    facts = {
        "Explained" if scores else "Explained class": explained,
        "Explainer": f"<b>{escape_html(comparison.explainer)}</b>",
        "Explanation similarity": f"<b>{similar}</b>" + ("" if chance is None else f" (by chance {chance:.2f})"),
    }
    if comparison.label is not None:
        marks = "".join(
            f" · {side} {'✓ right' if right else '✗ wrong'}"
            for side in ("teacher", "student")
            if (right := comparison.right(side)) is not None
        )
        facts["Label" if scores else "True class"] = f"<b>{_class_name(comparison.label)}</b>{marks}"
    listed = " · ".join(f"{name}: {value}" for name, value in facts.items())
    return f'<p class="facts" dir="auto">{listed}</p>'


def _tiles(comparison: Comparison, clickable: bool) -> str:
    image = comparison.sample
    assert not isinstance(image, str)
    sides, grey = {}, image.convert("L")
    for heading, reading in (("Teacher", comparison.teacher), ("Student", comparison.student)):
        drawn = strength(reading.map, image)
        seen = f"{heading}'s explanation: " + (f"strongest {place_of(drawn)}." if drawn.any() else "an empty map.")
        empty = "" if drawn.any() else '<p class="note">empty map</p>'
        sides[heading] = _tile(
            heading, grey, seen, _top(reading, comparison, clickable) + empty, draw_map(image, drawn)
        )
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


def _top(reading: Reading, comparison: Comparison, clickable: bool) -> str:
    if reading.score is not None:
        return f'<p class="note">score {_score(reading.score)}</p>'
    items = []
    for position, name, probability in zip(reading.top, reading.names, reading.probabilities, strict=True):
        line = f'<span dir="auto">{_class_name(name)}</span> <span class="percent">{_percent(probability)}</span>'
        explained = str(name == comparison.explained).lower()
        if clickable:
            line = f'<button type="button" data-class="{position}" aria-pressed="{explained}">{line}</button>'
        items.append(f'<li style="--p:{100 * probability:.0f}%">{line}</li>')
    return f"<ol>{''.join(items)}</ol>"


def _percent(probability: float) -> str:
    if probability < 0.001:
        return "&lt; 0.1 %"
    return f"{100 * probability:.1f} %" if probability < 0.1 else f"{100 * probability:.0f} %"


def _score(score: float, sign: str = "") -> str:
    return f"{score:{sign}.3f}"


def _words(comparison: Comparison, number: int, clickable: bool) -> str:
    assert isinstance(comparison.sample, str)
    classes = "".join(
        f"<div><h3>{heading}</h3>{_top(reading, comparison, clickable)}</div>"
        for heading, reading in (("Teacher", comparison.teacher), ("Student", comparison.student))
    )
    rows: Sequence[WordRow] = [
        WordRow("Teacher", comparison.words, comparison.teacher.map.tolist()),
        WordRow("Student", comparison.words, comparison.student.map.tolist()),
        DifferenceRow("Difference", comparison.words, comparison.difference().tolist()),
    ]
    return f'<div class="top-classes">{classes}</div>\n{word_rows(number, WordSample(comparison.sample, rows))}'
