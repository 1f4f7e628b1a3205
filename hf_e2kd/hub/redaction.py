"""Redaction: paths, tokens and this machine's name are kept out of what is published."""

import platform
import re
from typing import Any

from ..logs import get_logger

logger = get_logger(__name__)

LEFT_OUT = "(left out)"
"""Stands in the place of a text that holds something private."""

_PRIVATE = re.compile(
    "|".join(
        [
            # Tokens are no words: they have capitals or digits.
            r"(?<![A-Za-z0-9])(?:hf|api_org)_(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{10,}",
            r"(?<![A-Za-z0-9])(?:gh[opsu]_|github_pat_|glpat-|sk-)[\w-]{16,}",
            r"(?i:\b(?!https?:)[a-z][a-z0-9+.-]*://)",  # file:, s3: and their like
            r"(?i:\bhttps?://(?:[^\s/]*@|localhost|[\d.]+(?:[:/\s]|$)|\[))",
            r"(?<![\w/<])/[\w.~@-]*\w",  # an absolute path
            r"(?<!\w)~\w*[/\\]",
            r"\b[A-Za-z]:[\\/]",
            r"\\\\\w",
            r"(?i:(?:^|[\\/\s])(?:home|users)[\\/]\w)",
        ]
    )
)


def holds_secret(value: str) -> bool:
    """Tell whether a text holds a token or a path of someone's machine; the same on every machine."""
    return _PRIVATE.search(value) is not None


def is_private(value: str) -> bool:
    """Tell whether a text holds a token, a path of someone's machine, or an address of this one.

    This machine's name counts in addresses alone, as in `//name/share`, `http://name:8000` and `user@name:`, and with
    its domain: a machine may be called as a model, a data set or a metric is.
    """
    return holds_secret(value) or _names_this_machine(value, platform.node())


def _names_this_machine(value: str, node: str) -> bool:
    if not node:
        return False
    name, _, domain = node.partition(".")
    patterns = [rf"(?://|@){re.escape(name)}(?:\.(?:local|localdomain|lan|internal))?(?![\w.-])"]
    if domain:
        patterns.append(rf"(?<![\w-]){re.escape(node)}(?![\w-])")
    return re.search("|".join(patterns), value, re.IGNORECASE) is not None


def without_private(values: Any, what: str = "model card") -> Any:
    """Replace the texts that hold something private by `LEFT_OUT`; a warning names their places.

    Args:
        values: Dictionaries, lists and texts, within each other.
        what: The name of the whole, for the warning.

    Returns:
        A copy. Keys are texts too; two private ones of a dictionary are numbered.
    """
    places: list[str] = []

    def cleaned(value: Any, place: str) -> Any:
        if isinstance(value, dict):
            found: dict[Any, Any] = {}
            for key, part in value.items():
                shown = cleaned(key, place)
                shown = f"{shown} {len(found) + 1}" if shown in found else shown
                found[shown] = cleaned(part, f"{place}.{shown}".lstrip("."))
            return found
        if isinstance(value, list | tuple):
            return [cleaned(each, place) for each in value]
        if isinstance(value, str) and is_private(value):
            places.append(place)
            return LEFT_OUT
        return value

    found = cleaned(values, "")
    if places:
        logger.warning(
            f"The {what} leaves out what {', '.join(dict.fromkeys(places))} said, because it holds a path, a token "
            "or this machine's address. Give another name to have it shown."
        )
    return found
