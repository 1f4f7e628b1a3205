"""Rendering of explained inputs: as text, as a picture, as a page, as JSON."""

import base64
import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from ..cards.escaping import escape_html
from ..cards.plots import explanation_panel
from ..cards.word_plots import WordRow, WordSample, gaps, word_page, word_plot
from .explained import Explained
from .output import one_line

PICTURES = (".png", ".jpg", ".jpeg", ".pdf", ".svg", ".webp")
LONGEST_WORD = 60  # characters of a word that are drawn


def as_text(explained: Explained) -> str:
    """Render the classes for a reader, and of a text the words that count most."""
    name = explained.name if isinstance(explained.name, str) else " / ".join(explained.name)
    name = one_line(name)
    name = name if len(name) <= 100 else f"{name[:99]}…"
    lines = [name, *(f"  {_strength(each):>6}  {one_line(each['class'])}" for each in explained.classes)]
    if explained.target["index"] != explained.classes[0]["index"]:
        lines.append(f"  explained: {one_line(explained.target['class'])} ({_strength(explained.target)})")
    if explained.words is not None:
        strongest = sorted(explained.scores(), key=lambda pair: -abs(pair[1]))[:5]
        lines.append("  words: " + ", ".join(f"'{_shortened(word)}' {score:+.3f}" for word, score in strongest))
    return "\n".join(lines)


def write(found: Sequence[Explained], path: Path, title: str, pictures: int) -> None:
    """Write a picture, a page or JSON, by the suffix."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        entries = [each.to_dict(with_map=True) for each in found]
        path.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
        return
    shown = found[:pictures]
    if shown[0].words is not None:
        samples = [_word_sample(each) for each in shown]
        if suffix == ".html":
            word_page(samples, path, title=title)
        else:
            word_plot(samples, path, title=title)
        return
    figure = explanation_panel(
        torch.stack([each.image for each in shown if each.image is not None]),
        {"Model": torch.stack([each.map for each in shown])},
        explained=[_explained(each) for each in shown],
        names=[Path(str(each.name)).name for each in shown],
        predictions={"Model": [_with_probability(each.classes[0]) for each in shown]},
    )
    if suffix != ".html":
        figure.savefig(path, dpi=150)
        return
    picture = BytesIO()
    figure.savefig(picture, dpi=150, format="png")
    rows = "".join(
        f"<tr><td>{escape_html(str(each.name))}<td>{escape_html(', '.join(map(_with_probability, each.classes)))}"
        for each in shown
    )
    page = _PAGE.format(
        title=escape_html(title), picture=base64.b64encode(picture.getvalue()).decode("ascii"), rows=rows
    )
    path.write_text(page, encoding="utf-8")


_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 56rem; margin: 0 auto; padding: 1rem; color: #1a1a1a;
  background: #fff; overflow-wrap: anywhere }} img {{ max-width: 100% }} td, th {{ text-align: start; padding: .2rem
  .6rem; border-bottom: 1px solid #c8c8c8 }}</style>
<h1>{title}</h1>
<img alt="Each image, and beside it where the model looks. The classes stand in the table below."
  src="data:image/png;base64,{picture}">
<table><thead><tr><th>image<th>top classes</thead><tbody>{rows}</tbody></table>
</html>
"""


def _explained(explained: Explained) -> str:
    return str(explained.target["class"])


def _with_probability(entry: dict[str, Any]) -> str:
    return f"{_strength(entry, 0)} {entry['class']}"


def _strength(entry: dict[str, Any], digits: int = 1) -> str:
    """A class's probability, or a model's score."""
    return f"{entry['probability']:.{digits}%}" if "probability" in entry else f"{entry['score']:.3f}"


def _shortened(word: str) -> str:
    return word if len(word) <= LONGEST_WORD else f"{word[: LONGEST_WORD - 1]}…"


def _word_sample(explained: Explained) -> WordSample:
    assert explained.words is not None
    words = [_shortened(word) for word in explained.words]
    # A pair's second text begins a line.
    whole = explained.name if isinstance(explained.name, str) else "\n".join(explained.name)
    between = gaps(whole, explained.words)
    text = "".join(part for pair in zip(between, [*words, ""], strict=True) for part in pair)
    row = WordRow("Model", words, [score for _, score in explained.scores()], _with_probability(explained.classes[0]))
    return WordSample(text, [row], explained=_explained(explained))
