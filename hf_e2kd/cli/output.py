"""Output of the commands, without control characters in names, labels and records that could steer the terminal."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def escaped_messages() -> Iterator[None]:
    """Escape the control characters of warnings and log records too, which name classes and columns."""
    formatted, created = warnings.formatwarning, logging.getLogRecordFactory()

    def escaped_record(*arguments: Any, **settings: Any) -> logging.LogRecord:
        record = created(*arguments, **settings)
        record.msg = escape_controls(record.msg) if isinstance(record.msg, str) else record.msg
        if isinstance(record.args, tuple):
            record.args = tuple(escape_controls(each) if isinstance(each, str) else each for each in record.args)
        return record

    warnings.formatwarning = lambda *arguments, **settings: escape_controls(formatted(*arguments, **settings))
    logging.setLogRecordFactory(escaped_record)
    try:
        yield
    finally:
        warnings.formatwarning = formatted
        logging.setLogRecordFactory(created)
