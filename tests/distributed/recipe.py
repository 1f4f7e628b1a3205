"""Runs a real recipe on a handful of images in one of several processes, and keeps what it returned there.

Started by `accelerate launch` with the path of a folder.
"""

import json
import sys
from importlib import util
from pathlib import Path

import torch.distributed as dist

from hf_e2kd.studies import run_side_by_side
from tests.distributed.on_cpu import shard_on_cpu

RECIPE = Path(__file__).parents[2] / "recipes" / "distill_vit.py"
TINY = {"teacher_train": 64, "student_train": 64, "validation": 0, "test_id": 18, "test_ood": 18}


def main() -> None:
    shard_on_cpu()
    folder = Path(sys.argv[1])
    spec = util.spec_from_file_location("recipe", RECIPE)
    assert spec is not None and spec.loader is not None
    recipe = util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    recipe.SETTING.data["sizes"] = TINY
    sys.argv = [str(RECIPE), "--output_dir", str(folder / "outputs"), "--max_steps", "2", "--use_cpu", "--no_compare"]
    results = run_side_by_side(recipe.SETTING, "distill_vit", recipe.__doc__)
    (folder / f"rank{dist.get_rank()}.json").write_text(json.dumps(results["summary"]), encoding="utf-8")


if __name__ == "__main__":
    main()
