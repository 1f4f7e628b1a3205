"""Factor transfer: its distance and its paraphraser on fixed tensors, and what it refuses."""

import pytest
import torch
from torch.nn import functional as F

from hf_e2kd.terms import ReferenceOutput, StepOutput
from hf_e2kd.terms.features.factor_transfer import FactorTransfer, factor_loss
from tests.terms.waves import waves


def test_factors_by_hand():
    """Prevents: a norm over the batch or over channels alone, or a sum in the place of the mean."""
    student = torch.tensor([[[[3.0, 4.0]]], [[[0.0, 2.0]]]])
    teacher = torch.tensor([[[[1.0, 0.0]]], [[[0.0, 5.0]]]])
    torch.testing.assert_close(factor_loss(student, teacher), torch.tensor([(0.4 + 0.8) / 2, 0.0]))
    torch.testing.assert_close(factor_loss(student, teacher, p=2), torch.tensor([(0.16 + 0.64) / 2, 0.0]))


def test_factors_of_two_grids():
    """Prevents: factors normalised before they are pooled, which weighs places by their neighbours."""
    student, teacher = waves(2, 3, 4, 6), waves(2, 3, 2, 3, shift=1.0)
    pooled = F.avg_pool2d(student, 2)
    torch.testing.assert_close(factor_loss(student, teacher), factor_loss(pooled, teacher))


def test_gradient():
    """Prevents: a gradient that differs from the loss's own finite differences."""
    student, teacher = waves(2, 3, 2, 2).double(), waves(2, 3, 2, 2, shift=1.0).double()
    assert torch.autograd.gradcheck(lambda x: factor_loss(x, teacher), (student.requires_grad_(),))


def test_torchdistill_has_the_same_distance():
    """Prevents: a distance that other implementations of the method don't have."""
    losses = pytest.importorskip("torchdistill.losses.mid_level")
    student, teacher = waves(3, 4, 2, 2), waves(3, 4, 2, 2, shift=1.0)
    expected = losses.FTLoss(p=1)({"translator": {"output": student}}, {"paraphraser": {"output": teacher}})
    torch.testing.assert_close(factor_loss(student, teacher).mean(), expected)


def ready(**options) -> tuple[FactorTransfer, StepOutput, ReferenceOutput]:
    """A term for a student's 3 channels and a teacher's 4, on 3×3 places, with the weights of `waves`."""
    term = FactorTransfer(layers={"a": "x"}, **options)
    term.taps, term.reference_taps = ("a",), ("x",)
    output = StepOutput(torch.zeros(2, 3), features={"a": waves(2, 3, 3, 3, shift=1.0).movedim(1, -1)})
    features = {"x": waves(2, 4, 3, 3).movedim(1, -1)}
    reference_output = ReferenceOutput(torch.zeros(2).long(), features=features)
    term.setup(output, reference_output, {}, None)
    with torch.no_grad():
        for module, shift in ((term.paraphrasers[0], 0.0), (term.translators[0], 10.0)):
            for number, parameter in enumerate(module.parameters()):
                parameter.copy_(0.3 * waves(*parameter.shape, shift=shift + number))
    return term, output, reference_output


def test_the_authors_code_has_the_same_values():
    """Prevents: another order of layers, or other activations; the figures are those of the authors' modules.

    They are `Paraphraser(4, 2)` and `Translator(3, 2)` of Jangho-Kim/Factor-Transfer-pytorch with these weights.
    """
    term, output, reference_output = ready()
    assert term(output, reference_output, {}).mean().item() == pytest.approx(0.22844426, rel=1e-5)
    term.in_first_stage = True
    assert term(StepOutput(torch.zeros(2, 0)), reference_output, {}).mean().item() == pytest.approx(0.4678990, rel=1e-5)


def test_the_translator_alone_learns_beside_the_student():
    """Prevents: a paraphraser that moves with the student, so that both agree on nothing."""
    term, output, reference_output = ready(rate=0.75)
    assert [p.weight.shape[0] for p in term.paraphrasers[0].encoder[::2]] == [4, 3, 3]
    output.features["a"].requires_grad_()
    term(output, reference_output, {}).sum().backward()
    assert output.features["a"].grad.norm() > 0
    assert all(parameter.grad is not None for parameter in term.translators.parameters())
    assert not any(parameter.requires_grad for parameter in term.paraphrasers.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0}, "rate must be a finite number above 0"),
        ({"p": 3}, "p is 3. Factors are compared with the exponent 1 or 2"),
        ({"stage_epochs": 0}, "stage_epochs must be a finite number above 0"),
    ],
)
def test_options_are_checked(options, message):
    """Prevents: factors without channels, or a paraphraser that never learnt."""
    with pytest.raises(ValueError, match=message):
        FactorTransfer(**options)


@pytest.mark.parametrize("shape", [(2, 6), (2, 5, 6)])
def test_features_without_rows_and_columns(shape):
    """Prevents: a message from inside a convolution, for texts and pooled layers."""
    term = FactorTransfer(layers={"a": "x"})
    term.taps, term.reference_taps = ("a",), ("x",)
    output = StepOutput(torch.zeros(2, 3), features={"a": torch.zeros(shape)})
    reference_output = ReferenceOutput(torch.zeros(2).long(), features={"x": torch.zeros(shape)})
    with pytest.raises(ValueError, match=r"layer 'a' gives \(2, .*without rows and columns.*'hint'"):
        term.setup(output, reference_output, {}, None)


def test_layers_of_other_terms():
    """Prevents: a pooled layer that another term compares, such as a hint's, refused as if it were this one's."""
    term = FactorTransfer()
    term.taps, term.reference_taps = ("own",), ("theirs",)
    output = StepOutput(torch.zeros(2, 3), features={"own": waves(2, 4, 4, 3), "of another term": torch.zeros(2, 5)})
    term.setup(output, ReferenceOutput(torch.zeros(2), features={"theirs": waves(2, 4, 4, 6)}), {}, None)
    assert len(term.translators) == 1
