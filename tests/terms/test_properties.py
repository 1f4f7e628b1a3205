"""Properties of the losses between maps and between logits, over random inputs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_e2kd.terms.logits import logits_loss
from hf_e2kd.terms.maps import explanation_loss

SEEDS = st.integers(0, 10_000)
SIDES = st.integers(1, 5)
LOSSES = ["cosine", "kl", "l1", "mse", "pearson"]


def maps(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).abs()


@pytest.mark.parametrize("name", LOSSES)
@given(SEEDS, SIDES, SIDES, st.sampled_from([None, (12, 20)]), st.floats(1e-25, 1e25))
def test_equal_maps_and_scales(name, seed, h, w, size, scale):
    """Prevents: a loss of equal maps above 0, or one that depends on the scale of a model's logits."""
    student, reference = maps(seed, 3, h, w), maps(seed + 1, 3, h, w)
    values, *zero = explanation_loss(student, reference, name, size=size)
    assert not any(each.any() for each in zero) and (values >= -1e-6).all()
    scaled, *_ = explanation_loss(student * scale, reference / scale, name, size=size)
    torch.testing.assert_close(scaled, values, rtol=1e-4, atol=1e-5)
    equal, *_ = explanation_loss(reference * scale, reference, name, size=size)
    flat = (reference - reference.mean((1, 2), keepdim=True)).abs().amax((1, 2)) < 1e-6
    expected = flat.float() if name == "pearson" else torch.zeros(3)  # a constant map correlates with nothing
    torch.testing.assert_close(equal, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@given(SEEDS, SIDES, SIDES, st.sampled_from([1e-39, 1e-25, 1.0, 1e30]), st.sampled_from([None, (12, 20)]))
def test_gradients_are_finite(name, seed, h, w, scale, size):
    """Prevents: infinite gradients of faint maps (1e-39), and any gradient of all-zero ones."""
    student = maps(seed, 4, h, w) * scale
    student[0] = 0
    reference = maps(seed + 1, 4, h, w)
    reference[1] = 0
    # A scale before the maps, as a model's parameters are.
    factor = torch.ones(4, h, w, requires_grad=True)
    values, zero_student, zero_reference = explanation_loss(student * factor, reference, name, size=size)
    values.sum().backward()
    assert values.isfinite().all() and factor.grad.isfinite().all()
    assert zero_student.tolist() == [True, *[bool(each.abs().max() < 9.87e-32) for each in student[1:]]]
    assert zero_reference.tolist() == [False, True, False, False]
    assert not factor.grad[:2].any() and values[1] == 0


@given(SEEDS, st.integers(2, 6), st.floats(0.5, 8), st.floats(-50, 50))
def test_logits(seed, classes, temperature, shift):
    """Prevents: a loss of equal logits above 0, and one of classes that a shift of all logits changes."""
    student = torch.randn(3, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    teacher = student.flip(0)
    values = logits_loss(student, teacher, "kl", temperature)
    assert (values >= -1e-9).all()
    torch.testing.assert_close(logits_loss(student + shift, teacher - shift, "kl", temperature), values)
    for name in ("kl", "mse"):
        equal = logits_loss(student, student, name, temperature)
        torch.testing.assert_close(equal, torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    margins = logits_loss(student[:, :1], teacher[:, :1], "margin_mse", temperature)
    moved = logits_loss(student[:, :1] + shift, teacher[:, :1], "margin_mse", temperature)
    torch.testing.assert_close(moved, margins)
