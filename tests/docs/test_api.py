"""The page of all public names."""

import re

import hf_e2kd
from tests.docs.commands import ROOT


def test_every_public_name_is_on_the_page():
    """Prevents: a name that the documentation promises to list, and doesn't."""
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"\.\. auto\w+:: hf_e2kd\.(\w+)$", page, re.MULTILINE))
    assert listed - {"metrics"} == {name for name in hf_e2kd.__all__ if not name.startswith("__")}
