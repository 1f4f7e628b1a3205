"""Settings of Sphinx: `make docs` builds the site into docs/_build."""

import re
import shutil
from pathlib import Path

from sphinx.application import Sphinx

from hf_e2kd.version import __version__

project = "hf_e2kd"
author = copyright = "The hf_e2kd authors"
release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinxcontrib.programoutput",
]
default_role = "literal"  # a docstring's single backticks
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "hf_e2kd"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_typehints = "none"  # a docstring's `Args` say the types and shapes
autodoc_member_order = "bysource"
napoleon_use_rtype = False
napoleon_custom_sections = ["Inputs"]

ROOT = Path(__file__).parents[1]
COPIED = ("CONTRIBUTING.md", "CHANGELOG.md", "recipes/**/*.md", "recipes/figures/*", "recipes/notebooks/*.ipynb")
"""The repository's own pages that belong to the site too, as patterns."""


def copy_pages(_app: Sphinx) -> None:
    """Copy the repository's own pages below docs/repository, where their links to each other hold."""
    for pattern in COPIED:
        for path in ROOT.glob(pattern):
            copy = ROOT / "docs" / "repository" / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)


def to_copies(_app: Sphinx, name: str, source: list[str]) -> None:
    """Lead links out of docs/, which hold in the repository, to the copies."""
    if not name.startswith("repository/"):
        source[0] = source[0].replace("](../", "](repository/")


def as_restructured_text(
    _app: Sphinx, _what: str, _name: str, _object: object, _options: object, lines: list[str]
) -> None:
    """Mark code that is set apart by indentation alone, and signs that mean something else in reStructuredText."""
    for number, line in enumerate(lines):
        following = next((each for each in lines[number + 1 :] if each.strip()), "")
        is_apart = number + 1 < len(lines) and not lines[number + 1].strip()
        deeper = len(following) - len(following.lstrip()) > len(line) - len(line.lstrip())
        if line.endswith(":") and is_apart and deeper and not following.lstrip().startswith(">>>"):
            lines[number] = f"{line}:"
        else:
            lines[number] = re.sub(r"\|(\w+)\|", r"\\|\1\\|", line.replace("*grid", r"\*grid"))


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", copy_pages)
    app.connect("source-read", to_copies)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)  # before napoleon
