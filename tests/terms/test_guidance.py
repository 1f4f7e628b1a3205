"""Losses between maps and masks: values by hand, gradients by differences, and what an empty map or mask does."""

import math

import pytest
import torch
from torch.nn import functional as F

from hf_e2kd.metrics import energy_pointing_game
from hf_e2kd.terms import available_guidance_losses, guidance, guidance_loss, register_guidance_loss

LOSSES = ["energy", "l1", "ppce", "rrr"]


def of(maps, mask, loss):
    return guidance_loss(torch.tensor([maps]), torch.tensor([mask]).bool(), loss).item()


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # The map (4, 1; -2, 3) over its maximum 4 is (1, .25; -.5, .75); the mask is the left column.
        ("energy", 1 - 4 / 8),  # positive part 4 + 1 + 3, of which 4 is inside
        ("l1", (0 + 0.25 + 1 + 0.75) / 4),
        ("ppce", (0 + 100) / 2),  # -log 1, and the limit where the positive part is 0
        ("rrr", 0.25**2 + 0.75**2),
    ],
)
def test_by_hand(loss, expected):
    """Prevents: another preparation or reduction than the table says."""
    assert of([[4.0, 1.0], [-2.0, 3.0]], [[1, 0], [1, 0]], loss) == pytest.approx(expected)


def test_ppce_of_positive_maps_by_hand():
    """Prevents: a mean over the whole image instead of the mask."""
    assert of([[4.0, 1.0], [2.0, 3.0]], [[1, 0], [1, 1]], "ppce") == pytest.approx((math.log(2) + math.log(4 / 3)) / 3)


def test_rrr_counts_negative_evidence_and_its_maximum():
    """Prevents: the positive part, or the largest value instead of the largest magnitude, in the signed loss."""
    assert of([[-4.0, 1.0], [2.0, 0.0]], [[0, 0], [1, 1]], "rrr") == pytest.approx(1 + 1 / 16)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_order_of_preparation(loss):
    """Prevents: an enlargement before the normalisation (its maximum is smaller), or after the raw map's clamp."""
    signed = torch.randn(3, 2, 2, dtype=torch.float64)
    masks = torch.rand(3, 7, 7) > 0.5

    def enlarged(maps):
        return F.interpolate(maps[:, None], size=(7, 7), mode="bilinear")[:, 0]

    positive = signed.clamp(min=0)
    normalised = enlarged(positive / positive.amax((1, 2), keepdim=True))
    raw = enlarged(signed).clamp(min=0)
    inside = masks.sum((1, 2))
    expected = {
        "energy": 1 - (raw * masks).sum((1, 2)) / raw.sum((1, 2)),
        "l1": (normalised - masks.double()).abs().mean((1, 2)),
        "ppce": (-normalised.log().clamp(min=-100) * masks).sum((1, 2)) / inside,
        "rrr": (enlarged(signed / signed.abs().amax((1, 2), keepdim=True)) ** 2 * ~masks).sum((1, 2)),
    }[loss]

    torch.testing.assert_close(guidance_loss(signed, masks, loss), expected)


def test_energy_is_what_the_metric_leaves():
    """Prevents: a model trained towards another share than the one that is reported."""
    maps, masks = torch.rand(4, 3, 3), torch.rand(4, 12, 12) > 0.5

    torch.testing.assert_close(guidance_loss(maps, masks), 1 - energy_pointing_game(maps, masks))


def test_ppce_equals_torchs_cross_entropy():
    """Prevents: another logarithm or limit than the official code's, which calls BCELoss inside the mask."""
    maps, masks = torch.rand(3, 5, 5, dtype=torch.float64), torch.rand(3, 5, 5) > 0.5
    maps[0, 0] = 0
    masks[0, 0, :3] = True
    normalised = maps / maps.amax((1, 2), keepdim=True)

    expected = [
        F.binary_cross_entropy(strength[mask], torch.ones_like(strength[mask]))
        for strength, mask in zip(normalised, masks, strict=True)
    ]

    torch.testing.assert_close(guidance_loss(maps, masks, "ppce"), torch.stack(expected))


@pytest.mark.parametrize("size", [(3, 4), (6, 9)])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradcheck(loss, size):
    """Prevents: a wrong derivative, in particular through the division by the maximum."""
    maps = torch.randn(2, 3, 4, dtype=torch.float64)
    # Away from the kinks of |.|, of the positive part and of ppce's limit.
    maps = torch.where(maps.abs() < 0.1, torch.full_like(maps, 0.2), maps)
    maps = maps.abs() if loss == "ppce" else maps
    masks = torch.rand(2, *size) > 0.5

    assert torch.autograd.gradcheck(lambda x: guidance_loss(x, masks, loss), (maps.requires_grad_(),), eps=1e-7)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_perfect_map_costs_least(loss):
    """Prevents: a sign turned round."""
    masks = torch.zeros(1, 6, 6, dtype=torch.bool)
    masks[:, :3, :2] = True

    best, worst = (guidance_loss(on.float(), masks, loss).item() for on in (masks, ~masks))

    assert best == 0
    assert worst > 0.9


@pytest.mark.parametrize("loss", LOSSES)
def test_scale_says_nothing(loss):
    """Prevents: a loss that is lowered by smaller logits alone."""
    maps, masks = torch.rand(3, 4, 4) + 0.1, torch.rand(3, 4, 4) > 0.5

    for scale in (1e-3, 1e3):
        torch.testing.assert_close(guidance_loss(scale * maps, masks, loss), guidance_loss(maps, masks, loss))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, -1.0, 1e-30, 1e-42])
@pytest.mark.parametrize("loss", LOSSES)
def test_empty_and_faint_maps_stay_finite(loss, value, dtype):
    """Prevents: a NaN or overflowing gradient in the first steps of a student whose maps vanish."""
    maps = torch.full((2, 3, 3), value, dtype=dtype)
    maps[0, 0, 0] = 0
    maps.requires_grad_()

    losses = guidance_loss(maps, torch.rand(2, 9, 9) > 0.5, loss)
    losses.mean().backward()

    assert losses.isfinite().all()
    assert maps.grad.isfinite().all()


def test_what_an_all_zero_map_costs():
    """Prevents: values other than the documented ones."""
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[:, 0] = True

    assert [guidance_loss(torch.zeros(1, 2, 2), masks, loss).item() for loss in LOSSES] == [1, 0.25, 100, 0]


def test_energy_below_the_threshold_is_not_divided():
    """Prevents: the official code's branch for faint maps left out."""
    assert of([[3e-8, 1e-8]], [[1, 0]], "energy") == pytest.approx(1 - 3e-8)
    assert of([[3e-7, 1e-7]], [[1, 0]], "energy") == pytest.approx(0.25)


@pytest.mark.parametrize("loss", LOSSES)
def test_samples_without_a_mask_cost_nothing(loss):
    """Prevents: images without annotations whose whole map is pushed to zero, or a mean over no pixel."""
    maps, masks = torch.randn(3, 4, 4).requires_grad_(), torch.rand(3, 8, 8) > 0.5
    masks[1] = False

    losses = guidance_loss(maps, masks, loss)
    losses.mean().backward()

    assert losses.shape == (3,)
    assert losses[1] == 0
    assert maps.grad.isfinite().all()
    assert not maps.grad[1].any()
    kept = torch.tensor([0, 2])
    torch.testing.assert_close(losses[kept], guidance_loss(maps[kept], masks[kept], loss))


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_computed_in_full(loss):
    """Prevents: a sum over 50,000 pixels in half precision."""
    maps, masks = torch.rand(2, 7, 7).half(), torch.rand(2, 224, 224) > 0.5

    losses = guidance_loss(maps, masks, loss)

    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, guidance_loss(maps.float(), masks, loss))


def test_ppce_where_rounding_exceeds_the_maximum():
    """Prevents: an error where enlarging a constant map gives 1.0000001."""
    losses = guidance_loss(torch.full((1, 3, 3), 0.7), torch.ones(1, 10, 10, dtype=torch.bool), "ppce")

    assert losses.item() == pytest.approx(0, abs=1e-6)


def test_unknown_name_lists_the_valid_ones():
    """Prevents: a KeyError that leaves the reader guessing."""
    with pytest.raises(ValueError, match="Unknown guidance loss 'epg'. Available: energy, l1, ppce, rrr"):
        guidance_loss(torch.rand(1, 2, 2), torch.ones(1, 2, 2).bool(), "epg")


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        ((1, 2, 2), torch.full((1, 2, 2), 255.0), "Masks must be bool, but are torch.float32. Make them so by"),
        ((2, 2, 2), torch.ones(1, 2, 2).bool(), r"of the same samples, but the shapes are \(2, 2, 2\) and \(1, 2, 2\)"),
        ((1, 3, 2, 2), torch.ones(1, 2, 2).bool(), r"Maps must be \(B, h, w\)"),
        ((1, 4, 4), torch.ones(1, 2, 4).bool(), r"Masks of \(2, 4\) are coarser than the maps of \(4, 4\)"),
    ],
)
def test_other_shapes_and_types_are_refused(maps, masks, message):
    """Prevents: broadcasting, and a mask from 0 to 255 that is taken as 255 times the object."""
    with pytest.raises(ValueError, match=message):
        guidance_loss(torch.rand(maps), masks)


def test_registered_loss_is_used(monkeypatch):
    """Prevents: a registration that isn't seen."""
    monkeypatch.setattr(guidance, "_LOSSES", dict(guidance._LOSSES))
    register_guidance_loss("outside", lambda maps, masks: (maps * ~masks).sum((1, 2)))

    assert available_guidance_losses() == sorted([*LOSSES, "outside"])
    assert of([[1.0, 0.5]], [[1, 0]], "outside") == pytest.approx(0.5)
