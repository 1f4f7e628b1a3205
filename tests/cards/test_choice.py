"""Samples of a picture, by a stated rule."""

import math

import torch

from hf_e2kd.cards.choice import at_quantiles, rule


def test_quantiles():
    """Prevents: the best samples, or the first, in a picture that stands for all."""
    values = torch.tensor([0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.6, 0.4, 0.5])
    assert [values[row].item() for row in at_quantiles(values, 1)] == [values[8].item()]
    assert at_quantiles(values, 3) == [3, 8, 2]
    assert at_quantiles(values, 9) == at_quantiles(values, 20) == [1, 3, 5, 7, 8, 6, 4, 2, 0]
    assert at_quantiles([math.nan, 1.0, math.nan], 2) == [1]
    assert at_quantiles([1.0, 1.0, 1.0], 1) == [1]  # in their order where values tie


def test_rule():
    assert rule(1, 64, "gain") == "Of 64 samples the one with the median gain."
    assert rule(2, 64, "gain") == "Of 64 samples those at the 1/4 and 3/4 quantile of gain, lowest first."
    assert rule(2, 2, "gain") == "All 2 samples, by gain, lowest first."
