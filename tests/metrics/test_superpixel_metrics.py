"""Measures of two models' superpixel maps: values by hand, which samples count, what is refused."""

import pytest
import torch

from hf_e2kd.metrics import explanation_mse, superpixel_overlap

NAN = float("nan")


def test_explanation_mse_by_hand():
    """Prevents: a sum over the pixels, a difference without its square, or samples of other classes that count."""
    student = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]], [[9.0, 9.0], [9.0, 9.0]]])
    teacher = torch.tensor([[[0.0, 2.0], [1.0, 1.0]], [[1.0, -1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    counted = torch.tensor([True, True, False])
    expected = torch.tensor([(1 + 0 + 4 + 9) / 4, 0.5, NAN])
    torch.testing.assert_close(explanation_mse(student, teacher, counted), expected, equal_nan=True)
    assert explanation_mse(student, teacher)[2] == 81
    assert not explanation_mse(teacher.half(), teacher.half()).any()


@pytest.mark.parametrize(
    ("student", "teacher", "k", "expected"),
    [
        ([5.0, -4.0, 1.0], [2.0, -3.0, 0.5], 2, 1.0),
        ([5.0, -4.0, 1.0], [2.0, 3.0, 0.5], 2, 0.5),  # another sign
        ([5.0, -4.0, 1.0], [2.0, 0.1, 3.0], 2, 0.5),  # another superpixel
        ([5.0, -4.0, 1.0], [0.1, 2.0, 3.0], 1, 0.0),
        ([1.0, 0.0, 0.0], [1.0, 0.0, 0.0], 2, 0.5),  # zeros are important to neither
        ([0.0, 0.0, 0.0], [1.0, 2.0, 0.0], 2, 0.0),  # the student's map vanished
        ([1.0, 2.0, 0.0], [0.0, 0.0, 0.0], 2, NAN),  # the teacher's did
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], 2, 1.0),  # equal values
    ],
)
def test_superpixel_overlap_by_hand(student, teacher, k, expected):
    found = superpixel_overlap(torch.tensor([student]), torch.tensor([teacher]), k)
    torch.testing.assert_close(found, torch.tensor([expected]), equal_nan=True)


def test_chance_level_of_the_overlap():
    """The card's limit: two random pairs of 19 superpixels share 2/19, half of them with equal signs."""
    student, teacher = torch.randn(2, 20_000, 19, generator=torch.Generator().manual_seed(0))
    assert superpixel_overlap(student, teacher).mean().item() == pytest.approx(1 / 19, abs=0.004)


def test_samples_that_do_not_count():
    sums = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = superpixel_overlap(sums, sums, counted=torch.tensor([False, True]))
    torch.testing.assert_close(found, torch.tensor([NAN, 1.0]), equal_nan=True)


def test_refusals():
    maps, sums = torch.zeros(2, 3, 3), torch.ones(2, 4)
    with pytest.raises(ValueError, match=r"superpixel maps of one size, not \(2, 3, 3\) and \(2, 4, 3\)"):
        explanation_mse(maps, torch.zeros(2, 4, 3))
    with pytest.raises(ValueError, match="holds infinite values"):
        explanation_mse(maps, torch.full((2, 3, 3), float("inf")))
    with pytest.raises(ValueError, match="counted and student_maps must describe the same samples"):
        explanation_mse(maps, maps, torch.tensor([True]))
    with pytest.raises(ValueError, match=r"the same superpixels, not of the shapes \(2, 4\) and \(2, 5\)"):
        superpixel_overlap(sums, torch.ones(2, 5))
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"k must be from 1 to the number of superpixels, 4, not {k}"):
            superpixel_overlap(sums, sums, k)
