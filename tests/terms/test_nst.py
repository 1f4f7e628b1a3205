"""Neuron selectivity transfer."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from hf_e2kd.terms.features.nst import NeuronSelectivityTransfer, nst_loss
from tests.terms.features import set_up, waves


@pytest.mark.parametrize(("rows", "channels"), [(4, (5, 3)), (2, (5, 3)), (2, (3, 7))])
def test_equals_the_sums_over_channels(rows, channels):
    """Prevents: a kernel between places, or the short way through the places that gives something else."""
    student, teacher = waves(2, rows, rows, channels[0], step=0.9), waves(2, rows, rows, channels[1], step=1.7)
    for row, found in enumerate(nst_loss(student, teacher)):
        own, theirs = (F.normalize(each[row].flatten(0, 1).T, dim=1) for each in (student, teacher))

        def kernel(first, second):
            values = [(x @ y) ** 2 for x, y in itertools.product(first, second)]
            return sum(values) / len(values)

        torch.testing.assert_close(found, kernel(own, own) + kernel(theirs, theirs) - 2 * kernel(own, theirs))


def test_equals_public_code():
    """Prevents: another kernel or norm than in RepDistiller's `NSTLoss`, which gave these values for these features."""
    student, teacher = waves(2, 4, 4, 5, step=0.9), waves(2, 4, 4, 3, step=1.7)
    assert nst_loss(student, teacher).mean().item() == pytest.approx(1.039842681759403)
    assert nst_loss(waves(2, 2, 2, 5, step=0.9), teacher).mean().item() == pytest.approx(0.22367784439843508)


def test_equal_features_cost_nothing_and_dead_channels_have_a_gradient_of_zero():
    """Prevents: a constant left in, or NaN where a channel is nowhere active."""
    features = waves(2, 3, 3, 4)
    torch.testing.assert_close(nst_loss(features, features * 3), torch.zeros(2).double())
    features[..., 0] = 0
    features.requires_grad_()
    nst_loss(features, waves(2, 3, 3, 5, step=0.3)).sum().backward()
    assert torch.equal(features.grad[..., 0], torch.zeros(2, 3, 3).double())
    assert features.grad.isfinite().all() and features.grad.norm() > 0


def test_padding_counts_nowhere():
    """Prevents: padded tokens that enter a channel's norm."""
    student, teacher = waves(2, 5, 4), waves(2, 5, 6, step=0.7)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    found = nst_loss(student, teacher, mask)
    torch.testing.assert_close(found[0], nst_loss(student[:1], teacher[:1])[0])
    torch.testing.assert_close(found[1], nst_loss(student[1:, :3], teacher[1:, :3])[0])


@pytest.mark.parametrize("channels", [3, 12])
def test_gradient(channels):
    """Prevents: a wrong derivative of either way to compute it."""
    student, teacher = waves(2, 3, 3, channels), waves(2, 3, 3, 4, step=0.7)
    assert torch.autograd.gradcheck(lambda x: nst_loss(x, teacher), (student.requires_grad_(),))


def test_by_default_the_last_layers_alone():
    """Prevents: all stages summed, where the paper compares the last feature maps."""
    assert NeuronSelectivityTransfer().default_layers(["a", "b"], ["x", "y", "z"]) == {"b": "z"}


def test_the_sum_of_several_layers():
    """Prevents: the last named layer alone."""
    term = NeuronSelectivityTransfer()
    pairs = [waves(2, 4, 4, 3), waves(2, 2, 2, 5)], [waves(2, 4, 4, 6, step=0.3), waves(2, 2, 2, 7, step=0.4)]
    found = term(*set_up(term, *pairs), {})
    torch.testing.assert_close(found, nst_loss(pairs[0][0], pairs[1][0]) + nst_loss(pairs[0][1], pairs[1][1]))


def test_pooled_features_are_refused():
    """Prevents: a message of torch's at the first step."""
    with pytest.raises(ValueError, match="'nst' compares the places of features, and the layer '0' has none.*'hint'"):
        set_up(NeuronSelectivityTransfer(), [waves(2, 4)], [waves(2, 4)])
