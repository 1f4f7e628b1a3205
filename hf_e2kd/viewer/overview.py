"""Many comparisons at a glance, on the page and in the report: thumbnails, captions, a summary and a scatter plot."""

import textwrap
from collections.abc import Callable, Sequence

from PIL import Image

from ..cards.escaping import escape_html
from .comparison import Comparison, first_synonym
from .drawing import draw_map
from .markup import heading

GAP = 3  # pixels between the parts of a thumbnail
LEFT, BOTTOM, SIDE = 40, 40, 220  # of the scatter plot


def caption(comparison: Comparison) -> str:
    """Describe a sample: both classes or scores, the similarity, a text's beginning; below, an image's file."""
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
    return " · ".join(parts) + (f"\n{comparison.file}" if comparison.file else "")


def how_to_read(comparison: Comparison) -> str:
    """Explain the entries of a list: a thumbnail's parts and those of a `caption`."""
    pictures = "" if isinstance(comparison.sample, str) else "Each picture: image, teacher's map, student's map. "
    classes = "✓ the class of both, or ✗ the teacher's | the student's"
    chosen = classes if comparison.student.score is None else "the teacher's score | the student's"
    return f"{pictures}Captions: {chosen} · the explanations' similarity."


def thumbnail(small: Comparison) -> Image.Image:
    """Draw an image, the teacher's map and the student's side by side.

    Args:
        small: A comparison of images, as `Comparison.small` makes it.
    """
    image = small.sample
    assert not isinstance(image, str)
    grey = image.convert("L").convert("RGBA")
    drawn = [Image.alpha_composite(grey, draw_map(image, each.map)) for each in (small.teacher, small.student)]
    joined = Image.new("RGB", (3 * image.width + 2 * GAP, image.height), "white")
    for place, part in enumerate((image, *drawn)):
        joined.paste(part.convert("RGB"), (place * (image.width + GAP), 0))
    return joined


def summary_list(facts: dict[str, str]) -> str:
    """Render facts by name in a row."""
    items = "".join(
        f'<div><dt>{escape_html(name)}</dt><dd dir="auto">{escape_html(value)}</dd></div>'
        for name, value in facts.items()
    )
    return f'<dl class="summary">{items}</dl>'


def scatter(comparisons: Sequence[Comparison], link: Callable[[int], str] | None = None) -> str:
    """Plot each sample at both models' confidence, the probability of the class that each chooses itself.

    Args:
        link: Address of a comparison by its number from 1. Without, a point states its sample as `data-position`.

    Returns:
        SVG in a fold, without scripts; empty for models of one score.
    """
    if not comparisons or comparisons[0].student.score is not None:
        return ""
    marks, means = [], []
    for number, each in enumerate(comparisons, start=1):
        x, y = LEFT + SIDE * each.teacher.probabilities[0], SIDE * (1 - each.student.probabilities[0]) + 8
        title = f"<title>{escape_html(f'{heading(each)}: {caption(each)}')}</title>"
        # By shape too, not by colour alone.
        shape = (
            f'<circle class="agree" cx="{x:.1f}" cy="{y:.1f}" r="4">{title}</circle>'
            if each.agree
            else f'<path class="differ" d="M{x - 4:.1f} {y - 4:.1f}l8 8m0-8l-8 8">{title}</path>'
        )
        if link is not None:
            # Its thumbnail leads there too, and can be reached by keyboard.
            shape = f'<a href="{escape_html(link(number))}" tabindex="-1">{shape}</a>'
        elif each.position is not None:
            shape = f'<g data-position="{each.position}">{shape}</g>'
        marks.append(shape)
    for side in ("teacher", "student"):
        means.append(sum(getattr(each, side).probabilities[0] for each in comparisons) / len(comparisons))
    spoken = f"Confidence of {len(comparisons)} samples, on average: teacher {means[0]:.0%}, student {means[1]:.0%}."
    end, floor = LEFT + SIDE, SIDE + 8
    ticks = "".join(
        f'<text x="{LEFT + SIDE * share}" y="{floor + 14}" text-anchor="middle">{share:.0%}</text>'
        f'<text x="{LEFT - 4}" y="{floor - SIDE * share + 4}" text-anchor="end">{share:.0%}</text>'
        for share in (0, 0.5, 1)
    )
    return (
        "<details><summary>Confidence of both models</summary>\n"
        f'<svg class="scatter" viewBox="0 0 {end + 20} {floor + BOTTOM}" role="img" aria-label="{spoken}">'
        f'<rect x="{LEFT}" y="8" width="{SIDE}" height="{SIDE}"/><path d="M{LEFT} {floor}L{end} 8" '
        f'stroke-dasharray="3 3"/>{ticks}<text x="{LEFT + SIDE / 2}" y="{floor + 30}" text-anchor="middle">'
        f'teacher\'s confidence</text><text transform="translate(10 {floor - SIDE / 2}) rotate(-90)" '
        f'text-anchor="middle">student\'s confidence</text>{"".join(marks)}</svg>'
        '<p class="note">● same class, ✕ different classes</p></details>'
    )
