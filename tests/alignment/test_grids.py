"""Maps of different grids."""

import pytest
import torch
from torch.nn import functional as F

from hf_e2kd.alignment import (
    enlarged_coordinates,
    enlargement_matrix,
    resize_maps,
    sample_maps,
    to_common_grid,
)


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


UNMOVED = torch.tensor([[1.0, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize("size", [(4, 4), (7, 9), (2, 3)])
def test_an_unmoved_view_is_only_resized(size):
    """Prevents: maps changed by an augmentation that moves nothing, if only in the last digit."""
    maps = torch.rand(3, 2, 4, 4)
    # As several crops and flips that undo each other leave it.
    matrix = UNMOVED.expand(3, -1, -1) + 1e-7 * torch.randn(3, 2, 3)

    sampled, inside = sample_maps(maps, matrix, size)

    assert torch.equal(sampled, resize_maps(maps, size))
    assert inside.shape == (3, *size)
    assert inside.all()


def test_each_sample_has_a_view_of_its_own():
    """Prevents: one sample's matrix used for the batch, or x taken for y."""
    maps = torch.arange(12.0).reshape(1, 3, 4).repeat(3, 1, 1)
    matrix = torch.stack(
        [UNMOVED, torch.tensor([[-1.0, 0, 0], [0, 1, 0]]), torch.tensor([[0.25, 0, 0.25], [0, 1 / 3, 0]])]
    )

    sampled, _ = sample_maps(maps, matrix, (3, 4))
    cell, _ = sample_maps(maps, matrix, (1, 1))

    torch.testing.assert_close(sampled[:2], torch.stack([maps[0], maps[0].flip(-1)]))
    # The third looks at the cell in row 1 and column 2, 6 of 0 to 11, alone.
    assert cell[2].item() == pytest.approx(6.0)
    assert sampled[2].mean().item() == pytest.approx(6.0)


def test_borders_and_the_outside():
    """Prevents: cells counted that show what filled a turned image, or what lies beside the map."""
    half = torch.tensor([[1.0, 0, 1.0], [0, 1, 0]])
    border = torch.tensor([[0.0, 2, 0], [0, 0, 0]])

    _, right = sample_maps(torch.rand(1, 4, 4), half[None], (4, 4))
    _, middle = sample_maps(torch.rand(1, 4, 4), torch.cat([half, border])[None], (4, 4))

    assert right[0].tolist() == [[True, True, False, False]] * 4
    assert middle[0].tolist() == [[False] * 4, *[[True, True, False, False]] * 2, [False] * 4]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_places_keep_their_precision_in_mixed_precision(dtype):
    """Prevents: places rounded to three digits, which moves every map."""
    maps, matrix = torch.rand(2, 14, 14), torch.tensor([[[0.7123, 0.1, 0.1], [0.1, 0.5, 0.2]]]).expand(2, -1, -1)
    expected, _ = sample_maps(maps, matrix, (14, 14))

    with torch.autocast("cpu", dtype):
        sampled, _ = sample_maps(maps, matrix, (14, 14))

    assert torch.equal(sampled, expected)


@pytest.mark.parametrize(("grid", "size"), [((7, 7), (224, 224)), ((3, 5), (32, 33)), ((1, 9), (4, 4))])
def test_enlargement_matrices_enlarge(grid, size):
    """Prevents: a matrix of aligned corners, transposed, or of another precision."""
    maps = torch.randn(2, *grid, dtype=torch.float64)
    rows, columns = (enlargement_matrix(*sides, torch.float64) for sides in zip(grid, size, strict=True))

    expected = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(rows @ maps @ columns.mT, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("other", [(4, 5), (7, 3), (1, 1), (40, 40)])
def test_coordinates_keep_inner_products_and_means(other):
    """Prevents: a similarity of the small maps, which weigh their border cells otherwise than the enlarged ones."""
    size = (32, 40)
    maps = torch.randn(2, 4, 5, dtype=torch.float64), torch.randn(2, *other, dtype=torch.float64)
    first, second = enlarged_coordinates(*maps, size)
    large = [F.interpolate(each[:, None], size, mode="bilinear")[:, 0] for each in maps]

    for one, another in ((0, 0), (0, 1), (1, 1)):
        found, expected = ((pair[one] * pair[another]).sum((1, 2)) for pair in ((first, second), large))
        torch.testing.assert_close(found, expected)
    means = large[0].mean((1, 2))
    torch.testing.assert_close(first[:, 0, 0].abs(), means.abs() * (32 * 40) ** 0.5)


def test_coordinates_made_in_inference_mode_serve_a_training():
    """Prevents: a training that fails since an earlier evaluation has filled the cache with inference tensors."""
    with torch.inference_mode():
        enlarged_coordinates(torch.rand(1, 3, 3), torch.rand(1, 2, 2), (19, 19))
    student = torch.rand(1, 3, 3, requires_grad=True)

    enlarged_coordinates(student, torch.rand(1, 2, 2), (19, 19))[0].square().sum().backward()

    assert student.grad.all()


def test_coordinates_keep_their_precision_in_mixed_precision():
    """Prevents: products in half precision under autocast, by which equal maps would differ."""
    maps = torch.rand(1, 3, 3), torch.rand(1, 4, 4)
    expected = enlarged_coordinates(*maps, (16, 16))

    with torch.autocast("cpu", torch.bfloat16):
        found = enlarged_coordinates(*maps, (16, 16))

    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
