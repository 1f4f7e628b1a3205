"""Runs a real recipe on a handful of images in one of several processes."""

import sys
from importlib import util
from pathlib import Path
from typing import Any

from hf_e2kd.studies import run_side_by_side

RECIPE = Path(__file__).parents[2] / "recipes" / "distill_vit.py"
TINY = {"teacher_train": 64, "student_train": 64, "validation": 0, "test_id": 18, "test_ood": 18}


def run_recipe(output_dir: Path) -> dict[str, Any]:
    """The recipe's summary, as this process has it."""
    spec = util.spec_from_file_location("recipe", RECIPE)
    assert spec is not None and spec.loader is not None
    recipe = util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    recipe.SETTING.data["sizes"] = TINY
    sys.argv = [str(RECIPE), "--output_dir", str(output_dir), "--max_steps", "2", "--use_cpu", "--no_compare"]
    return run_side_by_side(recipe.SETTING, "distill_vit", recipe.__doc__)["summary"]
