# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""The tables of evidence in recipes/results/README.md and README.md, made from the results, so that none is typed.

A table stands between the lines `<!-- FILE PART -->` and `<!-- end -->`: FILE is the results' name without .json, PART
the study. `--check` changes nothing, and says which tables differ.

    python recipes/papers/evidence_tables.py
    python recipes/papers/evidence_tables.py --check
"""

import argparse
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffroar import as_table
from entropy import entropy_table
from five_band import METRICS as BANDS
from guide_tiny_imagenet import study_table as box_table
from interpretability_table import method_table
from limited_data import study_table
from sst import size_table
from watermark import regime_table

from hf_e2kd.experiments.command_line import run_recipe
from hf_e2kd.experiments.results import markdown_table

RESULTS = Path(__file__).parents[1] / "results"
PAGES = (RESULTS / "README.md", RESULTS.parents[1] / "README.md")

TABLES: dict[str, Callable[[Mapping[str, Any], str], str]] = {
    "diffroar": lambda results, part: as_table(results["models"]),
    "entropy": entropy_table,
    "five_band": lambda results, split: markdown_table({split: results["summary"][split]}, BANDS),
    "guide_tiny_imagenet": box_table,
    "interpretability_table": method_table,
    "limited_data": study_table,
    "sst": size_table,
    "watermark": regime_table,
}
"""Functions `(results, part)` that make a recipe's tables, by its name."""

_BLOCK = re.compile(r"(<!-- (?P<file>\w+) (?P<part>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(page: str, folder: Path) -> str:
    """Return the text of the page with its tables made anew from the results in a folder."""

    def table(match: re.Match[str]) -> str:
        results = json.loads((folder / f"{match['file']}.json").read_text(encoding="utf-8"))
        made = TABLES[results["recipe"]](results, match["part"])
        return f"{match[1]}\n{made}\n\n{match[4]}"

    return _BLOCK.sub(table, page)


def main() -> None:
    """Make the tables, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a table differs")
    check = parser.parse_args().check
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        made = with_tables(page, RESULTS)
        if check and made != page:
            raise ValueError(f"The tables of '{path}' differ from the results. Run the command without --check.")
        if made != page:
            path.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    run_recipe(main)
