"""Tallies of network dissection, worked out by hand."""

import pytest
import torch

from hf_e2kd.metrics.dissection import (
    ConceptTally,
    best_concepts,
    concept_ious,
    count_detectors,
    tally_image,
)

# Four pixels; concepts 0 and 1 of category 0, 2 of category 1 (the whole image), none of category 2.
ACTIVATIONS = torch.tensor([[0.7, 0.6, 0.1, 0.5], [0.0, 0.0, 0.0, 2.0], [3.0, 3.0, 3.0, 3.0]])
THRESHOLDS = torch.tensor([[0.5, 1.0, 3.0], [0.6, 1.5, 4.0]])
CONCEPTS = torch.tensor([[0, 1, 1, 0], [0, 0, 1, 0], [1, 1, 1, 1]]).bool()
CATEGORIES = torch.tensor([0, 0, 1])


@pytest.mark.parametrize(
    ("tally", "activated"),
    [
        ("category", [[[2, 2, 0], [1, 1, 0], [0, 0, 0]], [[1, 1, 0], [1, 1, 0], [0, 0, 0]]]),
        ("official", [[[2, 2, 0], [0, 1, 0], [0, 0, 0]], [[0, 1, 0], [0, 1, 0], [0, 0, 0]]]),
    ],
)
def test_one_image(tally, activated):
    """The second unit's region, which has no pixel of category 0, counts for it by the plain reading alone.

    Thresholds that are reached but not exceeded, and two of them that are counted as one.
    """
    found = tally_image(ACTIVATIONS, THRESHOLDS, CONCEPTS, CATEGORIES, 3, tally)
    assert found.activated.tolist() == activated
    assert found.both.tolist() == [[[1, 0, 2], [0, 0, 1], [0, 0, 0]], [[0, 0, 1], [0, 0, 1], [0, 0, 0]]]
    assert found.labelled.tolist() == [2, 1, 4]


def test_ious_and_best_concepts():
    """IoUs of concepts without pixels, of units without regions, and a best concept where there is none."""
    tally = ConceptTally(torch.tensor([[2, 2], [0, 0]]), torch.tensor([[1, 0, 2], [0, 0, 0]]), torch.tensor([2, 0, 4]))
    ious = concept_ious(tally, torch.tensor([0, 0, 1]))
    torch.testing.assert_close(ious, torch.tensor([[1 / 3, 0, 0.5], [0, 0, 0]], dtype=torch.float64))
    places, best, second = best_concepts(ious)
    assert places.tolist() == [2, -1]
    torch.testing.assert_close(best, torch.tensor([0.5, 0], dtype=torch.float64))
    torch.testing.assert_close(second, torch.tensor([1 / 3, 0], dtype=torch.float64))


def test_best_of_one_concept():
    """Data with a single concept, which has no second one."""
    places, best, second = best_concepts(torch.tensor([[0.5]]))
    assert (places.tolist(), best.tolist(), second.tolist()) == ([0], [0.5], [0.0])


def test_counts():
    """Unique by concepts and by units with one concept alone, and a threshold that is reached but not exceeded."""
    concepts, categories = ["a", "a", "b", "b", None], ["object", "object", "object", "part", None]
    found = count_detectors(concepts, categories, [0.3, 0.2, 0.05, 0.1, 0], [0.1, 0.0, 0, 0.05, 0], 0.05, ["scene"])
    assert (found.total, found.unique, found.single) == (3, 2, 2)
    assert found.categories == {"scene": 0, "object": 2, "part": 1}


def test_bad_input_is_refused():
    """Tallies, shapes and thresholds that would count nothing or everything."""
    with pytest.raises(ValueError, match="no tally 'plain'. Choose from: category, official"):
        tally_image(ACTIVATIONS, THRESHOLDS, CONCEPTS, CATEGORIES, 2, "plain")
    with pytest.raises(ValueError, match=r"must be \(U, pixels\)"):
        tally_image(ACTIVATIONS[:, :3], THRESHOLDS, CONCEPTS, CATEGORIES, 2)
    with pytest.raises(ValueError, match=r"must be \(U, pixels\)"):
        tally_image(ACTIVATIONS, THRESHOLDS[:, :2], CONCEPTS, CATEGORIES, 2)
    for threshold in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="from 0 up to 1"):
            count_detectors(["a"], ["b"], [0.3], [0.0], threshold)
