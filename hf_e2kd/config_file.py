"""Options from a YAML file, as `--config FILE.yaml` of every command and recipe names it."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .choices import did_you_mean

OPTION = "--config"


def read_config(path: str | Path, known: Iterable[str] | None = None) -> dict[str, Any]:
    """Read a file of options by name; dashes in names count as underscores, and options without a value are left out.

    Args:
        path: A YAML file, such as `learning_rate: 1e-4` in a line. As in YAML 1.2, `no` and `on` are texts.
        known: Names that there are; None to check none.

    Raises:
        ValueError: it isn't there, is no YAML, no mapping of options, or names an option twice or one that there isn't.
    """
    import yaml

    try:
        loader = _loader(Path(path).read_text(encoding="utf-8"))
        node = loader.get_single_node()
        content = None if node is None else loader.construct_document(node)
    except OSError as error:
        raise ValueError(f"The configuration '{path}' can't be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"The configuration '{path}' is no YAML: {' '.join(str(error).split())}.") from error
    content = {} if content is None else content
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"The configuration '{path}' should hold options by name, as 'dataset: photos' in a line.")
    names = [key.value.replace("-", "_") for key, _ in node.value] if content else []
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"The configuration '{path}' names '{twice}' twice. Leave one of both lines out.")
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


def _loader(text: str) -> Any:
    """Make a reader of YAML whose plain scalars are those of YAML 1.2, as far as options tell them apart.

    By YAML 1.1, which PyYAML reads, the strategy `no`, the language `no` and the option `on` are booleans, `012` is 10,
    and `1e-3` a text, which within JSON would stay one.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    kinds = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float")}
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in kinds]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    # Without a point an exponent has its sign: the commit 12e4567 is no number.
    numbers = (
        r"[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]\d+|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)"
    )
    for kind, pattern, first in (
        ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
        ("int", "[-+]?(?:0|[1-9][0-9_]*)", "-+0123456789"),
        ("float", numbers, "-+0123456789."),
    ):
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(f"(?:{pattern})$"), list(first))
    return Loader(text)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, Mapping) else str(value)
