"""Maps of different grids."""

import pytest
import torch
from torch.nn import functional as F

from hf_e2kd.alignment import resize_maps, to_common_grid


def test_equal_grids_stay():
    """Prevents: a resampling that blurs maps which fit already."""
    maps = torch.rand(2, 4, 4)

    assert resize_maps(maps, (4, 4)) is maps
    assert to_common_grid(maps, maps) == (maps, maps)


@pytest.mark.parametrize(
    ("first", "second", "common"),
    [((4, 4), (7, 7), (7, 7)), ((7, 7), (4, 4), (7, 7)), ((4, 8), (6, 6), (6, 8)), ((1, 1), (3, 2), (3, 2))],
)
def test_larger_grid_of_each_side(first, second, common):
    """Prevents: the finer map shrunk to the coarser one's grid, where its places are lost."""
    one, other = to_common_grid(torch.rand(2, *first), torch.rand(2, *second))

    assert one.shape == other.shape == (2, *common)


def test_bilinear():
    """Prevents: corners aligned, which shifts a map against the image."""
    maps = torch.rand(2, 3, 5)

    expected = F.interpolate(maps[:, None], (6, 10), mode="bilinear", align_corners=False)[:, 0]

    torch.testing.assert_close(resize_maps(maps, (6, 10)), expected)
    torch.testing.assert_close(resize_maps(torch.full((1, 2, 2), 3.0), (5, 7)), torch.full((1, 5, 7), 3.0))


def test_leading_axes_stay():
    """Prevents: maps of several targets mixed up."""
    maps = torch.rand(2, 3, 4, 4)

    resized = resize_maps(maps, (6, 6))

    assert resized.shape == (2, 3, 6, 6)
    torch.testing.assert_close(resized[1, 2], resize_maps(maps[1, 2][None], (6, 6))[0])


def test_gradient_passes():
    """Prevents: a student with the coarser grid that learns nothing."""
    maps = torch.rand(1, 3, 3, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda student: to_common_grid(student, torch.zeros(1, 5, 4).double())[0], (maps,))
