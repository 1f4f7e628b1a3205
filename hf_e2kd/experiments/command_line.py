"""The command line of a recipe, with the options of --config FILE.yaml."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields

from ..config_file import expanded


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
