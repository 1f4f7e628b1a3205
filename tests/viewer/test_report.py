"""The pictures, and the page that holds them."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from hf_e2kd.explainers import build_explainer
from hf_e2kd.viewer.comparison import Comparison, Reading
from hf_e2kd.viewer.drawing import STUDENT, TEACHER, draw_difference, draw_map, place_of
from hf_e2kd.viewer.markup import DifferenceRow, comparison_section
from hf_e2kd.viewer.overview import caption
from hf_e2kd.viewer.report import report_page, write_report

from .pairs import SENTENCE, image_pair, photo, text_pair

HOSTILE = """<img src=x onerror=alert(1)>"'&{{value}}${1}`"""
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Checks that elements are closed in their order, and collects them."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def reading(name, map, index=0):
    return Reading([index, 1], [0.75, 0.05], [name, "other"], 0.25, map)


def compared(teacher=None, student=None, **changes):
    maps = [torch.eye(3) if map is None else map for map in (teacher, student)]
    sides = {"teacher": reading("tench", maps[0]), "student": reading("eel", maps[1], 2)}
    explained = {"explained": "tench", "explained_class": 0, "explainer": "gradcam"}
    return Comparison(**{"sample": photo(), **sides, **explained, "similarity": 0.5, **changes})


def test_maps_over_images():
    """Prevents: a map drawn upside down, or colours where the map is empty or 0."""
    image, map = Image.new("RGB", (80, 80)), torch.zeros(2, 2)
    map[0, 1] = 1

    drawn, empty = (np.asarray(draw_map(image, each)) for each in (map, torch.zeros(2, 2)))

    assert tuple(drawn[0, -1]) == (253, 231, 37, 255)  # the end of viridis
    assert drawn[-1, 0, 3] == 0 and not empty[..., 3].any()


def test_differences_over_images():
    """Prevents: student and teacher exchanged, or colour where both look alike."""
    drawn = np.asarray(draw_difference(Image.new("RGB", (80, 40)), torch.tensor([[1.0, 0.0, -1.0]])))

    assert tuple(drawn[0, 0]) == (*STUDENT, 255) and tuple(drawn[0, -1]) == (*TEACHER, 255)
    assert drawn[0, 40, 3] == 5  # half a pixel beside the middle, .019 of 255


@pytest.mark.parametrize(
    ("cell", "place"), [((0, 0), "top left"), ((3, 6), "in the centre"), ((6, 12), "bottom right")]
)
def test_places_in_words(cell, place):
    """Prevents: a description for those who can't see the picture that names another place."""
    map = torch.zeros(7, 13)
    map[cell] = 1
    assert place in place_of(map)


def test_agreement_is_said_in_words():
    """Prevents: agreement that is seen by colour alone, or said of classes that differ."""
    differ, same = compared(), compared(student=torch.zeros(3, 3))
    same = replace(same, student=replace(same.student, top=[0, 1], names=["tench", "other"]))

    assert "✗ Different classes: the teacher chooses <b>tench</b>, the student <b>eel</b>." in comparison_section(
        differ
    )
    page = comparison_section(same)
    assert "✓ Same class: both choose <b>tench</b>." in page and "empty map" in page
    assert "75 %" in page and "5.0 %" in page


def test_synonyms():
    """Prevents: a right answer called wrong since the folder has one of its names, or a line of Latin names."""
    names = "tench, Tinca tinca"
    found = compared(label="Tinca_tinca", meant=frozenset({names}), explained=names)
    found = replace(found, teacher=replace(found.teacher, names=[names, "other"]))
    page = comparison_section(found)
    assert "teacher ✓ right · student ✗ wrong" in page
    assert f'the teacher chooses <b><span title="{names}">tench</span></b>' in page
    assert caption(found).startswith("✗ tench | eel")
    assert "✗ wrong" not in comparison_section(replace(found, meant=frozenset()))  # of a label space of its own


def test_small_differences_of_words_stay_small():
    """Prevents: rounding errors in full colour, where a row is drawn relative to its own maximum."""
    assert DifferenceRow("Difference", ["a", "b"], [1e-7, -0.5]).shares() == [1e-7, -0.5]


def test_nothing_comes_from_elsewhere(tmp_path):
    """Prevents: a report that shows nothing without a network, or runs what a label says."""
    hostile = compared(
        explained=HOSTILE, label=HOSTILE, notes=[HOSTILE], teacher=torch.zeros(2, 2), similarity=None, position=7
    )
    hostile = replace(hostile, student=replace(hostile.student, names=[HOSTILE, HOSTILE]))

    path = write_report(tmp_path / "new", report_page([hostile, compared()], {HOSTILE: HOSTILE}, notes=[HOSTILE]))

    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert {tag for tag, _ in page.found}.isdisjoint({"script", "link", "iframe", "object"})
    assert all(attributes["href"].startswith("#comparison-") for attributes in page.all("a"))
    assert not re.search(r"https?://|@import|url\(", text)
    assert not any(name.startswith("on") for _, attributes in page.found for name in attributes)
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(ids) == len(set(ids)) and set(ids) == {"comparison-1", "comparison-2"}
    assert sum(HOSTILE in found for found in page.texts) >= 7
    for attributes in page.all("img"):
        content = base64.b64decode(attributes["src"].split(";base64,")[1])
        with Image.open(BytesIO(content)) as image:
            assert image.size == (int(attributes["width"]), int(attributes["height"]))
    assert len(page.all("img")) == 2 * (4 + 3 + 1)
    assert "Row 7" in page.texts and "0 of 2 (0 %)" in page.texts


def test_texts():
    """Prevents: a report of texts without their words, or a crash at one of which no word is seen whole."""
    pair = text_pair()
    found = pair.compare([SENTENCE, "A warm film"], build_explainer("saliency"))
    nothing = replace(found[1], words=[], similarity=None)
    nothing = replace(nothing, **{side: replace(getattr(found[1], side), map=torch.zeros(0)) for side in pair.models})

    page = Page(report_page([*found, nothing], {}))

    assert [text for text in page.texts if text.startswith("Scores of text")] == [
        f"Scores of text {number} in numbers" for number in (1, 2, 3)
    ]
    for word in found[0].words:
        assert page.texts.count(word) >= 4  # teacher, student, difference and the table


def test_a_real_comparison():
    """Prevents: parts that fit each other's tests and not each other."""
    found = image_pair().compare([photo(), photo(30, 90, seed=1)], build_explainer("gradcam"))
    assert len(Page(report_page(found, {"Teacher": "vit"})).all("img")) == 2 * (4 + 3 + 1)


def test_an_empty_report_says_why():
    """Prevents: an empty page where no sample could be opened."""
    with pytest.raises(ValueError, match=r"no comparison to report\. Row 3 was left out"):
        report_page([], {}, notes=["Row 3 was left out: damaged."])
