"""The command line `hf-e2kd`. A command is a function in a file of its own, and a line in `COMMANDS`."""

import os
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
import typer
from datasets.exceptions import DatasetsError
from PIL.Image import DecompressionBombError

from . import card, distill, explain, fidelity, store, viewer
from .output import echo, escaped_messages

COMMANDS: tuple[Callable[..., Any], ...] = (
    card.card,
    distill.distill,
    explain.explain,
    fidelity.fidelity,
    store.store,
    viewer.viewer,
)

# What users can mend: the message says how. Anything else is a mistake of ours, and shows its traceback.
_EXPECTED = (ValueError, OSError, ImportError, DatasetsError, DecompressionBombError, torch.OutOfMemoryError)
_DEBUG = "HF_E2KD_DEBUG"

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
for command in COMMANDS:
    app.command(context_settings=distill.PASSED_ON if command is distill.distill else None)(command)


@app.callback()
def settings(
    debug: Annotated[bool, typer.Option("--debug", envvar=_DEBUG, help="Show errors with their traceback.")] = False,
) -> None:
    """Explanation-enhanced knowledge distillation (e²KD) for Hugging Face models."""
    if debug:
        os.environ[_DEBUG] = "1"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Without the program's name; the process's own by default.

    Raises:
        SystemExit: 0 on success, 1 on an error, which stands in one line on stderr, 2 on a wrong usage, 130 after an
            interruption.
    """
    given = os.environ.get(_DEBUG)
    try:
        with escaped_messages():
            app(arguments, prog_name="hf-e2kd")
    except _EXPECTED as error:
        if os.environ.get(_DEBUG):
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        echo(f"hf-e2kd: error: {message}", err=True)
        raise SystemExit(1) from None
    finally:
        # --debug is for this command alone, not for the next one of the same process.
        if given is None:
            os.environ.pop(_DEBUG, None)
