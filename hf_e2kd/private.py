"""What is nobody's business: paths, tokens and the machine's name, kept out of what is published."""

import platform
import re
from dataclasses import fields
from functools import cache
from typing import Any

from transformers.utils import logging

logger = logging.get_logger(__name__)

LEFT_OUT = "(left out)"
"""Shown in the place of a text that holds something private."""

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
_VALUES = (
    *("image", "text", "single_label_classification", "multi_label_classification", "teacher_top", "shuffled"),
    *("TeacherReference", "StoredReference", "AnnotationReference", "explains", "kind", "options", "untrained"),
    *("train", "test", "validation", "local", "cuda", "localhost"),
)


def holds_secret(value: str) -> bool:
    """Whether a text holds a token or a path of someone's machine; the same on every machine."""
    return _PRIVATE.search(value) is not None


def is_private(value: str) -> bool:
    """Whether a text holds a token, a path of someone's machine, or this machine's name."""
    host = platform.node().lower()
    names = {name for name in (host, host.split(".")[0]) if len(name) > 3} - _common_words()
    return holds_secret(value) or any(
        re.search(rf"(?<!\w){re.escape(name)}(?!\w)", value, re.IGNORECASE) for name in names
    )


def without_private(values: Any, what: str = "model card") -> Any:
    """Dictionaries, lists and texts, without the texts that hold something private; a warning names their places.

    Args:
        what: From which they are left out, for the warning.
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
            "or this machine's name. Give another name to have it shown."
        )
    return found


@cache
def _common_words() -> frozenset[str]:
    """What records say of themselves, which tells nothing of a machine that happens to be called so."""
    # Their modules need this one.
    from .cards.measures import MEASURES
    from .explainers import available_explainers
    from .fidelity import record
    from .fidelity.describe import PACKAGES
    from .fidelity.training import ARGUMENTS

    parts = (record.FidelityRecord, record.ModelRecord, record.DataRecord, record.TrainingRecord)
    said = [field.name for part in (*parts, record.Figure, record.Cost) for field in fields(part)]
    said += [*MEASURES, *(measure.teacher or "" for measure in MEASURES.values()), *PACKAGES, *ARGUMENTS]
    said += [*_VALUES, *available_explainers()]
    return frozenset(word for name in said for word in (name.lower(), *name.lower().split("_")))
