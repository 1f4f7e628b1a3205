"""Runs a real recipe on a handful of images in one of several processes."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

RECIPE = Path(__file__).parents[2] / "recipes" / "distill_vit.py"
TINY = {"teacher_train": 64, "student_train": 64, "validation": 0, "test_id": 18, "test_ood": 18}


def run_recipe(output_dir: Path) -> dict[str, Any]:
    """The recipe's summary, as this process has it."""
    sys.path.append(str(RECIPE.parent))
    recipe = import_module(RECIPE.stem)
    recipe.DIGITS["sizes"] = TINY
    sys.argv = [str(RECIPE), "--output_dir", str(output_dir), "--max_steps", "2", "--use_cpu"]
    return recipe.main()["summary"]
