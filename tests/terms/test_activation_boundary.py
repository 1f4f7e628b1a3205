"""Distillation of activation boundaries."""

import pytest
import torch
from torch.nn import functional as F

from hf_e2kd.terms.features.activation_boundary import ActivationBoundary, Connector, activation_boundary_loss
from tests.terms.features import set_up, waves


def test_by_hand():
    """Prevents: the sides of the boundary swapped, a margin on one side alone, or a mean in the place of the sum."""
    student, teacher = torch.tensor([[0.5, -3.0, 2.0, -0.5]]), torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    # Active at 0.5 and -3: (1 − 0.5)² and (1 + 3)². Not active at 2 and -0.5: (1 + 2)² and (1 − 0.5)².
    assert activation_boundary_loss(student, teacher).tolist() == [0.25 + 16 + 9 + 0.25]
    assert activation_boundary_loss(student, teacher, margin=2.0).tolist() == [2.25 + 25 + 16 + 2.25]


def test_equals_public_code():
    """Prevents: another loss than in the authors' code, which gave this value for these features."""
    student, teacher = 2 * waves(2, 4, 4, 3, step=0.9), waves(2, 4, 4, 3, step=1.7)
    assert activation_boundary_loss(student, teacher).mean().item() == pytest.approx(131.29405538357094)
    # Behind a ReLU the teacher's boundaries are the same.
    torch.testing.assert_close(
        activation_boundary_loss(student, teacher.relu()), activation_boundary_loss(student, teacher)
    )


def test_a_term_is_a_connector_and_halves_the_weight_layer_by_layer():
    """Prevents: the first layer weighted like the last, or a connector of the teacher's channels."""
    term = ActivationBoundary()
    student = [waves(2, 4, 4, 3, step=0.9), waves(2, 2, 2, 4, step=0.3), waves(2, 2, 2, 4, step=0.5)]
    teacher = [waves(2, 4, 4, 5, step=1.7), waves(2, 2, 2, 6, step=0.7), waves(2, 2, 2, 7, step=1.1)]
    found = term(*set_up(term, student, teacher), {})
    expected = 0.0
    for number, (own, theirs) in enumerate(zip(student, teacher, strict=True)):
        linear, norm = term.connectors[number].linear, term.connectors[number].norm
        rows = F.linear(own, linear.weight).flatten(0, 2)
        rows = (rows - rows.mean(0)) / (rows.var(0, correction=0) + 1e-5).sqrt() * norm.weight + norm.bias
        expected = expected + activation_boundary_loss(rows.view_as(theirs), theirs) / 2 ** (2 - number)
    torch.testing.assert_close(found, expected)
    assert term.weight == 0.003


def test_padding_counts_nowhere():
    """Prevents: padded tokens in the statistics of the batch norm, or in the sum."""
    features, teacher = waves(2, 5, 4), waves(2, 5, 6, step=0.7)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    connector = Connector(4, 6).double()
    connected = connector(features, mask)
    kept = connector(features.flatten(0, 1)[mask.flatten()])
    torch.testing.assert_close(connected[mask], kept)
    found = activation_boundary_loss(connected, teacher, mask=mask)
    expected = activation_boundary_loss(kept, teacher[mask])
    torch.testing.assert_close(found, torch.stack([expected[:5].sum(), expected[5:].sum()]))


def test_gradient():
    """Prevents: a wrong derivative through the connector."""
    term = ActivationBoundary()
    output, reference_output = set_up(term, [waves(2, 3, 3, 4)], [waves(2, 3, 3, 5, step=0.7)])

    def loss(features):
        output.features["0"] = features
        return term(output, reference_output, {})

    assert torch.autograd.gradcheck(loss, (output.features["0"].clone().requires_grad_(),))


def test_pooled_features_have_boundaries_too():
    """Prevents: a refusal, or an error, of what can be compared."""
    term = ActivationBoundary()
    assert term(*set_up(term, [waves(4, 3)], [waves(4, 5, step=0.7)]), {}).shape == (4,)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"margin": 0}, "margin must be a finite number above 0"), ({"stage_epochs": -1}, "stage_epochs must be")],
)
def test_options_are_checked(options, message):
    """Prevents: a loss without a boundary."""
    with pytest.raises(ValueError, match=message):
        ActivationBoundary(**options)
