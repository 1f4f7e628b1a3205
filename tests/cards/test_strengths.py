"""Maps as they are drawn: smoothed and clipped where they are fine."""

import pytest
import torch

from hf_e2kd.cards.strengths import drawn_strengths, smoothed


def test_coarse_maps_are_divided_by_their_maximum():
    maps = torch.tensor([[[-1.0, 2.0], [4.0, 0.0]], [[-1.0, 0.0], [0.0, 0.0]]])

    assert torch.equal(drawn_strengths(maps, (2, 2)), torch.tensor([[[0, 0.5], [1, 0]], [[0, 0], [0, 0]]]))


def test_a_fine_map_is_smoothed_by_a_gaussian_of_a_56th_of_its_side():
    """Prevents: a kernel that is cut too short, or one of a fixed number of pixels."""
    peak = torch.zeros(1, 112, 112)
    peak[0, 56, 56] = 1

    drawn = smoothed(peak)[0]

    steps = torch.arange(-6, 7)
    expected = torch.exp(-(steps**2) / (2 * 2.0**2))
    expected /= expected.sum()
    torch.testing.assert_close(drawn[56, 50:63], expected[6] * expected)
    torch.testing.assert_close(drawn[50:63, 56], expected[6] * expected)
    assert drawn.sum().item() == pytest.approx(1, abs=1e-5)


def test_a_fine_map_is_clipped_at_the_99th_percentile_of_its_positive_values():
    """Prevents: a map of which one pixel is seen, as those of gradients are when they are divided by their maximum."""
    ramp = torch.arange(1.0, 101).expand(100, 100).clone()
    ramp[:, :50] = -1

    drawn = drawn_strengths(ramp[None], (100, 100))[0]
    blurred = smoothed(ramp[None])[0]
    positive = blurred[blurred > 0].sort().values
    place = 0.99 * (len(positive) - 1)
    low, high = positive[int(place)], positive[int(place) + 1]
    percentile = low + (place - int(place)) * (high - low)

    torch.testing.assert_close(drawn, (blurred / percentile).clamp(0, 1))


def test_empty_fine_maps_stay_empty():
    assert not drawn_strengths(torch.zeros(1, 64, 64), (64, 64)).any()
    assert not drawn_strengths(-torch.ones(1, 64, 64), (64, 64)).any()


def test_narrow_fine_maps():
    """Prevents: a kernel that reaches further than the padding can mirror."""
    assert drawn_strengths(torch.rand(1, 2, 448), (4, 448)).shape == (1, 4, 448)
