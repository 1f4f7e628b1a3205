"""`hf-e2kd blind`: the answers of people to a blind test, counted."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..viewer.blind_test import score_blind_test
from .output import echo


def blind(
    key: Annotated[Path, typer.Argument(help="The test's key.json, or the folder that write_blind_test filled.")],
    answers: Annotated[list[Path], typer.Argument(help="Files that people downloaded from the page, JSON or CSV.")],
) -> None:
    """Score the answers to a blind test: which of two models' explanations people chose.

    The test is a page that hf_e2kd.viewer.blind_test.write_blind_test writes; recipes/papers/xdistillation.py makes
    one. Printed as JSON: counts by model, and one model's share with its 95 % interval and the binomial test against
    a half.

    \b
    Examples:
      hf-e2kd blind outputs/xdistillation/seed-42/blind_test answers/*.json
    """
    echo(json.dumps(score_blind_test(key, answers), indent=2, ensure_ascii=False))
