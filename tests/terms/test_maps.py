"""Losses between maps: values by hand, gradients by differences, and what an empty or faint map does."""

import math

import pytest
import torch
from torch.nn import functional as F

from hf_e2kd import available_explanation_losses, register_explanation_loss
from hf_e2kd.terms import explanation_loss
from hf_e2kd.terms import maps as explanation

LOSSES = ["cosine", "kl", "l1", "mse", "pearson"]


def of(student, reference, loss):
    return explanation_loss(torch.tensor([student]), torch.tensor([reference]), loss)[0].item()


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # Student (3, 4, 0, 0) and reference (4, 3, 0, 0): norms 5, sums 7, means 7/4.
        ("cosine", 1 - 24 / 25),
        ("mse", 4 * (2 / 25) / 4),  # each over its root mean square 5/2: differences ∓2/5
        ("l1", (4 / 7 + 4 / 7) / 4),  # each over its mean 7/4
        ("pearson", 1 - (24 - 49 / 4) / (25 - 49 / 4)),
        ("kl", (4 / 7) * math.log(4 / 3) + (3 / 7) * math.log(3 / 4)),
    ],
)
def test_by_hand(loss, expected):
    """Prevents: another normalisation, direction or reduction than the docstring says."""
    assert of([[3.0, 4.0], [0.0, 0.0]], [[4.0, 3.0], [0.0, 0.0]], loss) == pytest.approx(expected, abs=1e-5)


def test_cosine_equals_torchs():
    """Prevents: a cosine over rows instead of the whole map."""
    student, reference = torch.rand(4, 3, 5), torch.rand(4, 3, 5)

    expected = 1 - F.cosine_similarity(student.flatten(1), reference.flatten(1))

    torch.testing.assert_close(explanation_loss(student, reference)[0], expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_equal_maps_cost_nothing(loss):
    """Prevents: a loss whose minimum isn't at agreement."""
    maps = torch.rand(3, 4, 4, dtype=torch.float64)
    apart = explanation_loss(maps, maps.flip(1), loss)[0]

    torch.testing.assert_close(explanation_loss(maps, maps, loss)[0], torch.zeros(3).double(), atol=1e-12, rtol=0)
    assert (apart > 0.01).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_scale_says_nothing(loss):
    """Prevents: a loss that rewards small logits, or underflows where a map is faint."""
    student, reference = torch.rand(3, 4, 4), torch.rand(3, 4, 4)
    expected = explanation_loss(student, reference, loss)[0]

    for scale in (1e-30, 1e-20, 1e-3, 1e20):
        found, empty = explanation_loss(student * scale, reference, loss)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            explanation_loss(student, reference * scale, loss)[0], expected, rtol=1e-4, atol=1e-6
        )
        assert not empty.any()


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_of_a_faint_map(loss):
    """Prevents: a gradient of 0 or NaN for a map of 1e-20; scaled down by c, its gradient is 1/c as large."""
    student, reference = torch.rand(2, 3, 3) + 0.1, torch.rand(2, 3, 3)
    gradients = []
    for scale in (1.0, 1e-20):
        leaf = (student * scale).requires_grad_()
        explanation_loss(leaf, reference, loss)[0].sum().backward()
        gradients.append(leaf.grad * scale)

    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradcheck(loss):
    """Prevents: a wrong derivative, in particular through the normalisation by a constant."""
    student = torch.rand(2, 3, 4, dtype=torch.float64) + 0.1
    reference = torch.rand(2, 3, 4, dtype=torch.float64) + 0.1

    assert torch.autograd.gradcheck(
        lambda maps: explanation_loss(maps, reference, loss)[0], (student.requires_grad_(),), eps=1e-7, atol=1e-5
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("side", ["student", "reference", "both"])
def test_all_zero_pairs_contribute_nothing(loss, side):
    """Prevents: a NaN gradient, or a smaller divisor that makes accumulated steps inexact."""
    student, reference = torch.rand(4, 3, 3), torch.rand(4, 3, 3)
    if side != "reference":
        student[1] = 0
    if side != "student":
        reference[1] = 0
    student.requires_grad_()

    losses, empty = explanation_loss(student, reference, loss)
    losses.mean().backward()

    assert empty.tolist() == [False, True, False, False]
    assert losses.shape == (4,)
    assert losses[1] == 0
    assert student.grad.isfinite().all()
    assert not student.grad[1].any()
    kept = torch.tensor([0, 2, 3])
    alone = student.detach()[kept].requires_grad_()
    expected = explanation_loss(alone, reference[kept], loss)[0]
    torch.testing.assert_close(losses[kept], expected)
    (expected.sum() / 4).backward()
    torch.testing.assert_close(student.grad[kept], alone.grad)


@pytest.mark.parametrize("loss", LOSSES)
def test_whole_batch_of_zeros(loss):
    """Prevents: a NaN in the first steps of a student whose maps are all zero."""
    student = torch.zeros(2, 3, 3, requires_grad=True)

    losses, empty = explanation_loss(student, torch.rand(2, 3, 3), loss)
    losses.mean().backward()

    assert empty.all()
    assert not losses.any()
    assert not student.grad.any()


def test_constant_map_correlates_with_nothing():
    """Prevents: a gradient of 1e12 from dividing rounding errors by their norm."""
    for value in (0.3, 1.0, 1e-20):
        student = torch.full((1, 3, 3), value, requires_grad=True)

        losses, empty = explanation_loss(student, torch.rand(1, 3, 3), "pearson")
        losses.mean().backward()

        assert losses.item() == pytest.approx(1.0)
        assert not empty.any()
        assert not student.grad.any()


@pytest.mark.parametrize("loss", LOSSES)
def test_mask_leaves_cells_out(loss):
    """Prevents: padding that counts as agreement, or for one side only."""
    student, reference = torch.rand(2, 3, 3).requires_grad_(), torch.rand(2, 3, 3)
    mask = torch.ones(2, 3, 3, dtype=torch.bool)
    mask[:, 2] = False

    losses, _ = explanation_loss(student, reference, loss, mask=mask)
    losses.sum().backward()

    other = torch.where(mask, student.detach(), float("nan"))
    torch.testing.assert_close(explanation_loss(other, reference, loss, mask=mask)[0], losses.detach())
    assert not student.grad[:, 2].any()
    assert student.grad[:, :2].any()
    cropped = explanation_loss(student.detach()[:, :2], reference[:, :2], loss)[0]
    torch.testing.assert_close(losses.detach(), cropped)


def test_mask_may_empty_a_map():
    """Prevents: a masked map, zero in what is left, that gives a NaN."""
    student = torch.zeros(1, 2, 2)
    student[0, 0, 0] = 1.0
    mask = torch.tensor([[[False, True], [True, True]]])

    losses, empty = explanation_loss(student, torch.rand(1, 2, 2), mask=mask)

    assert empty.item()
    assert losses.item() == 0


def test_several_maps_a_sample():
    """Prevents: the grid's axes counted wrongly where maps have one axis (tokens) or three (targets)."""
    maps = torch.rand(2, 6)
    assert explanation_loss(maps, maps.flip(1))[0].shape == (2,)
    assert explanation_loss(torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5))[0].shape == (2,)


def test_reference_gets_no_gradient():
    """Prevents: a teacher that is trained."""
    student, reference = torch.rand(2, 3, 3).requires_grad_(), torch.rand(2, 3, 3).requires_grad_()

    explanation_loss(student, reference)[0].sum().backward()

    assert reference.grad is None
    assert student.grad.any()


def test_half_precision_reference_is_read():
    """Prevents: stored float16 maps that make the loss half precision."""
    losses, _ = explanation_loss(torch.rand(2, 3, 3), torch.rand(2, 3, 3).half())

    assert losses.dtype == torch.float32


def test_unknown_name_lists_the_valid_ones():
    """Prevents: a KeyError that leaves the reader guessing."""
    with pytest.raises(ValueError, match="Unknown explanation loss 'cos'. Available: cosine, kl, l1, mse, pearson"):
        explanation_loss(torch.rand(1, 2, 2), torch.rand(1, 2, 2), "cos")


def test_other_grids_are_refused():
    """Prevents: broadcasting of maps that have not been brought to one grid."""
    with pytest.raises(ValueError, match=r"shapes \(2, 3, 3\) and \(2, 1, 3\) can't be compared"):
        explanation_loss(torch.rand(2, 3, 3), torch.rand(2, 1, 3))


def test_registered_loss_is_used(monkeypatch):
    """Prevents: a registration that the trainer's loss doesn't see."""
    monkeypatch.setattr(explanation, "_LOSSES", dict(explanation._LOSSES))
    register_explanation_loss("largest", lambda student, reference, counted: (student - reference).abs().amax(1))

    assert available_explanation_losses() == sorted([*LOSSES, "largest"])
    assert of([[1.0, 0.5]], [[0.5, 1.0]], "largest") == pytest.approx(0.5)
