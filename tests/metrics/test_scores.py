"""Correlations of scores."""

import math

import pytest
import torch

from hf_e2kd.metrics import score_correlations


def test_values_by_hand():
    """Prevents: the two exchanged; ties ranked by their place."""
    found = score_correlations(torch.tensor([1.0, 2.0, 2.0, 5.0]), torch.tensor([1.0, 3.0, 2.0, 4.0]))
    # Deviations −1.5, −.5, −.5, 2.5 and −1.5, .5, −.5, 1.5; ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4.
    assert found["pearson"] == pytest.approx(6.0 / math.sqrt(9.0 * 5.0))
    assert found["spearman"] == pytest.approx(4.5 / math.sqrt(4.5 * 5.0))


@pytest.mark.parametrize("scores", [[1.0], [2.0, 2.0, 2.0]])
def test_undefined_ones_are_nan(scores):
    """Prevents: a warning of scipy's, or a correlation of 0 or 1 where there is none."""
    reference = torch.arange(len(scores)).float()
    assert all(math.isnan(value) for value in score_correlations(torch.tensor(scores), reference).values())


def test_wrong_inputs_are_refused():
    with pytest.raises(ValueError, match="same samples"):
        score_correlations(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="NaN"):
        score_correlations(torch.tensor([0.0, math.nan]), torch.zeros(2))
