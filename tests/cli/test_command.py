"""The command line as a whole: help, version, options from a file, and what stands beside progress bars."""

import io
import json
import logging
import os
import sys
import warnings
from contextlib import nullcontext

import pytest
from datasets import are_progress_bars_disabled
from tqdm import tqdm
from transformers import ProgressCallback
from transformers.utils import logging as transformers_logging

from hf_e2kd.cli import COMMANDS, fidelity, load_command, main
from hf_e2kd.cli.command import PANELS
from hf_e2kd.cli.output import beside_progress_bars, status
from hf_e2kd.fidelity import HeldOutRecord, MetricValue, measure_fidelity
from hf_e2kd.logs import get_logger
from hf_e2kd.version import __version__
from tests.cards.records import image_record
from tests.models import build
from tests.training import distiller


class Terminal(io.StringIO):
    """Standard error that somebody watches."""

    def isatty(self):
        return True


@pytest.fixture
def watched(monkeypatch):
    """A function that makes standard error a terminal, in the test itself: pytest sets it anew before."""

    def watch():
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    return watch


def run(*given):
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(each) for each in given])
    return ended.value.code or 0


# --- Help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_terminal(name, capsys, monkeypatch):
    """Prevents: lines that a terminal of 80 columns breaks; an option in no panel of its subject; a hidden argument."""
    monkeypatch.setenv("COLUMNS", "80")
    assert run(name, "--help") == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 80
    heads = [line[:-1] for line in page.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert heads[-1] == "Options" and set(heads) <= {"Arguments", *PANELS, "Options"}
    assert "--config FILE.yaml" in page and "[more]" not in page
    if name == "fidelity":
        assert heads == ["Models", "Data", "Explanation", "Requirements", "Output", "Options"]
        models = page.split("Models:\n")[1].split("\nData:")[0]
        assert "--student-revision" in models and "--trust-remote-code" in models and "--split" not in models


def test_version_and_commands(capsys, monkeypatch):
    """Prevents: a command whose line ends in dots; a version that isn't the package's."""
    monkeypatch.setenv("COLUMNS", "80")
    assert run("--version") == 0
    assert capsys.readouterr().out == f"hf-e2kd {__version__}\n"
    assert run("--help") == 0
    page = capsys.readouterr().out
    assert all(line in " ".join(page.split()) for line in COMMANDS.values()) and max(map(len, page.splitlines())) <= 80


@pytest.mark.parametrize("given", [None, "", "0"])
def test_debugging_ends_with_its_command(given, tmp_path, monkeypatch):
    """Prevents: --debug that the next command of the process, or one that this starts, finds in the environment."""
    if given is None:
        monkeypatch.delenv("HF_E2KD_DEBUG", raising=False)
    else:
        monkeypatch.setenv("HF_E2KD_DEBUG", given)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    line, found = ("gate", tmp_path / "nowhere", "--require", "agreement>=.9"), []

    def fail(_):
        found.append(os.environ.get("HF_E2KD_DEBUG"))
        raise KeyError

    monkeypatch.setattr("hf_e2kd.cli.command.beside_progress_bars", lambda debug: found.append(debug) or nullcontext())
    monkeypatch.setattr("hf_e2kd.cli.gate.load_record", fail)
    monkeypatch.setattr("hf_e2kd.cli.errors_of_users", lambda: (KeyError,))
    with pytest.raises(KeyError):
        main(["--debug", *map(str, line)])
    assert run(*line) == 1
    assert found == [True, given, False, given]


# --- Options from a file ----------------------------------------------------------------------------------------------


def parsed(name, *words):
    """The options of a command line, as the command's function would be given them."""
    command = load_command(name)
    context = command.make_context(name, [str(word) for word in words])
    return context.params | {"others": context.args}


@pytest.fixture
def config(tmp_path):
    """A function that writes a file of options, and gives the words that name it."""

    def write(**options):
        (tmp_path / "options.yaml").write_text(json.dumps(options))  # which is YAML
        return "--config", tmp_path / "options.yaml"

    return write


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (
            "fidelity",
            {"student": "a", "samples": 9, "chance": False, "card": True, "text-columns": ["x", "y"], "json": True},
            ["--student", "a", "--samples", 9, "--no-chance", "--card", "--text-columns", "x", "--text-columns", "y"]
            + ["--json"],
        ),
        ("fidelity", {"require": ["agreement>=.9"], "card": False}, ["--require", "agreement>=.9"]),
        (
            "explain",
            {"model": "m", "inputs": ["a.png", "b.png"], "explainer_options": {"n_steps": 8}, "explainer": "x"},
            ["m", "a.png", "b.png", "--explainer-options", '{"n_steps": 8}', "--explainer", "x"],
        ),
        ("store", {"output_dir": "out", "teacher": "t", "dataset": "d"}, ["out", "--teacher", "t", "--dataset", "d"]),
        (
            "distill",
            {"demo": "vit", "learning_rate": "5e-5", "compare": False, "text_column": ["a", "b"]},
            ["--demo", "vit", "--learning_rate", "5e-5", "--compare", "false", "--text_column", "a", "b"],
        ),
    ],
)
def test_a_file_equals_flags(config, name, options, words):
    """Prevents: an option that a file gives otherwise than the command line."""
    assert parsed(name, *config(**options)) == parsed(name, *words)


def test_flags_override_a_file(config):
    """Prevents: a file's option that goes before the command line's, or a list that both are joined to."""
    file = config(samples=9, chance=False, text_columns=["x", "y"], student="a")
    given = parsed("fidelity", *file, "--samples", 7, "--text-column", "z", "--chance")
    assert (given["samples"], given["chance"], given["student"]) == (7, True, "a")
    assert list(given["text_columns"]) == ["z"]
    given = parsed("explain", *config(model="m", inputs=["a.png"]), "other", "b.png")
    assert (given["model"], list(given["inputs"])) == ("other", ["b.png"])
    given = parsed("distill", *config(text_column=["a", "b"], seeds=3), "--text_column", "c")
    assert given["others"] == ["--seeds", "3", "--text_column", "c"]


def test_words_that_older_yaml_takes_for_booleans(tmp_path):
    """Prevents: a card in the language "False" for Norwegian, a file that can't name --on, a flag of `yes`."""
    (tmp_path / "options.yaml").write_text("on: value\ncard: yes\nchance: off\nexplainer_options: {n: 1e-3}\n")
    given = parsed("fidelity", "--config", tmp_path / "options.yaml")
    assert (given["on"], given["card"], given["chance"]) == ("value", True, False)
    assert given["explainer_options"] == '{"n": 0.001}'
    (tmp_path / "options.yaml").write_text("folder: a\nlanguage: [no, en]\n")
    assert list(parsed("card", "--config", tmp_path / "options.yaml")["language"]) == ["no", "en"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fidelity", {"studnt": "a"}, "unknown option 'studnt'. Did you mean 'student'?"),
        ("fidelity", {"more": ["a"]}, "unknown option 'more'"),
        ("fidelity", {"samples": [1, 2]}, "'samples' takes one value, not [1, 2]"),
        ("fidelity", {"card": "perhaps"}, "'card' is true or false, not 'perhaps'"),
        ("fidelity", {"samples": "many"}, "Invalid value for '--samples'"),
        ("fidelity", {"target": "top"}, "is not one of 'teacher_top', 'label'"),
        (
            "distill",
            {"demo": "vit", "learning_rat": 1},
            "there is no option --learning_rat. Did you mean --learning_rate",
        ),
    ],
)
def test_wrong_options_of_a_file(config, capsys, name, options, message):
    """Prevents: a misspelt option of a file that silently keeps its default."""
    assert run(name, *config(**options)) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert run(name, "--config", "nowhere.yaml") == 2


# --- Beside progress bars ---------------------------------------------------------------------------------------------


def test_warnings_stand_above_a_bar(watched, monkeypatch):
    """Prevents: a warning in the middle of a bar's line, which leaves a torn bar behind; transformers' advice."""
    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)
    terminal = watched()
    logger, handler = get_logger("hf_e2kd.test_command"), logging.StreamHandler(terminal)
    logging.getLogger("transformers").addHandler(handler)
    try:
        with beside_progress_bars(), tqdm(total=2, desc="Measuring", ncols=40, file=terminal) as bar:
            warnings.showwarning("first", UserWarning, "labels.py", 1)
            logger.warning("second")
            transformers_logging.get_logger("transformers.trainer").warning("advice")
            bar.update()
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    lines = terminal.getvalue().replace("\r", "\n").split("\n")
    assert "labels.py:1: UserWarning: first" in lines and "second" in lines and "advice" not in terminal.getvalue()
    assert all(line.startswith("Measuring:") for line in lines if "|" in line)
    assert logging.getLogger("transformers.hf_e2kd").level == logging.NOTSET


def test_bars_and_states_are_for_those_who_watch(watched, monkeypatch):
    """Prevents: bars in a log file, or gone from a user's process afterwards; a command that is silent for seconds."""
    terminal = watched()
    with beside_progress_bars():
        assert transformers_logging.is_progress_bar_enabled() and not are_progress_bars_disabled()
    status("hf-e2kd: loading …")
    assert terminal.getvalue() == "hf-e2kd: loading …\n"
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with beside_progress_bars():
        assert not transformers_logging.is_progress_bar_enabled() and are_progress_bars_disabled()
    assert transformers_logging.is_progress_bar_enabled() and not are_progress_bars_disabled()
    status("hf-e2kd: loading …")
    assert sys.stderr.getvalue() == ""


def test_each_bar_says_what_it_is_of(watched, tmp_path):
    """Prevents: two bars of which nobody knows what they count; a bar left open by a measurement."""
    terminal = watched()
    settings = {"disable_tqdm": False, "eval_strategy": "steps", "eval_steps": 2}
    trainer = distiller(build("resnet"), build("resnet", seed=1), tmp_path, settings)
    (progress,) = [each for each in trainer.callback_handler.callbacks if isinstance(each, ProgressCallback)]
    trainer.train()
    measure_fidelity(trainer, costs=False)
    bars = {line.split(":")[0] for line in terminal.getvalue().replace("\r", "\n").split("\n") if "it/s]" in line}
    assert {"Training", "Evaluation", "Fidelity"} <= bars
    assert progress.prediction_bar is None


def test_loading_is_said_at_once(watched, monkeypatch):
    """Prevents: seconds of imports before the first line."""
    terminal = watched()
    said = []
    monkeypatch.setattr("hf_e2kd.cli.load_command", lambda name: said.append(terminal.getvalue()) or exit())
    with pytest.raises(SystemExit):
        main(["fidelity"])
    assert said == ["hf-e2kd: loading …\n"]


def test_an_explainer_is_named_where_it_explained():
    """Prevents: "explained by gradcam" beside a file that gives logits alone."""
    assert "explained by" in fidelity.as_table(image_record())
    decisions = image_record(figures={"agreement": MetricValue(0.9)}, chance={}, held_out=[], faithfulness=None)
    assert "explained by" not in fidelity.as_table(decisions)


def test_similarity_at_chance_is_said():
    """Prevents: a similarity that means nothing, without a word."""
    record = image_record()
    assert "not clearly above chance" not in fidelity.as_table(record)
    close = image_record(chance={"shuffled": MetricValue(0.87, 0.86, 0.88, 1000)})
    assert fidelity.as_table(close).endswith(
        "The similarity is not clearly above chance: a chance level reaches its interval."
    )
    low = HeldOutRecord(
        {"name": "occlusion", "options": {}},
        {"explanation_similarity": MetricValue(0.5, 0.4, 0.6, 1000)},
        chance={"shuffled": MetricValue(0.45, 0.4, 0.5, 1000)},
    )
    table = fidelity.as_table(image_record(held_out=[low]))
    assert table.endswith("By occlusion the similarity is not clearly above chance.")
