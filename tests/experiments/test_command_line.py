"""Recipes as programs: how what a user can mend ends them."""

import sys

import pytest
from datasets import are_progress_bars_disabled
from datasets.exceptions import DatasetGenerationError
from transformers.utils import logging

from hf_e2kd.experiments import run_recipe, surroundings


def raising(error):
    raise error


@pytest.fixture(autouse=True)
def program(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/recipe.py"])
    monkeypatch.delenv("HF_E2KD_DEBUG", raising=False)


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ValueError("No layer\n 'x\x1b'."), 1, "recipe.py: error: No layer 'x\\u001b'."),
        (FileNotFoundError("'data' is missing."), 1, "recipe.py: error: 'data' is missing."),
        (ImportError(), 1, "recipe.py: error: ImportError"),
        (KeyboardInterrupt(), 130, "recipe.py: interrupted"),
    ],
)
def test_what_a_user_can_mend(error, code, told, capsys):
    """Prevents: a traceback, exit codes other than those of hf-e2kd, and names that steer the terminal."""
    with pytest.raises(SystemExit) as ended:
        run_recipe(raising, error)
    first, *rest = capsys.readouterr().err.strip().splitlines()
    assert (ended.value.code, first) == (code, told)
    assert rest == ([] if code == 130 else ["HF_E2KD_DEBUG=1 in the environment shows the traceback."])


def test_the_cause_of_an_error_of_datasets(capsys):
    """Prevents: "An error occurred", without which."""
    error = DatasetGenerationError("An error occurred")
    error.__cause__ = ValueError("no such column")
    with pytest.raises(SystemExit):
        run_recipe(raising, error)
    assert "recipe.py: error: An error occurred: no such column\n" in capsys.readouterr().err


def test_a_log_file_gets_no_progress_bars(monkeypatch, capsys):
    """Prevents: hundreds of bars among the lines of a log."""

    def recipe():
        list(logging.tqdm(range(3), desc="Loading"))
        return surroundings()["disable_tqdm"], are_progress_bars_disabled()

    assert run_recipe(recipe) == (True, True)
    assert "Loading" not in capsys.readouterr().err and not are_progress_bars_disabled()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run_recipe(recipe) == (False, False)


def test_what_is_shown_whole(monkeypatch):
    """Prevents: a mistake of ours without its place; a result that is lost."""
    assert run_recipe(max, 1, 2) == 2
    with pytest.raises(KeyError):
        run_recipe(raising, KeyError("x"))
    monkeypatch.setenv("HF_E2KD_DEBUG", "1")
    with pytest.raises(ValueError, match="x"):
        run_recipe(raising, ValueError("x"))
