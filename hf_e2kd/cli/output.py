"""Output of the commands, without control characters in names, labels and records that could steer the terminal."""

import logging
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import typer

from ..cards.escaping import escape_controls


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print text or JSON, with its control characters escaped.

    Args:
        text: Text of one or more lines.
        err: True to print to stderr.
        nl: True to add a newline.
    """
    typer.echo(escape_controls(text), err=err, nl=nl)


def echo_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error with its traceback to stderr: a `sys.excepthook`."""
    echo("".join(traceback.format_exception(kind, error, trace)), err=True, nl=False)


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
