"""Escaping: names, labels and options come out as the text that they are, whatever markup or codes they hold.

What a class or a data set is called may be markup of YAML, Markdown, HTML or a template, codes that steer a terminal,
or very long.
"""

import html
import json
import re
import unicodedata
from typing import Any

from markupsafe import Markup

from ..hub.ids import is_hub_id

LONGEST = 120
"""Characters that are shown of a text."""

# No character of these begins, or is part of, any markup, nor are they made a link where addresses are.
_PLAIN = re.compile(r"(?:[^\W_]|[ ,;()%×·²³→–…-]|\.(?=[ \d]|$)|(?<=\w)[/+](?=\w))+")
_STAND_INS = str.maketrans({"|": "¦", "`": "ˋ"})
# C0 and C1 controls but for tab and newline, directions that mirror what follows, separators, and halves of characters.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escape_controls(value: Any) -> str:
    """Write the control characters of a text as `\\u001b`, so that it steers no terminal.

    JSON that holds them reads the same afterwards.

    Example:
        >>> escape_controls("\\x1b[31mcat")
        '\\\\u001b[31mcat'
    """
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", str(value))


def escape_html(value: Any) -> str:
    """Write a text for a page of HTML, or for an attribute in it."""
    return html.escape(escape_controls(value))


def one_line(value: Any, longest: int = LONGEST) -> str:
    """Write a value as one line without control characters, cut where it is too long."""
    kept = (
        "" if unicodedata.category(character)[0] == "C" else character for character in re.sub(r"\s", " ", str(value))
    )
    text = " ".join("".join(kept).split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def code(value: Any) -> Markup:
    """Write a value as a code span, wherever Markdown allows one: in a table and in a heading too.

    A vertical bar and a backtick, which would end the cell or the span, are shown by characters that look like them.
    """
    return Markup(f"`{one_line(value).translate(_STAND_INS) or '(empty)'}`")


def json_code(value: Any) -> Markup:
    """Write the value of an option or argument as a code span."""
    return code(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def text(value: Any) -> Markup:
    """Write a value as it is, if it is words and numbers only, else as a code span."""
    line = one_line(value)
    return Markup(line) if _PLAIN.fullmatch(line) else code(line)


def hub_link(identifier: str, prefix: str = "") -> Markup:
    """Write an id as a link to the Hub, of a data set by the prefix `datasets/`; as code what can't be an id."""
    if not is_hub_id(identifier):
        return code(identifier)
    return Markup(f"[{code(identifier)}](https://huggingface.co/{prefix}{identifier})")


def python_string(value: Any) -> Markup:
    """Write a text as a Python string, in double quotes where it is a name."""
    name = str(value)
    return Markup(f'"{name}"' if name.isidentifier() else ascii(name))


def unless_escaped(value: Any) -> Any:
    """Escape by `text` what a template puts in, unless a filter has made Markdown of it."""
    return value if hasattr(value, "__html__") or value == "" else text(value)


def count(value: float, unit: str = "") -> str:
    """Write a number with its metric prefix.

    Example:
        >>> count(11_195_000), count(512, "B")
        ('11.2 M', '512 B')
    """
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.99995 * size:  # 999,960 is 1.0 M, and not 1000.0 k
            return f"{value / size:.1f} {prefix}{unit}"
    return f"{value:g} {unit}".rstrip()
