"""Texts come out as what they are, whatever markup or codes they hold."""

import json

import pytest

from hf_e2kd.cards.escaping import LONGEST, code, escape_controls, escape_html, hub_link, python_string, text

STEERING = ["\x1b[31mred", "\x1b]0;title\x07", "\x9b2J", "a\rb", "a\x08b", "a\x00b", "\u202egpj.exe", "\ud800"]


@pytest.mark.parametrize("value", STEERING)
def test_controls(value):
    """Prevents: a label that colours, clears or renames somebody's terminal, or that can't be printed; JSON that reads
    otherwise than it was written."""
    escaped = escape_controls(value)
    assert escaped.isprintable() and "\\u" in escaped
    assert json.loads(escape_controls(json.dumps([value], ensure_ascii=False))) == [value]
    assert code(value).isprintable() and escape_html(value).isprintable()


def test_what_is_no_control():
    """Prevents: layouts, and texts of other scripts, that are changed: joined letters and emoji among them."""
    value = "a\tb\nc é 狗 नमस्ते 👩\u200d🚀 \u05d0"
    assert escape_controls(value) == value


def test_html():
    """Prevents: a label that is markup of a page."""
    assert escape_html("<b a='\"'>\x1b") == "&lt;b a=&#x27;&quot;&#x27;&gt;\\u001b"


def test_markdown():
    """Prevents: words that needn't be code, or markup that isn't."""
    assert text("RandomResizedCrop(224), flip") == "RandomResizedCrop(224), flip"
    assert text("a|b`c") == "`a¦bˋc`"
    assert text(" \n\x00") == "`(empty)`"
    assert len(text("x y" * 500)) == LONGEST


def test_hub_link(tmp_path, monkeypatch):
    """Prevents: a link to somebody else's repository from a folder of its name."""
    assert hub_link("me/vit") == "[`me/vit`](https://huggingface.co/me/vit)"
    assert hub_link("me/data", "datasets/") == "[`me/data`](https://huggingface.co/datasets/me/data)"
    (tmp_path / "models/vit").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_link("models/vit") == "`models/vit`" and hub_link("../vit") == "`../vit`"


def test_python_string():
    """Prevents: a name that is code in a card's code."""
    assert python_string("gradcam") == '"gradcam"'
    assert python_string('x"); evil("\n```') == repr('x"); evil("\n```')
