"""Options from a YAML file, as `--config FILE.yaml` of every command and recipe names it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .choices import did_you_mean

OPTION = "--config"


def read_config(path: str | Path, known: Iterable[str] | None = None) -> dict[str, Any]:
    """Read a file of options by name; dashes in names count as underscores, and options without a value are left out.

    Args:
        path: A YAML file, such as `learning_rate: 1.0e-4` in a line.
        known: Names that there are; None to check none.

    Raises:
        ValueError: it isn't there, is no YAML, no mapping of options, or names an option that there isn't.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"The configuration '{path}' can't be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"The configuration '{path}' is no YAML: {' '.join(str(error).split())}.") from error
    content = {} if content is None else content
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"The configuration '{path}' should hold options by name, as 'dataset: photos' in a line.")
    options = {name.replace("-", "_"): value for name, value in content.items()}
    if known is not None:
        known = list(known)
        for name in options:
            if name not in known:
                close = did_you_mean(name, known)
                raise ValueError(
                    f"The configuration '{path}' has an unknown option '{name}'. {close or '--help lists the options.'}"
                )
    return {name: value for name, value in options.items() if value is not None}


def option_words(name: str, value: Any) -> list[str]:
    """Write an option as the words of a command line that `argparse` reads.

    Example:
        >>> option_words("terms", {"hint": {"weight": 0.5}}), option_words("bf16", True)
        (['--terms', '{"hint": {"weight": 0.5}}'], ['--bf16', 'true'])
    """
    return [f"--{name}", *map(_word, value)] if isinstance(value, list) else [f"--{name}", _word(value)]


def split_config(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into the files that --config names, and the other words.

    Raises:
        ValueError: --config without a file.
    """
    files, others, words = list[str](), list[str](), iter(arguments)
    for word in words:
        if word == OPTION:
            file = next(words, "")
            if not file or file.startswith("--"):
                raise ValueError(f"{OPTION} needs a file: {OPTION} FILE.yaml.")
            files.append(file)
        elif word.startswith(f"{OPTION}="):
            files.append(word.removeprefix(f"{OPTION}="))
        else:
            others.append(word)
    return files, others


def expanded(arguments: Sequence[str], known: Iterable[str] | None = None) -> list[str]:
    """Replace --config FILE by the file's options, before all others: those of the command line override them.

    Args:
        arguments: Words of a command line that `argparse` reads.
        known: Names of the options that there are; None to check none.

    Raises:
        ValueError: as `read_config`.
    """
    files, others = split_config(arguments)
    known = None if known is None else list(known)
    options: dict[str, Any] = {}
    for file in files:
        options |= read_config(file, known)
    return [*(word for name, value in options.items() for word in option_words(name, value)), *others]


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, Mapping) else str(value)
