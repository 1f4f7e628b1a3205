"""The list of samples: similarity by chance, orders, filters and the summary."""

from dataclasses import replace

import datasets
import pytest
import torch

from hf_e2kd.explainers import build_explainer
from hf_e2kd.fidelity.chance import shuffle_nonzero
from hf_e2kd.metrics import explanation_similarity
from hf_e2kd.viewer.listing import ANY_CLASS, arrange, browse, chance_level, filters, orders, summary
from hf_e2kd.viewer.settings import Samples, Settings, Viewing

from .pairs import SENTENCE, image_pair, photo, text_pair
from .test_report import compared


def named(teacher, student, **changes):
    found = compared(**{"label": "eel", "meant": frozenset({"eel", "eel, snake"}), **changes})
    sides = {"teacher": replace(found.teacher, names=[teacher]), "student": replace(found.student, names=[student])}
    sides["student"] = replace(sides["student"], top=[0 if teacher == student else 2])
    return replace(found, **sides)


SAMPLES = [
    named("tench", "eel, snake", position=0, file="b.png", similarity=0.9, chance=0.25),
    named("eel", "eel", position=4, file="A.png", similarity=0.1),
    named("eel", "tench", position=2, file="c.png", similarity=None),
    named("tench", "tench", position=7, file="d.png", similarity=0.5),
]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [0, 2, 4, 7]),
        ({"order": "Similarity, lowest first"}, [4, 7, 0, 2]),
        ({"order": "Similarity, highest first"}, [0, 7, 4, 2]),
        ({"order": "File name"}, [4, 0, 2, 7]),
        ({"kept": "Classes differ"}, [0, 2]),
        ({"kept": "Classes agree"}, [4, 7]),
        ({"kept": "Teacher wrong"}, [0, 7]),
        ({"kept": "Student wrong"}, [2, 7]),
        ({"kept": "Student alone wrong"}, [2]),
        ({"kept": "Both wrong"}, [7]),
        ({"named": "tench"}, [0, 2, 7]),
        ({"words": " a.PNG"}, [4]),
    ],
)
def test_orders_and_filters(changed, expected):
    """Prevents: another sample shown than was asked for, or an empty map taken for the most or least similar."""
    asked = {"order": "Disagreement", "kept": "All", "named": ANY_CLASS, "words": ""} | changed
    assert [each.position for each in arrange(SAMPLES, **asked)] == expected


def test_summary():
    """Prevents: an accuracy over samples whose class isn't known, or a similarity that counts empty maps as 0."""
    assert summary([*SAMPLES, replace(SAMPLES[0], meant=frozenset(), similarity=None)]) == {
        "Samples": "5",
        "Same class": "2 of 5 (40 %)",
        "Teacher right": "2 of 4 (50 %)",
        "Student right": "2 of 4 (50 %)",
        "Explanation similarity": "0.50 on average (by chance 0.25)",
    }


def test_chance_of_images():
    """Prevents: a chance level of the samples' own maps, or of maps at another size than the similarity's."""
    pair = image_pair()
    features = datasets.Features({"image": datasets.Image()})
    data = datasets.Dataset.from_dict({"image": [photo(seed=seed) for seed in range(3)]}, features=features)
    settings = Settings("teacher", "student", dataset="data")
    viewing = Viewing(settings, pair, {"gradcam": build_explainer("gradcam")}, Samples(data, pair, settings))

    listing = browse(viewing)

    found = {each.position: each for each in listing.comparisons}
    students, teachers = (
        torch.stack([getattr(found[place], side).map for place in places])
        for side, places in (("student", [0, 1, 2]), ("teacher", [1, 2, 0]))
    )
    expected = explanation_similarity(students, teachers, (48, 48))[0].mean().item()
    assert listing.chance == pytest.approx(expected, abs=1e-5)
    assert {each.chance for each in listing.comparisons} == {listing.chance}
    assert orders(listing, scores=False)[0] == "Disagreement" and "File name" not in orders(listing, scores=False)
    assert filters(listing) == ["All", "Classes differ", "Classes agree"]
    assert chance_level(pair, listing.comparisons[:1]) is None


def test_a_row_without_words_is_left_out():
    """Prevents: "The text is empty. Type a sentence." in the place of a report, for one blank row of its data."""
    pair = text_pair()
    data = datasets.Dataset.from_dict({"text": [SENTENCE, "  ", None]})
    settings = Settings("teacher", "student", dataset="data")
    listing = browse(Viewing(settings, pair, {"saliency": build_explainer("saliency")}, Samples(data, pair, settings)))
    assert listing.positions == [0]
    assert listing.left_out == [
        "Row 1 was left out: The column 'text' holds '  ' there, no text.",
        "Row 2 was left out: The column 'text' holds None there, no text.",
    ]


def test_chance_of_texts():
    """Prevents: words compared with another text's, which has others and not as many."""
    pair = text_pair()
    found = pair.compare([SENTENCE, "A warm film"], build_explainer("saliency"))
    generator = torch.Generator().manual_seed(0)
    values = [pair.similarity(each.student.map, shuffle_nonzero(each.teacher.map, generator)) for each in found]
    assert chance_level(pair, found) == pytest.approx(sum(values) / 2)


def test_small_comparisons_draw_the_same_maps():
    """Prevents: thumbnails of other maps than the comparison's, or maps kept at full size for every sample."""
    (found,) = image_pair().compare([photo()], build_explainer("gradcam"))
    small = found.small()
    assert max(small.sample.size) == 112 and tuple(small.teacher.map.shape) == small.sample.size[::-1]
    peak = divmod(int(small.teacher.map.argmax()), small.teacher.map.shape[1])
    height, width = found.teacher.map.shape
    row, column = peak[0] * height // small.sample.height, peak[1] * width // small.sample.width
    assert found.teacher.map[row, column] == found.teacher.map.max()
    assert small.similarity == found.similarity
