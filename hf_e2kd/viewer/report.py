"""Comparisons as one page of HTML that needs nothing else: pictures inside, no scripts."""

from collections.abc import Sequence
from pathlib import Path

from ..cards.escaping import escape_html
from .comparison import Comparison
from .markup import comparison_section, image_legend, style, word_legend
from .settings import Settings, browse, facts, load

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 0; background: #fff; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #161616; }} }}
main {{ max-width: 64rem; margin: 0 auto; padding: 1rem; }}
dl {{ display: grid; grid-template-columns: auto 1fr; gap: .1rem 1rem; margin: 0 0 1rem; }}
dd {{ margin: 0; }}
{style}</style>
</head>
<body>
<main class="e2kd">
<h1 dir="auto">{title}</h1>
<dl>
{facts}
</dl>
{legend}
{notes}
{sections}
</main>
</body>
</html>
"""


def report_page(
    comparisons: Sequence[Comparison],
    facts: dict[str, str],
    *,
    title: str = "Teacher and student compared",
    notes: Sequence[str] = (),
) -> str:
    """Render the page, which follows the reader's light or dark setting and fits a phone.

    Args:
        comparisons: Comparisons in their order; all of images, or all of texts.
        facts: Facts above them by name, such as the models' names.
        notes: Sentences below that.

    Raises:
        ValueError: there is nothing to show.
    """
    if not comparisons:
        raise ValueError(f"There is no comparison to report. {' '.join(notes)}".strip())
    similarities = [each.similarity for each in comparisons if each.similarity is not None]
    summary = {"Samples": f"{len(comparisons):,}"}
    if len(comparisons) > 1 and comparisons[0].student.score is None:
        same = sum(each.agree for each in comparisons)
        summary["Same class"] = f"{same:,} of {len(comparisons):,} ({100 * same / len(comparisons):.0f} %)"
    if len(similarities) > 1:
        summary["Explanation similarity"] = f"{sum(similarities) / len(similarities):.3f} on average"
    return PAGE.format(
        title=escape_html(title),
        style=style("@media (prefers-color-scheme: dark) {{ .e2kd {{ {} }} }}"),
        facts="\n".join(
            f'<dt>{escape_html(name)}</dt><dd dir="auto">{escape_html(value)}</dd>'
            for name, value in (facts | summary).items()
        ),
        legend=word_legend() if isinstance(comparisons[0].sample, str) else image_legend(),
        notes="\n".join(f'<p class="note">{escape_html(note)}</p>' for note in notes),
        sections="\n".join(comparison_section(each, number) for number, each in enumerate(comparisons, start=1)),
    )


def write_report(folder: str | Path, page: str) -> Path:
    """Write a page as `index.html` into a folder, which is made."""
    path = Path(folder) / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def report_of(settings: Settings, folder: str | Path) -> Path:
    """Compare the samples of the settings' data set, and write the report into a folder.

    Returns:
        The page's path.
    """
    viewing = load(settings)
    comparisons, left_out = browse(viewing)
    return write_report(folder, report_page(comparisons, facts(viewing.settings), notes=left_out))
