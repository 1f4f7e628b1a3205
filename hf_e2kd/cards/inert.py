"""Text of others, made inert: names, labels and options that come out as what they are, whatever they hold.

What a class or a data set is called may be markup of YAML, Markdown, HTML or a template, or be very long.
"""

import re
import unicodedata
from typing import Any

from ..hub import is_hub_id

LONGEST = 120
"""Characters that are shown of a text."""

# No character of these begins, or is part of, any markup, nor are they made a link where addresses are.
_PLAIN = re.compile(r"(?:[^\W_]|[ ,;()%×·²³→–…-]|\.(?=[ \d]|$)|(?<=\w)[/+](?=\w))+")
_STAND_INS = str.maketrans({"|": "¦", "`": "ˋ"})


def one_line(value: Any, longest: int = LONGEST) -> str:
    """A value as one line without control characters, cut where it is too long."""
    kept = (
        "" if unicodedata.category(character)[0] == "C" else character for character in re.sub(r"\s", " ", str(value))
    )
    text = " ".join("".join(kept).split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def code(value: Any) -> str:
    """A value in a code span, wherever Markdown allows one: in a table and in a heading too.

    A vertical bar and a backtick, which would end the cell or the span, are shown by characters that look like them.
    """
    return f"`{one_line(value).translate(_STAND_INS) or '(empty)'}`"


def text(value: Any) -> str:
    """A value as it is, if it is words and numbers only, else in a code span."""
    line = one_line(value)
    return line if _PLAIN.fullmatch(line) else code(line)


def hub_link(identifier: str, kind: str = "model") -> str:
    """A link to a model or a data set on the Hub, where it can be one."""
    if not is_hub_id(identifier):
        return code(identifier)
    return f"[{code(identifier)}](https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{identifier})"
