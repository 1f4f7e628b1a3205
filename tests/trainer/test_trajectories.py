"""Trainings of every kind of setting repeat the losses that were logged before the terms had modules of their own."""

import json

import pytest

from tests.trainer.trajectories import EXPECTED, SETTINGS, trajectory


@pytest.mark.parametrize("name", SETTINGS)
def test_the_logged_losses_stay(name):
    """Prevents: a term, weight, mean or random number that changed unnoticed when code moved."""
    # On the versions that recorded them they repeat to 1e-6.
    expected, found = json.loads(EXPECTED.read_text())[name], trajectory(name)
    assert found["evaluation"] == pytest.approx(expected["evaluation"], rel=1e-5)
    for step, values in zip(found["steps"], expected["steps"], strict=True):
        assert step == pytest.approx(values, rel=1e-5)
