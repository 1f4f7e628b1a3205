"""The loss between logits."""

import math

import pytest
import torch
from torch.nn import functional as F

from hf_e2kd.terms import logits_loss


def test_by_hand():
    """Prevents: KL in the wrong direction."""
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0), 0.0]])

    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)

    assert logits_loss(student, teacher).item() == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
def test_equals_torchs(temperature):
    """Prevents: a temperature on one side only, or without the factor τ²."""
    student, teacher = 3 * torch.randn(4, 7), 3 * torch.randn(4, 7)

    expected = temperature**2 * F.kl_div(
        F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1), reduction="batchmean"
    )

    losses = logits_loss(student, teacher, temperature=temperature)
    assert losses.shape == (4,)
    torch.testing.assert_close(losses.mean(), expected)


def test_gradient_is_the_cross_entropys():
    """Prevents: a gradient other than that of the papers' printed loss, which differs by a constant."""
    teacher = torch.randn(4, 7, dtype=torch.float64)
    leaves = [torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    one, other = (leaf.requires_grad_() for leaf in leaves)

    logits_loss(one, teacher, temperature=2.0).mean().backward()
    (4 * F.cross_entropy(other / 2, (teacher / 2).softmax(1))).backward()

    torch.testing.assert_close(one.grad, other.grad)


def test_gradcheck():
    """Prevents: a wrong derivative."""
    student, teacher = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)

    assert torch.autograd.gradcheck(lambda x: logits_loss(x, teacher, temperature=3.0), (student.requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_full(dtype):
    """Prevents: a KL of two nearly equal distributions that is lost in rounding."""
    student, teacher = torch.randn(4, 1000).to(dtype), torch.randn(4, 1000).to(dtype)

    losses = logits_loss(student, teacher)

    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, logits_loss(student.float(), teacher.float()))


def test_extreme_logits_stay_finite():
    """Prevents: log(0), where the teacher is certain."""
    student, teacher = torch.tensor([[0.0, 300.0]]).requires_grad_(), torch.tensor([[300.0, 0.0]])

    loss = logits_loss(student, teacher)
    loss.sum().backward()

    assert loss.item() == pytest.approx(300.0)
    assert student.grad.isfinite().all()


def test_equal_logits_cost_nothing():
    """Prevents: the teacher's entropy counted as a loss."""
    logits = torch.randn(3, 5)

    torch.testing.assert_close(logits_loss(logits, logits + 2.0), torch.zeros(3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_labels_for_themselves_equal_torchs_cross_entropy(temperature):
    """Prevents: a half of the divergence left out, and classes averaged instead of summed."""
    student, teacher = 3 * torch.randn(4, 7), 3 * torch.randn(4, 7)
    target = (teacher / temperature).sigmoid()
    crossed = F.binary_cross_entropy_with_logits(student / temperature, target, reduction="none")
    entropy = F.binary_cross_entropy_with_logits(teacher / temperature, target, reduction="none")
    losses = logits_loss(student, teacher, temperature=temperature, multi_label=True)
    torch.testing.assert_close(losses, temperature**2 * (crossed - entropy).sum(1), rtol=1e-4, atol=1e-5)


def test_certain_teachers_and_students_stay_finite():
    """Prevents: the logarithm of a probability that has rounded to 0 or 1."""
    student = torch.tensor([[200.0, -200.0]], dtype=torch.float16, requires_grad=True)
    loss = logits_loss(student, torch.tensor([[-200.0, 200.0]]), multi_label=True).sum()
    loss.backward()
    assert loss.item() == pytest.approx(2 * 13.8155, rel=1e-3) and student.grad.isfinite().all()
    assert logits_loss(student, student, multi_label=True).item() == 0


def test_margin_mse_by_hand():
    """Prevents: pairs counted with themselves, a mean over all B² places, a shift that costs something."""
    student, teacher = torch.tensor([[1.0], [3.0], [2.0]]), torch.tensor([[0.0], [1.0], [3.0]])
    # Differences 1, 2, −1: margins differ by 1, 2 and 3.
    losses = logits_loss(student, teacher, "margin_mse")
    assert losses.tolist() == [(1 + 4) / 2, (1 + 9) / 2, (4 + 9) / 2]
    torch.testing.assert_close(logits_loss(student + 7, teacher, "margin_mse"), losses)
    assert logits_loss(student[:1], teacher[:1], "margin_mse").tolist() == [0.0]
    with pytest.raises(ValueError, match="'margin_mse' compares scores"):
        logits_loss(torch.zeros(2, 3), torch.zeros(2, 3), "margin_mse")
