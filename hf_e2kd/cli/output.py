"""Output of the commands, without control characters in names, labels and records that could steer the terminal."""

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import typer

from ..cards.escaping import escape_controls

_LOGGERS = ("transformers", "datasets", "huggingface_hub", "accelerate")


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print text or JSON, with its control characters escaped.

    Args:
        text: Text of one or more lines.
        err: True to print to stderr.
        nl: True to add a newline.
    """
    typer.echo(escape_controls(text), err=err, nl=nl)


def one_line(value: object) -> str:
    """Write a name on one line, whatever line breaks it has: what follows would be taken for lines of the command's."""
    return " ".join(str(value).split())


def echo_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error with its traceback to stderr: a `sys.excepthook`."""
    echo("".join(traceback.format_exception(kind, error, trace)), err=True, nl=False)


def require_folder(folder: Path) -> None:
    """Refuse, before anything is computed, a folder that couldn't be made or written to in the end."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise typer.BadParameter(f"'{there}' is a file, and files are to be written into the folder '{folder}'.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise typer.BadParameter(f"files are to be written into '{folder}', and nothing may be written in '{there}'.")


def status(text: str) -> None:
    """Print what is being done to stderr, where somebody watches it."""
    if sys.stderr.isatty():
        echo(text, err=True)


@contextmanager
def beside_progress_bars(debug: bool = False) -> Iterator[None]:
    """Write warnings and log records above progress bars, show none of these where nobody watches, and leave
    transformers' own advice out.

    Args:
        debug: Keep transformers' records, as also where TRANSFORMERS_VERBOSITY asks for them.
    """
    from ..logs import without_progress_bars  # which imports transformers

    own, library = logging.getLogger("transformers.hf_e2kd"), logging.getLogger("transformers")
    levels = own.level, library.level
    if not (debug or os.environ.get("TRANSFORMERS_VERBOSITY")):
        own.setLevel(own.getEffectiveLevel())
        library.setLevel(logging.ERROR)
    try:
        with _above_bars() if sys.stderr.isatty() else without_progress_bars():
            yield
    finally:
        own.setLevel(levels[0])
        library.setLevel(levels[1])


@contextmanager
def _above_bars() -> Iterator[None]:
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    def show(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        text = warnings.formatwarning(message, category, filename, lineno, line)
        tqdm.write(text, file=sys.stderr if file is None else file, end="")

    shown, warnings.showwarning = warnings.showwarning, show
    try:
        with logging_redirect_tqdm([logging.getLogger(name) for name in (None, *_LOGGERS)]):
            yield
    finally:
        warnings.showwarning = shown


@contextmanager
def escaped_messages() -> Iterator[None]:
    """Escape the control characters of warnings and log records too, which name classes and columns."""
    formatted, created = warnings.formatwarning, logging.getLogRecordFactory()

    def escaped_record(*arguments: Any, **settings: Any) -> logging.LogRecord:
        record = created(*arguments, **settings)
        # Whole, because exceptions and other objects among its arguments have texts of their own.
        record.msg, record.args = escape_controls(record.getMessage()), None
        return record

    warnings.formatwarning = lambda *arguments, **settings: escape_controls(formatted(*arguments, **settings))
    logging.setLogRecordFactory(escaped_record)
    try:
        yield
    finally:
        warnings.formatwarning = formatted
        logging.setLogRecordFactory(created)
