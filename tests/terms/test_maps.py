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
        found, *zero = explanation_loss(student * scale, reference, loss)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            explanation_loss(student, reference * scale, loss)[0], expected, rtol=1e-4, atol=1e-6
        )
        assert not torch.cat(zero).any()


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


WORST = {"cosine": 1.0, "mse": 2.0, "l1": 2.0, "pearson": 1.0}


def worst(loss, reference):
    """What an all-zero student's map costs, by the definition."""
    if loss in WORST:
        return WORST[loss]
    share = reference / reference.sum()
    return (share * (share / torch.finfo(reference.dtype).eps).log()).sum().item()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("side", ["student", "reference", "both"])
@pytest.mark.parametrize("size", [None, (9, 12)])
def test_all_zero_maps(loss, side, size):
    """Prevents: a dead student that is a perfect one, a NaN gradient, or a smaller divisor that makes accumulated steps
    inexact."""
    student, reference = torch.rand(4, 3, 3), torch.rand(4, 3, 3)
    if side != "reference":
        student[1] = 0
    if side != "student":
        reference[1] = 0
    student.requires_grad_()

    losses, zero_student, zero_reference = explanation_loss(student, reference, loss, size=size)
    losses.mean().backward()

    assert zero_student.tolist() == [False, side != "reference", False, False]
    assert zero_reference.tolist() == [False, side != "student", False, False]
    assert losses.shape == (4,)
    enlarged = reference[1] if size is None else F.interpolate(reference[None, 1:2], size, mode="bilinear")[0, 0]
    assert losses[1].item() == pytest.approx(worst(loss, enlarged) if side == "student" else 0, rel=1e-5)
    assert student.grad.isfinite().all()
    assert not student.grad[1].any()
    kept = torch.tensor([0, 2, 3])
    alone = student.detach()[kept].requires_grad_()
    expected = explanation_loss(alone, reference[kept], loss, size=size)[0]
    torch.testing.assert_close(losses[kept], expected)
    (expected.sum() / 4).backward()
    torch.testing.assert_close(student.grad[kept], alone.grad)


@pytest.mark.parametrize("loss", LOSSES)
def test_whole_batch_of_zeros(loss):
    """Prevents: a NaN, or a perfect loss, of a student whose maps are all zero."""
    student, reference = torch.zeros(2, 3, 3, requires_grad=True), torch.rand(2, 3, 3)

    losses, zero_student, zero_reference = explanation_loss(student, reference, loss)
    losses.mean().backward()

    assert zero_student.all() and not zero_reference.any()
    assert losses.tolist() == pytest.approx([worst(loss, each) for each in reference], rel=1e-5)
    assert not student.grad.any()


@pytest.mark.parametrize("loss", ["cosine", "mse", "l1"])
def test_no_maps_without_negative_values_cost_more_than_a_zero_map(loss):
    """Prevents: a dead map that is better than a wrong one."""
    student, reference = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[0.0, 0.0, 3.0]])

    assert explanation_loss(student, reference, loss)[0].item() == pytest.approx(WORST[loss])


def test_divergence_from_a_reference_without_a_positive_cell():
    """Prevents: a loss below 0, of signed maps that speak against the class everywhere."""
    student = torch.randn(2, 30, 30, generator=torch.Generator().manual_seed(0)).requires_grad_()
    reference = -torch.rand(2, 30, 30)
    reference[1, 0, 0] = 1.0
    losses, _, zero_reference = explanation_loss(student, reference, "kl")
    losses.sum().backward()
    assert losses[0] == 0 < losses[1] and not zero_reference.any()
    assert not student.grad[0].any() and student.grad[1].any()


def test_registered_worst_value(monkeypatch):
    """Prevents: a registered loss whose dead maps cost something else than was said."""
    monkeypatch.setattr(explanation, "_LOSSES", dict(explanation._LOSSES))
    monkeypatch.setattr(explanation, "_WORST", dict(explanation._WORST))

    def largest(student, reference, counted):
        return (student - reference).abs().amax(1)

    for stated, expected in ((7.0, 7.0), (None, 1.0)):
        register_explanation_loss("largest", largest, stated)
        assert of([[0.0, 0.0]], [[0.5, 1.0]], "largest") == expected


def test_constant_map_correlates_with_nothing():
    """Prevents: a gradient of 1e12 from dividing rounding errors by their norm."""
    for value in (0.3, 1.0, 1e-20):
        student = torch.full((1, 3, 3), value, requires_grad=True)

        for size in (None, (7, 9)):
            losses, zero_student, _ = explanation_loss(student, torch.rand(1, 3, 3), "pearson", size=size)
            losses.mean().backward()

            assert losses.item() == pytest.approx(1.0)
            assert not zero_student.any()
            assert not student.grad.any()


@pytest.mark.parametrize("loss", LOSSES)
def test_mask_leaves_cells_out(loss):
    """Prevents: padding that counts as agreement, or for one side only."""
    student, reference = torch.rand(2, 3, 3).requires_grad_(), torch.rand(2, 3, 3)
    mask = torch.ones(2, 3, 3, dtype=torch.bool)
    mask[:, 2] = False

    losses, *_ = explanation_loss(student, reference, loss, mask=mask)
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

    losses, zero_student, _ = explanation_loss(student, torch.rand(1, 2, 2), mask=mask)

    assert zero_student.item()
    assert losses.item() == 1


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
    losses, *_ = explanation_loss(torch.rand(2, 3, 3), torch.rand(2, 3, 3).half())

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


GRIDS = [((4, 4), (4, 4)), ((4, 5), (7, 3)), ((1, 6), (9, 12)), ((9, 12), (9, 12))]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("own", "other"), GRIDS)
def test_at_the_images_size_equals_enlarged_maps(loss, signed, own, other):
    """Prevents: another value or gradient than the official code's, which enlarges both maps to the image."""
    make = torch.randn if signed else torch.rand
    student, reference = (make(3, *grid, dtype=torch.float64) for grid in (own, other))
    student.requires_grad_()
    enlarged = [F.interpolate(maps[:, None], (9, 12), mode="bilinear")[:, 0] for maps in (student, reference)]
    expected = explanation_loss(*enlarged, loss)[0]

    found = explanation_loss(student, reference, loss, size=(9, 12))[0]

    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(values.sum(), student)[0] for values in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loss", ["cosine", "mse", "pearson"])
@pytest.mark.parametrize("other", [(3, 4), (5, 2)])
def test_gradcheck_at_the_images_size(loss, other):
    """Prevents: a wrong derivative through the coordinates."""
    student = torch.rand(2, 3, 4, dtype=torch.float64, requires_grad=True)
    reference = torch.rand(2, *other, dtype=torch.float64)

    assert torch.autograd.gradcheck(
        lambda maps: explanation_loss(maps, reference, loss, size=(16, 20))[0], (student,), eps=1e-7, atol=1e-5
    )


@pytest.mark.parametrize("loss", ["cosine", "mse", "pearson"])
def test_equal_maps_cost_nothing_at_the_images_size(loss):
    """Prevents: rounding errors of 2 − 2 cos, which leave maps that are equal apart, or below 0."""
    maps = torch.rand(5, 7, 7)

    assert explanation_loss(maps, maps, loss, size=(224, 224))[0].abs().max().item() < 1e-6


def test_vectors_are_enlarged_with_their_channels():
    """Prevents: channels taken for rows where B-cos weights differ from the image's size."""
    student, reference = torch.randn(2, 6, 4, 4), torch.randn(2, 6, 8, 8)
    enlarged = F.interpolate(student, (8, 8), mode="bilinear")
    expected = 1 - F.cosine_similarity(enlarged.flatten(1), reference.flatten(1))

    torch.testing.assert_close(explanation_loss(student, reference, size=(8, 8))[0], expected)


def test_a_mask_beside_a_size_is_refused():
    """Prevents: a mask of one grid laid over maps of another."""
    maps = torch.rand(1, 2, 2)
    with pytest.raises(ValueError, match="resize maps and mask to the size first"):
        explanation_loss(maps, maps, mask=maps > 0, size=(4, 4))
