"""Recipes that `uv run` starts where nothing is installed: the inline metadata of PEP 723."""

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest needs there

ROOT = Path(__file__).parents[2]
SCRIPTS = [path for path in sorted((ROOT / "recipes").rglob("*.py")) if not path.name.startswith("_")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_script_needs(script):
    """Prevents: a recipe without metadata, that names an extra which isn't there, or another folder's package."""
    (block,) = re.findall(r"(?m)^# /// script$\n((?:^#.*$\n)+?)^# ///$", script.read_text(encoding="utf-8"))
    found = tomllib.loads("".join(line[2:] + "\n" for line in block.splitlines()))
    assert found["requires-python"] == PROJECT["requires-python"]
    (needed,) = map(Requirement, found["dependencies"])
    assert needed.name == PROJECT["name"] and needed.extras <= set(PROJECT["optional-dependencies"])
    source = found["tool"]["uv"]["sources"][needed.name]
    assert source["editable"] and (script.parent / source["path"]).resolve() == ROOT
