import math

import numpy as np
import pytest
import torch

from hf_e2kd.metrics import pointing_accuracy


def test_by_hand():
    maps = torch.tensor([[[1.0, 3.0], [4.0, 2.0]], [[1.0, 5.0], [4.0, 2.0]], [[-9.0, -5.0], [-4.0, 1.0]]])
    masks = torch.tensor([[[True, False], [True, False]]]).repeat(3, 1, 1)

    assert pointing_accuracy(maps, masks).tolist() == [1, 0, 0]


def test_signed_maps_are_enlarged_before_their_positive_part_is_taken():
    """Prevents: a peak between negative cells that outshines a broader one, as in no other measure of the map."""
    maps = torch.tensor([[[-8.0, 4.0, -8.0, 3.0]]])

    # Bilinear: [-8, -2, 2, ..., 3]; the positive part first would give 10/3 in the third pixel and point there.
    assert pointing_accuracy(maps, torch.tensor([[[0, 0, 0, 0, 0, 1]]])).item() == 1


def test_equal_pixels_share_the_point():
    """The first of them would make an even map point at the upper left corner."""
    maps = torch.tensor([[[2.0, 2.0, 2.0, 0.0]]])

    assert pointing_accuracy(maps, torch.tensor([[[1, 0, 0, 1]]])).item() == pytest.approx(1 / 3)


def test_a_coarse_maps_corner_is_a_whole_corner():
    """Enlarging repeats the border: all 4×4 pixels of this corner are the largest, and a quarter of them is inside."""
    maps = torch.zeros(1, 2, 2)
    maps[0, 0, 1] = 0.7
    masks = torch.zeros(1, 16, 16)
    masks[0, :2, 14:] = 1

    assert pointing_accuracy(maps, masks).item() == pytest.approx(4 / 16)


def test_tolerance_is_a_distance():
    maps = torch.zeros(1, 9, 9)
    maps[0, 4, 4] = 1
    masks = torch.zeros(2, 9, 9)
    masks[0, 4, 7] = 1  # 3 away
    masks[1, 7, 7] = 1  # √18 = 4.24 away
    maps = maps.repeat(2, 1, 1)

    assert [pointing_accuracy(maps, masks, tolerance).tolist() for tolerance in (2, 3, 4, 5)] == [
        [0, 0],
        [1, 0],
        [1, 0],
        [1, 1],
    ]


def naive(attribution: np.ndarray, mask: np.ndarray, tolerance: int) -> float:
    row, column = np.unravel_index(attribution.argmax(), attribution.shape)
    distances = [math.hypot(row - y, column - x) for y, x in zip(*mask.nonzero(), strict=True)]
    return float(min(distances, default=math.inf) <= tolerance)


@pytest.mark.parametrize("tolerance", [0, 2, 5])
def test_equals_a_naive_implementation(tolerance):
    maps, masks = torch.randn(20, 8, 13), torch.rand(20, 8, 13) > 0.95

    expected = [naive(m.numpy(), k.numpy(), tolerance) for m, k in zip(maps, masks, strict=True)]

    assert pointing_accuracy(maps, masks, tolerance).tolist() == expected
    assert 0 < sum(expected) < 20


def test_equals_quantus():
    quantus = pytest.importorskip("quantus")
    maps, masks = torch.rand(10, 1, 16, 16).numpy(), (torch.rand(10, 1, 16, 16) > 0.5).numpy()
    metric = quantus.PointingGame(disable_warnings=True, display_progressbar=False)

    expected = metric(model=None, x_batch=maps, y_batch=np.zeros(10, int), a_batch=maps, s_batch=masks)

    found = pointing_accuracy(torch.from_numpy(maps[:, 0]), torch.from_numpy(masks[:, 0]))
    assert found.tolist() == [float(hit) for hit in expected]


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_map_without_positive_values_points_nowhere(value):
    assert pointing_accuracy(torch.full((1, 2, 2), value), torch.ones(1, 4, 4)).tolist() == [0]


def test_an_empty_mask_is_not_hit():
    assert pointing_accuracy(torch.rand(1, 3, 3), torch.zeros(1, 3, 3), tolerance=9).tolist() == [0]


def test_faint_maps_point_too():
    assert pointing_accuracy(torch.tensor([[[1e-40, 3e-40]]]), torch.tensor([[[0, 1]]])).tolist() == [1]


def test_a_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match="tolerance is -1. Give a number of pixels, from 0"):
        pointing_accuracy(torch.rand(1, 2, 2), torch.ones(1, 2, 2), -1)
