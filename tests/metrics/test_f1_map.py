import math

import pytest
import torch

from hf_e2kd.metrics import f1_map


def test_f1_by_hand():
    """A logit of exactly 0 is predicted, as in the official code: 2 right, 1 wrong, 1 missed."""
    logits = torch.tensor([[0.0, -1.0], [2.0, 3.0]])
    labels = torch.tensor([[1, 1], [0, 1]])

    assert f1_map(logits, labels)["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))


def test_average_precision_by_hand():
    """Ranked: right, wrong, right; the precisions at the two hits are 1 and 2/3."""
    result = f1_map(torch.tensor([[3.0], [2.0], [1.0]]), torch.tensor([[1], [0], [1]]))

    assert result["average_precision"] == pytest.approx([(1 + 2 / 3) / 2])
    assert result["map"] == pytest.approx((1 + 2 / 3) / 2)


def test_a_class_without_a_positive_is_left_out_of_the_mean(recwarn):
    """scikit-learn gives it 0 and warns, which would lower the mean by how small the test set is."""
    result = f1_map(torch.tensor([[3.0, 0.0], [2.0, 1.0]]), torch.tensor([[1, 0], [0, 0]]))

    assert result["map"] == 1
    assert math.isnan(result["average_precision"][1])
    assert not recwarn.list


def test_nothing_true_and_nothing_predicted():
    result = f1_map(torch.full((2, 2), -1.0), torch.zeros(2, 2))

    assert result["f1"] == 0
    assert math.isnan(result["map"])


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.rand(2, 3), torch.zeros(2, 2), "one shape"),
        (torch.rand(2), torch.zeros(2), r"\(B, C\)"),
        (torch.rand(2, 2), torch.tensor([[0, 2], [1, 0]]), "0 and 1 alone"),
        (torch.full((1, 1), float("nan")), torch.zeros(1, 1), "logits holds NaN"),
    ],
)
def test_other_inputs_are_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        f1_map(logits, labels)
