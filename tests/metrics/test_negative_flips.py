"""Negative flips, and agreement where the teacher errs."""

import pytest
import torch

from hf_e2kd.metrics import agreement_where_teacher_errs, negative_flips

# By sample: both right, a flip, both wrong alike, both wrong otherwise, the student alone right, no label.
LABELS = torch.tensor([0, 0, 0, 0, 0, -100])
TEACHER = torch.eye(3)[[0, 0, 1, 1, 2, 0]]
STUDENT = torch.eye(3)[[0, 2, 1, 2, 0, 1]]
NAN = float("nan")


def test_values_by_hand():
    """Prevents: flips in both directions counted, or samples without a label counted as wrong."""
    flips = negative_flips(STUDENT, TEACHER, LABELS)
    mistakes = agreement_where_teacher_errs(STUDENT, TEACHER, LABELS)
    torch.testing.assert_close(flips, torch.tensor([0, 1, 0, 0, 0, NAN]), equal_nan=True)
    torch.testing.assert_close(mistakes, torch.tensor([NAN, NAN, 1, 0, 0, NAN]), equal_nan=True)


def test_a_copy_of_the_teacher_flips_nothing_and_repeats_every_mistake():
    """Prevents: sides that were taken for each other."""
    assert negative_flips(TEACHER, TEACHER, LABELS).nansum() == 0
    assert agreement_where_teacher_errs(TEACHER, TEACHER, LABELS).nanmean() == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(6, 3), r"labels must have the axes \(B,\)"),
        (torch.zeros(5).long(), "5 of the one and 6 of the other"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    """Prevents: labels of another batch, broadcast."""
    with pytest.raises(ValueError, match=message):
        negative_flips(STUDENT, TEACHER, labels)
