"""A recipe's options from a YAML file are those of its command line."""

import ast
import json
import runpy
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import pytest

from hf_e2kd.experiments import command_line, parse_experiment
from hf_e2kd.experiments.demos import VIT_ON_DIGITS

RECIPES = Path(__file__).parents[2] / "recipes"
SCRIPTS = [
    path.relative_to(RECIPES)
    for path in [*sorted(RECIPES.glob("*.py")), *sorted((RECIPES / "papers").glob("[!_]*.py"))]
    if not path.stem.startswith(("import_", "evidence_"))  # which train nothing
]


def test_every_recipe_is_run_as_a_program():
    """Prevents: a traceback where a folder is wrong, of a recipe that calls its function itself."""
    starts = {
        path.name: ast.unparse(ast.parse(text).body[-1])
        for path in RECIPES.rglob("*.py")
        if '"__main__"' in (text := path.read_text(encoding="utf-8"))
    }
    assert len(starts) > len(SCRIPTS) and [name for name, start in starts.items() if "run_recipe(" not in start] == []


def test_recipes_write_no_bars_into_a_log():
    """Prevents: a recipe of its own parser without `parse_experiment`'s defaults."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in RECIPES.glob("*.py")}
    trained = {name for name, text in texts.items() if "HfArgumentParser(" in text}
    assert len(trained) > 4 and {name for name in trained if "ex.surroundings()" not in texts[name]} == set()


@pytest.fixture
def config(tmp_path):
    """A function that writes a file of options, and gives its path."""

    def write(**options):
        (tmp_path / "options.yaml").write_text(json.dumps(options))  # which is YAML
        return str(tmp_path / "options.yaml")

    return write


def test_a_file_equals_flags(config):
    """Prevents: defaults that don't see what a file says, such as those of pretrained models; another type."""
    options = {"teacher": "a", "student": "b", "dataset": "c", "bf16": False, "learning_rate": 3e-4, "compare": False}
    options |= {"terms": {"attention_transfer": {"weight": 2.0}}, "use_cpu": True, "output-dir": "o"}
    words = "--teacher a --student b --dataset c --bf16 false --learning_rate 3e-4 --compare false --use_cpu true"
    words = [*words.split(), "--terms", '{"attention_transfer": {"weight": 2.0}}', "--output_dir", "o"]
    by_file = parse_experiment(VIT_ON_DIGITS, "x", "", arguments=["--config", config(**options)])
    by_flags = parse_experiment(VIT_ON_DIGITS, "x", "", arguments=words)
    for one, other in zip(by_file[:2], by_flags[:2], strict=True):
        assert asdict(one) == asdict(other)
    assert by_file[2].to_dict() == by_flags[2].to_dict() and by_file[2].num_train_epochs == 10
    overridden = parse_experiment(
        VIT_ON_DIGITS, "x", "", arguments=["--learning_rate", "1", "--config", config(**options)]
    )
    assert overridden[2].learning_rate == 1


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_every_recipe_takes_a_file(script, config, monkeypatch, capsys):
    """Prevents: a recipe that has no --config, or keeps a default for an option that is misspelt in a file."""
    monkeypatch.setattr(sys, "argv", [script.name, "--config", config(learning_rat=1, output_dri="x", batch_siz=3)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(RECIPES / script), run_name="__main__")
    assert ended.value.code == 2
    assert "has an unknown option 'learning_rat'" in " ".join(capsys.readouterr().err.split())


def test_options_that_are_read_first(config, monkeypatch):
    """Prevents: a trial run, or a regime, that a file asks for and other options' defaults don't follow."""
    chosen_first = import_module("_common").chosen_first
    for value in (True, False):
        monkeypatch.setattr(sys, "argv", ["recipe", "--config", config(smoke=value, regime="patient")])
        chosen = chosen_first(regime="epochs", smoke=False)
        assert (chosen.smoke, chosen.regime) == (value, "patient")
    monkeypatch.setattr(sys, "argv", ["recipe", "--smoke"])
    assert chosen_first(smoke=False).smoke is True


def test_the_process_s_own_command_line(config, monkeypatch):
    """Prevents: the program's name among the options."""
    monkeypatch.setattr(sys, "argv", ["recipe", "--config", config(seeds=2), "--seed", "1"])
    assert command_line() == ["--seeds", "2", "--seed", "1"]
