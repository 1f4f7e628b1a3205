"""Lets tests import the recipes as their scripts import one another."""

import sys
from pathlib import Path

RECIPES = Path(__file__).parents[2] / "recipes"

for folder in (RECIPES, RECIPES / "papers", RECIPES / "benchmarks"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
