# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd[interpretability]"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""The tables of evidence in recipes/results/README.md and README.md, made from the results, so that none is typed.

A table stands between the lines `<!-- FILE PART -->` and `<!-- end -->`: FILE is the results' name without .json, PART
the study or the part of the data. With FILE* the table is of all files whose names begin so. `--check` changes nothing,
and says which tables differ.

    python recipes/papers/evidence_tables.py
    python recipes/papers/evidence_tables.py --check
"""

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from _drift import drift_table
from _evidence import joined_runs, runs_table
from _guidance import METRICS as OF_BOXES
from _guidance import variants_table
from diffroar import diffroar_table
from entropy import entropy_table
from five_band import METRICS as OF_BANDS
from guide_tiny_imagenet import study_table as box_table
from interpretability_table import method_table
from limited_data import study_table
from search_weight import front_table
from shift_equivariance import shift_table
from sst import size_table
from watermark import regime_table
from xdistillation import METRICS as OF_EXPLAINED

from hf_e2kd.experiments.command_line import run_recipe
from hf_e2kd.experiments.results import METRICS, markdown_table

RESULTS = Path(__file__).parents[1] / "results"
PAGES = (RESULTS / "README.md", RESULTS.parents[1] / "README.md")


def seeds_table(
    columns: Mapping[str, str], compared: str | Sequence[str], baseline: str | None = None
) -> Callable[[Mapping[str, Any], str], str]:
    """A function that writes a part of the data with paired differences, by default from the first but the teacher."""

    def table(results: Mapping[str, Any], split: str) -> str:
        first = next(model for model in results["runs"][0] if model not in ("seed", "teacher"))
        return runs_table(results, split, columns, baseline or first, compared)

    return table


TABLES: dict[str, Callable[[Any, str], str]] = {
    "diffroar": diffroar_table,
    "distill": seeds_table(METRICS, "agreement"),
    **{f"distill_{name}": seeds_table(METRICS, "agreement") for name in ("vit", "resnet", "convnext")},
    "distill_bert": seeds_table(METRICS, "agreement", "KD"),
    "distill_coco": seeds_table(OF_BOXES, ["energy_pointing_game", "localization_iou"], "KD"),
    "distill_data_free": seeds_table(METRICS, "agreement"),
    "entropy": entropy_table,
    "five_band": lambda results, split: markdown_table({split: results["summary"][split]}, OF_BANDS),
    "guide_coco": seeds_table(OF_BOXES, "energy_pointing_game"),
    "guide_coco*": variants_table,
    "guide_tiny_imagenet": box_table,
    "interpretability_table*": lambda files, split: method_table(joined_runs(files), split),
    "limited_data": study_table,
    "quantization_drift": lambda results, part: drift_table(results),
    "search_weight": lambda results, part: front_table(results["points"], results["front"], part, results["measures"]),
    "shift_equivariance": lambda results, part: shift_table(results["shifts"], results["models"]),
    "sst": size_table,
    "sst*": lambda files, part: size_table(joined_runs(files), part),
    "sweep_shortcut": lambda results, part: markdown_table(results["summary"]),
    "watermark": regime_table,
    "xdistillation": seeds_table(OF_EXPLAINED, "shap_error"),
}
"""Functions `(results, part)` that make a recipe's tables, by its name; those of several files get a list."""

_BLOCK = re.compile(r"(<!-- (?P<file>\w+\*?) (?P<part>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(page: str, folder: Path) -> str:
    """Return the text of the page with its tables made anew from the results in a folder."""

    def table(match: re.Match[str]) -> str:
        paths = sorted(folder.glob(f"{match['file']}.json"))
        files = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        if not files:
            raise FileNotFoundError(f"There is no '{folder / match['file']}.json', of which '{match[1].strip()}' is.")
        several = match["file"].endswith("*")
        recipe = files[0]["recipe"] + "*" * several
        made = TABLES[recipe](files if several else files[0], match["part"])
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
