"""Properties of the metrics, over random inputs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_e2kd.metrics import (
    agreement,
    energy_pointing_game,
    explanation_similarity,
    localization_iou,
    negative_flips,
    pointing_accuracy,
    score_correlations,
)
from hf_e2kd.metrics.running import RunningMeans, SampleValues

SEEDS = st.integers(0, 10_000)
SCALES = st.floats(1e-30, 1e30)


def maps(seed, *shape, signed=True):
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return made if signed else made.abs()


@given(SEEDS, st.integers(1, 6), st.integers(1, 6), SCALES, SCALES)
def test_similarity(seed, h, w, scale, other_scale):
    """Prevents: a similarity above 1, one that depends on a map's scale, or on which side is called the student."""
    first, second = maps(seed, 3, h, w), maps(seed + 1, 3, h, w)
    values, valid = explanation_similarity(first, second)
    assert valid.all() and (values.abs() <= 1 + 1e-6).all()
    torch.testing.assert_close(explanation_similarity(second, first)[0], values)
    torch.testing.assert_close(explanation_similarity(first * scale, second * other_scale)[0], values)
    torch.testing.assert_close(explanation_similarity(first, first * scale)[0], torch.ones(3))
    torch.testing.assert_close(explanation_similarity(first, -first)[0], -torch.ones(3))


@given(SEEDS, st.integers(1, 5), st.integers(1, 5), st.integers(1, 3))
def test_localisation(seed, h, w, enlarged):
    """Prevents: shares outside [0, 1], and a mask of everything or nothing that isn't all or none of the energy."""
    found = maps(seed, 4, h, w)
    masks = maps(seed + 1, 4, h * enlarged, w * enlarged) > 0
    for values in (
        energy_pointing_game(found, masks),
        localization_iou(found, masks),
        pointing_accuracy(found, masks).float(),
    ):
        assert ((values >= 0) & (values <= 1 + 1e-6)).all()
    inside, outside = energy_pointing_game(found, masks), energy_pointing_game(found, ~masks)
    has_energy = energy_pointing_game(found, torch.ones_like(masks)) > 0
    torch.testing.assert_close((inside + outside)[has_energy], torch.ones(int(has_energy.sum())))
    assert (energy_pointing_game(found, torch.zeros_like(masks)) == 0).all()


@given(SEEDS, st.integers(2, 6))
def test_decisions(seed, classes):
    """Prevents: an agreement that isn't symmetric, or flips among samples on which both models agree."""
    student, teacher = maps(seed, 9, classes), maps(seed + 1, 9, classes)
    labels = maps(seed + 2, 9, classes).argmax(1)
    agree = agreement(student, teacher)
    assert torch.equal(agree, agreement(teacher, student)) and agreement(student, student * 2 + 1).all()
    assert (negative_flips(student, teacher, labels)[agree] == 0).all()
    assert (negative_flips(student, student, labels) == 0).all()


@given(SEEDS, st.floats(0.1, 100), st.floats(-100, 100))
def test_correlations(seed, stretch, shift):
    """Prevents: correlations outside [−1, 1], or that depend on a score's unit."""
    first, second = maps(seed, 8).double(), maps(seed + 1, 8).double()
    found = score_correlations(first, second)
    assert found == pytest.approx(score_correlations(second, first))
    assert found == pytest.approx(score_correlations(first * stretch + shift, second), abs=1e-9)
    assert all(abs(value) <= 1 + 1e-9 for value in found.values())
    assert score_correlations(first, -first) == pytest.approx({"pearson": -1.0, "spearman": -1.0})


@given(SEEDS, st.lists(st.integers(1, 5), min_size=1, max_size=5), st.booleans())
def test_any_split_into_batches(seed, sizes, several):
    """Prevents: means that depend on the batches' sizes, or in which a sample without a value counts."""
    values = maps(seed, sum(sizes), 2) if several else maps(seed, sum(sizes))
    values[maps(seed + 1, *values.shape) > 1] = math.nan
    for meter in (RunningMeans(lambda rows: rows), SampleValues(lambda rows: rows)):
        for part in values.split(sizes):
            meter.update({"figure": part})
        expected = values.nanmean().item()
        assert meter.means() == pytest.approx({} if math.isnan(expected) else {"figure": expected}, abs=1e-6)
