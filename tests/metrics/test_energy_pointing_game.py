import pytest
import torch
from torch.nn import functional as F

from hf_e2kd.metrics import boxes_to_masks, energy_pointing_game
from hf_e2kd.terms.guidance import energy_loss


def test_share_by_hand():
    maps = torch.tensor([[[1.0, 3.0], [4.0, 2.0]]])
    masks = torch.tensor([[[True, False], [True, False]]])

    assert energy_pointing_game(maps, masks).tolist() == [0.5]


def test_signed_maps_are_enlarged_before_their_positive_part_is_taken():
    """Prevents: another order than the official metric's, which enlarges first."""
    masks = torch.tensor([[[1, 0, 0, 0]]])

    # Bilinear, cell centres aligned: [8, -8] becomes [8, 4, -4, -8], and [8, 0] becomes [8, 6, 2, 0].
    assert energy_pointing_game(torch.tensor([[[8.0, -8.0]]]), masks).item() == pytest.approx(8 / 12)
    assert energy_pointing_game(torch.tensor([[[8.0, 0.0]]]), masks).item() == pytest.approx(8 / 16)


def test_it_is_one_minus_the_energy_loss():
    """Prevents: a metric that says something else of signed maps than the loss (.1929 where the loss said .2001)."""
    maps, masks = torch.randn(40, 7, 7), torch.zeros(40, 224, 224, dtype=torch.bool)
    masks[:, 40:140, 60:160] = True

    torch.testing.assert_close(energy_pointing_game(maps, masks), 1 - energy_loss(maps, masks), atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_map_without_positive_energy_counts_zero(value):
    assert energy_pointing_game(torch.full((1, 2, 2), value), torch.ones(1, 4, 4)).tolist() == [0]


def test_empty_and_full_masks_give_zero_and_one():
    maps = torch.rand(2, 3, 3)
    masks = torch.stack([torch.zeros(6, 6), torch.ones(6, 6)])

    torch.testing.assert_close(energy_pointing_game(maps, masks), torch.tensor([0.0, 1.0]))


def test_an_even_map_scores_the_masks_share_of_the_image():
    masks = torch.zeros(1, 8, 8)
    masks[:, :2] = 1

    assert energy_pointing_game(torch.full((1, 2, 2), 5.0), masks).item() == pytest.approx(0.25)


def test_faint_maps_are_counted():
    maps = torch.tensor([[[1e-40, 3e-40]]])

    assert energy_pointing_game(maps, torch.tensor([[[0, 1]]])).item() == pytest.approx(0.75, abs=1e-3)


def test_enlarging_is_plain_bilinear():
    """The antialiasing that finer maps need must leave coarser ones as every other metric resizes them."""
    maps, masks = torch.rand(2, 3, 5, dtype=torch.float64), torch.rand(2, 9, 11) > 0.5
    enlarged = F.interpolate(maps[:, None], size=(9, 11), mode="bilinear")[:, 0]

    expected = (enlarged * masks).sum((1, 2)) / enlarged.sum((1, 2))
    torch.testing.assert_close(energy_pointing_game(maps, masks), expected)


def test_a_map_finer_than_the_mask_loses_no_cell():
    """Plain bilinear sampling from 8 to 2 cells would read cells 1 and 2 alone of each half and miss this one."""
    maps = torch.zeros(1, 1, 8)
    maps[..., 0] = 1

    assert energy_pointing_game(maps, torch.tensor([[[1, 0]]])).item() == pytest.approx(1)


def test_soft_masks_are_refused():
    with pytest.raises(ValueError, match="from 0.5 to 0.5 were found; threshold"):
        energy_pointing_game(torch.rand(1, 2, 2), torch.full((1, 2, 2), 0.5))


def test_nan_maps_are_refused():
    with pytest.raises(ValueError, match="maps holds NaN"):
        energy_pointing_game(torch.full((1, 2, 2), float("nan")), torch.ones(1, 2, 2))


def test_boxes_are_joined_cut_at_the_border_and_padding_is_left_out():
    boxes = torch.tensor(
        [
            [[0, 0, 2, 1], [1, 0, 3, 2], [-1, -1, -1, -1]],
            [[-5, 1, 1, 99], [-1, -1, -1, -1], [-1, -1, -1, -1]],
            [[-1, -1, -1, -1], [-1, -1, -1, -1], [-1, -1, -1, -1]],
        ]
    )

    assert boxes_to_masks(boxes, size=(3, 4)).int().tolist() == [
        [[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    ]


def test_a_pixel_is_inside_a_box_if_its_centre_is():
    boxes = torch.tensor([[[0.4, 0.0, 1.6, 1.0]]])

    assert boxes_to_masks(boxes, size=(1, 3)).int().tolist() == [[[1, 1, 0]]]


def test_boxes_as_width_and_height_are_refused():
    with pytest.raises(ValueError, match="Box 1 of sample 0 .* Convert boxes given as x, y, width, height"):
        boxes_to_masks(torch.tensor([[[0, 0, 1, 1], [10, 10, 5, 5]]]), size=(20, 20))


@pytest.mark.parametrize("shape", [(4,), (2, 4), (1, 2, 5)])
def test_other_box_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"boxes must have the axes \(B, N, 4\)"):
        boxes_to_masks(torch.zeros(shape), size=(2, 2))


def test_equals_quantus():
    """Against an independent implementation; `pip install 'hf-e2kd[quantus]'` brings it."""
    quantus = pytest.importorskip("quantus")
    maps, masks = torch.rand(10, 1, 16, 16), torch.rand(10, 1, 16, 16) > 0.5
    metric = quantus.RelevanceMassAccuracy(normalise=False, disable_warnings=True, display_progressbar=False)

    expected = metric(
        model=None, x_batch=maps.numpy(), y_batch=[0] * 10, a_batch=maps.numpy(), s_batch=masks.numpy().astype(int)
    )

    torch.testing.assert_close(energy_pointing_game(maps[:, 0], masks[:, 0]), torch.tensor(expected).float())
