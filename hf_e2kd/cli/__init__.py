"""The command line `hf-e2kd`. A command is a function in a file of its own, and a line in `COMMANDS`.

Nothing heavy is imported before a command is chosen, so that the list of commands is there at once.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..errors import errors_of_users, sentence_of
from ..version import __version__
from .command import Command
from .output import echo, echo_traceback, escaped_messages, status

COMMANDS = {
    "blind": "Score the answers to a blind test: which of two models' explanations people chose.",
    "card": "Write a student's model card anew, with the figures of its fidelity.json, and publish it if asked to.",
    "distill": "Distil a student that looks where its teacher looks, and measure both.",
    "explain": "Explain a classifier's decisions on images or texts: its top classes, and what they rest on.",
    "export": "Export a classifier as an ONNX file or a torch.export archive, with its explanation if asked to.",
    "fidelity": "Measure how faithful a student is to a teacher, without training: any two classifiers of images or "
    "of texts.",
    "gate": "Test requirements on a record's figures, without measuring; the exit code is 3 where one isn't met.",
    "store": "Store a teacher's logits and explanations of a data set, so that students train without the teacher.",
    "viewer": "Show what teacher and student decide and where they look, side by side.",
}
"""The first line of each command's docstring, by the name of its module and function."""


class _Commands(TyperGroup):
    """Put the command itself in the place of its line, once it is chosen."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands with their whole lines."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        if name is not None and "--help" not in rest:
            status("hf-e2kd: loading …")  # torch and transformers alone take seconds
        return name, None if name is None else load_command(name), rest


def load_command(name: str) -> Any:
    """Import a command's module and read its options from its function."""
    module = import_module(f".{name}", __name__)
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    single.command(name, cls=Command, context_settings=getattr(module, "PASSED_ON", None))(getattr(module, name))
    return typer.main.get_command(single)


app = typer.Typer(
    cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
for _name, _help in COMMANDS.items():
    app.command(_name, help=_help)(lambda: None)


def _print_version(wanted: bool) -> None:
    if wanted:
        echo(f"hf-e2kd {__version__}")
        raise typer.Exit


@app.callback()
def settings(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="HF_E2KD_DEBUG", help="Show errors with their traceback.")
    ] = False,
) -> None:
    """Explanation-enhanced knowledge distillation (e²KD) for Hugging Face models."""
    context.ensure_object(dict)["debug"] = debug


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Arguments without the program's name; the process's own by default.

    Raises:
        SystemExit: 0 on success, 1 on an error, which stands in one line on stderr, 2 on a wrong usage, 130 after an
            interruption.
    """
    # Of this command alone, not of the next one of the same process.
    chosen: dict[str, bool] = {}
    try:
        with escaped_messages():
            app(arguments, prog_name="hf-e2kd", obj=chosen)
    except Exception as error:
        if chosen.get("debug") or not isinstance(error, errors_of_users()):
            sys.excepthook = echo_traceback
            raise
        echo(f"hf-e2kd: error: {sentence_of(error)}", err=True)
        raise SystemExit(1) from None
