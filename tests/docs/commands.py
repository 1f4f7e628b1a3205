"""Command lines of the pages, read by the parsers that would read them, and not run."""

import argparse
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import MagicMock, patch

import typer.core
from accelerate.commands.launch import launch_command_parser
from transformers import HfArgumentParser

from hf_e2kd import ExplanationDistillArguments
from hf_e2kd.cli import app, load_command
from hf_e2kd.experiments import parse_experiment
from hf_e2kd.experiments.demos import BERT_ON_REVIEWS, VIT_ON_DIGITS

ROOT = Path(__file__).parents[2]
SHELL = {"cd", "cp", "exit", "export", "head", "mkdir", "scontrol", "test"}
"""Commands of the shell and of SLURM, of which `bash -n` reads the syntax."""


class ParsedError(BaseException):
    """Ends a program when its command line is read. No `Exception`, which a program may catch."""


def check_shell(block: str) -> None:
    """Checks the syntax of a block and each command in it.

    Raises:
        AssertionError: saying which line is wrong, or that a command is not known here.
    """
    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stderr} in\n{block}"
    for line in block.replace("\\\n", " ").splitlines():
        check_line(line)


def check_line(line: str) -> None:
    loop = re.fullmatch(r"\s*for (\w+) in (.*?);\s*do (.*?);?\s*done\s*", line)
    if loop:
        for value in loop[2].split():
            check_line(loop[3].replace(f"${loop[1]}", value))
        return
    # What the shell or SLURM would fill in; a number, which every option takes.
    line = re.sub(r"\$\(\(.*?\)\)|\$\{?\w+\}?", "1", line)
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("|&;"):
            if words:
                check_command(words)
            words = []
        else:
            words.append(word)


def check_command(words: list[str]) -> None:
    # A variable that is set for the command alone.
    program, *rest = words[1:] if re.fullmatch(r"\w+=\S*", words[0]) and len(words) > 1 else words
    name = program.rsplit("/", 1)[-1]
    if name == "srun":
        check_shell(rest[rest.index("-c") + 1])
    elif name in CHECKS:
        print("checking", shlex.join(words))
        CHECKS[name](rest)
    elif program.startswith("."):
        assert (ROOT / program).is_file(), f"There is no {program}."
    else:
        assert name in SHELL, f"Nobody knows how to check '{name}' in {shlex.join(words)}. Add it to {__file__}."


def check_script(words: list[str]) -> None:
    """`python SCRIPT …`: the script runs until its command line is read."""
    script, *options = words
    if script == "train.py":  # the reader's own
        HfArgumentParser(ExplanationDistillArguments).parse_args_into_dataclasses(options)  # type: ignore[arg-type]
        return

    def parsed(parser: argparse.ArgumentParser, *given: object, **keywords: object) -> None:
        known, unknown = parser.parse_known_args()
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        raise ParsedError

    def into_dataclasses(parser: HfArgumentParser, *given: object, **keywords: object) -> None:
        own(parser, *given, **keywords)
        raise ParsedError

    own = HfArgumentParser.parse_args_into_dataclasses
    with (
        patch.object(argparse.ArgumentParser, "parse_args", parsed),
        patch.object(HfArgumentParser, "parse_args_into_dataclasses", into_dataclasses),
        patch.object(sys, "argv", [script, *options]),
        # As Python does for a script, which may import what lies beside it.
        patch.object(sys, "path", [str((ROOT / script).parent), *sys.path]),
        patch.dict(sys.modules, {name: module for name, module in INSTALLED.items() if find_spec(name) is None}),
    ):
        _expect_parsed(lambda: runpy.run_path(str(ROOT / script), run_name="__main__"), words)


def check_launch(words: list[str]) -> None:
    """`accelerate launch … SCRIPT …`."""
    assert words[0] == "launch", f"accelerate {words[0]} is no launch."
    given = launch_command_parser().parse_args(words[1:])
    if given.config_file is not None:
        # NAME stands for any of them.
        assert list(ROOT.glob(given.config_file.replace("NAME", "*"))), f"There is no {given.config_file}."
    if given.module:
        assert given.training_script == "hf_e2kd.cli"
        check_cli(given.training_script_args)
    else:
        check_script([given.training_script, *given.training_script_args])


def check_uv(words: list[str]) -> None:
    """`uv run SCRIPT …`."""
    assert words[0] == "run", f"uv {words[0]} is no run."
    check_script(words[1:])


def check_cli(words: list[str]) -> None:
    """`hf-e2kd …`: the command itself is not called."""

    def called(**_: object) -> None:
        raise ParsedError

    def load_uncalled(name: str) -> typer.core.TyperCommand:
        command = load_command(name)
        command.callback = called
        return command

    with patch("hf_e2kd.cli.load_command", load_uncalled):
        _expect_parsed(lambda: app(words, prog_name="hf-e2kd"), ["hf-e2kd", *words])
    if words[0] == "distill" and "--help" not in words:
        # What it doesn't know itself, it passes on to the parser of the training.
        _check_training(load_command("distill").make_context("distill", words[1:]).args)


def _check_training(options: list[str]) -> None:
    for setting in (VIT_ON_DIGITS, BERT_ON_REVIEWS):
        sources = [word for name in setting.required for word in (f"--{name}", "x")]
        with suppress(SystemExit):
            parse_experiment(setting, "distill", "", arguments=[*sources, *options])
            return
    raise AssertionError(f"hf-e2kd distill has no options {shlex.join(options)}; see above.")


def check_make(words: list[str]) -> None:
    """`make …`: what it would run is read too, as far as it is a recipe."""
    # Without what a `make test ARGS=…` that runs this hands on to the makes below it.
    own = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKEOVERRIDES", "ARGS")}
    done = subprocess.run(["make", "--dry-run", *words], cwd=ROOT, env=own, capture_output=True, text=True)
    assert done.returncode == 0, f"make {shlex.join(words)}: {done.stderr}"
    for line in done.stdout.replace("\\\n", " ").splitlines():
        if ("recipes/" in line and "launch" in line) or "hf-e2kd" in line:
            check_line(line)


INSTALLED: dict[str, MagicMock] = {}
"""Modules of the packages that a page has its readers install, and that the tests do without."""


def check_install(words: list[str]) -> None:
    """`pip install …`: nothing is installed, but what follows may import it."""
    assert words[0] == "install" and len(words) > 1, f"pip {shlex.join(words)} installs nothing."
    names = [name.replace("-", "_") for name in words[1:]]
    # A path or a requirement with extras names no module, as in `pip install -e '.[dev]'`.
    INSTALLED.update({name: MagicMock() for name in names if name.isidentifier()})


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "accelerate": check_launch,
    "hf-e2kd": check_cli,
    "make": check_make,
    "pip": check_install,
    "python": check_script,
    "uv": check_uv,
}


def _expect_parsed(program: Callable[[], object], words: list[str]) -> None:
    try:
        program()
    except ParsedError:
        return
    except SystemExit as error:
        if "--help" in words and error.code == 0:
            return
        raise AssertionError(f"{shlex.join(words)} is refused (exit {error.code}); see above.") from error
    raise AssertionError(f"{shlex.join(words)} ran to its end without reading its command line.")
