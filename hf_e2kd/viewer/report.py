"""Comparisons as one page of HTML that needs nothing else: pictures inside, no scripts."""

from collections.abc import Sequence
from pathlib import Path

from ..cards.escaping import escape_html
from ..fidelity.describe import environment
from .comparison import Comparison
from .drawing import data_uri
from .listing import browse, summary
from .markup import comparison_section, kinds, legend
from .overview import caption, how_to_read, scatter, thumbnail
from .settings import Settings, facts, load
from .styles import style

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
fieldset {{ display: flex; flex-wrap: wrap; gap: .25rem 1rem; border: 1px solid var(--rule); margin: 1rem 0; }}
.e2kd .index {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); gap: .75rem;
  margin: .5rem 0 1rem; }}
.e2kd .legend + section {{ margin-top: 1.5rem; }}
.e2kd .index li {{ display: block; padding: 0; background: none; }}
.index a {{ display: block; }}
.index img {{ display: block; max-width: 100%; height: auto; }}
.index span {{ white-space: pre-line; }}
.e2kd .versions {{ margin-top: 1.5rem; }}
{filters}
{style}</style>
</head>
<body>
<main class="e2kd">
<h1 dir="auto">{title}</h1>
<dl>
{facts}
</dl>
{notes}
{overview}
{legend}
{sections}
<p class="note versions">{versions}</p>
</main>
</body>
</html>
"""


KINDS = {
    "differ": "Classes differ",
    "agree": "Classes agree",
    "teacher-wrong": "Teacher wrong",
    "student-wrong": "Student wrong",
}
# A filter without a script.
HIDE = "main:has(#show-{kind}:checked) :is(section, .index li):not(.{kind}) {{ display: none; }}"


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
    several = len(comparisons) > 1
    stated = facts | (summary(comparisons) if several else {})
    versions = ", ".join(f"{package} {version}" for package, version in environment().items())
    return PAGE.format(
        title=escape_html(title),
        style=style("@media (prefers-color-scheme: dark) {{ .e2kd {{ {} }} }}"),
        filters="\n".join(HIDE.format(kind=kind) for kind in KINDS),
        facts="\n".join(
            f'<dt>{escape_html(name)}</dt><dd dir="auto">{escape_html(value)}</dd>' for name, value in stated.items()
        ),
        versions=escape_html(f"Made with {versions}."),
        overview=_overview(comparisons) if several else "",
        legend=legend(comparisons),
        notes="\n".join(f'<p class="note">{escape_html(note)}</p>' for note in notes),
        sections="\n".join(comparison_section(each, number) for number, each in enumerate(comparisons, start=1)),
    )


def _overview(comparisons: Sequence[Comparison]) -> str:
    """Render the plot of confidence, the filter and the index, whose entries lead to the comparisons."""
    found = {kind for each in comparisons for kind in kinds(each).split()}
    choices = {"all": "All"} | {kind: name for kind, name in KINDS.items() if kind in found}
    buttons = "".join(
        f'<label><input type="radio" name="show" id="show-{kind}"{" checked" * (kind == "all")}> {name}</label>'
        for kind, name in choices.items()
    )
    items = []
    for number, each in enumerate(comparisons, start=1):
        picture = ""
        if not isinstance(each.sample, str):
            drawn = thumbnail(each.small())
            picture = f'<img src="{data_uri(drawn)}" alt="" width="{drawn.width}" height="{drawn.height}">'
        entry = f'{picture}<span dir="auto">{escape_html(caption(each))}</span>'
        items.append(f'<li class="{kinds(each)}"><a href="#comparison-{number}">{entry}</a></li>')
    show = f"<fieldset><legend>Show</legend>{buttons}</fieldset>" if len(choices) > 2 else ""
    reading = f'<p class="note">{escape_html(how_to_read(comparisons[0]))}</p>'
    plot = scatter(comparisons, "#comparison-{}".format)
    return f'{plot}\n{show}\n{reading}\n<ol class="index">{"".join(items)}</ol>'


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
    listing = browse(viewing)
    return write_report(folder, report_page(listing.comparisons, facts(viewing.settings), notes=listing.left_out))
