"""A recipe as a program: its command line, with the options of --config FILE.yaml, and how its errors end it."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..cards.escaping import escape_controls
from ..config_file import expanded
from ..errors import errors_of_users, sentence_of
from ..logs import without_progress_bars

Result = TypeVar("Result")


def command_line(*options: type, arguments: Sequence[str] | None = None) -> list[str]:
    """Return the words of a command line, in which the options of --config FILE.yaml come before all others.

    A wrong file ends the program with its usage, as `argparse` does.

    Args:
        options: Data classes of the options that there are; without them none is checked.
        arguments: Command line without the program's name; the process's own by default.

    Example:

        words = command_line(ScriptArguments, ExplanationDistillArguments)
        script, args = parser.parse_args_into_dataclasses(words)
    """
    known = [field.name for kind in options for field in fields(kind) if field.init]
    try:
        return expanded(sys.argv[1:] if arguments is None else arguments, known or None)
    except ValueError as error:
        argparse.ArgumentParser(usage="%(prog)s [--config FILE.yaml] [--OPTION VALUE]...").error(str(error))


def surroundings() -> dict[str, Any]:
    """Return training arguments that depend on where a program runs: progress bars are for a terminal, and pinned
    memory is for an accelerator, without which torch warns of it at each data loader."""
    return {
        "disable_tqdm": not sys.stderr.isatty(),
        "dataloader_pin_memory": torch.accelerator.is_available(),
    }


def run_recipe(recipe: Callable[..., Result], *arguments: Any) -> Result:
    """Run a recipe as a program, which an error that its user can mend ends in one sentence, as it ends `hf-e2kd`.

    HF_E2KD_DEBUG=1 in the environment shows the traceback instead.

    Args:
        recipe: Function of the recipe.
        arguments: Arguments of the function.

    Returns:
        The function's result.

    Raises:
        SystemExit: 1 after such an error, 130 after an interruption; 2 where the command line was wrong.

    Example:

        if __name__ == "__main__":
            run_recipe(main)
    """
    program = Path(sys.argv[0]).name
    try:
        with nullcontext() if sys.stderr.isatty() else without_progress_bars():
            return recipe(*arguments)
    except KeyboardInterrupt as error:
        print(f"\n{program}: interrupted", file=sys.stderr)
        raise SystemExit(130) from error
    except errors_of_users() as error:
        if os.environ.get("HF_E2KD_DEBUG", "0") not in ("", "0"):
            raise
        told = f"{program}: error: {sentence_of(error)}\nHF_E2KD_DEBUG=1 in the environment shows the traceback."
        print(escape_controls(told), file=sys.stderr)
        raise SystemExit(1) from error
