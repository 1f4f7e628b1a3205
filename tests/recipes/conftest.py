"""Lets tests import the recipes as their scripts import one another."""

import sys
from pathlib import Path

import pytest

from hf_e2kd.experiments import run_recipe

RECIPES = Path(__file__).parents[2] / "recipes"

for folder in (RECIPES, RECIPES / "papers", RECIPES / "benchmarks"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a recipe in this process as its command line does; its results go to `tmp_path`."""

    def run_module(module, *options):
        name = module.__name__
        line = [name, "--output_dir", str(tmp_path), "--disable_tqdm", "true", *options]
        monkeypatch.setattr("sys.argv", line)
        return run_recipe(getattr(module, f"run_{name}"), module.__doc__)

    return run_module
