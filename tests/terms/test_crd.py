"""Contrastive distillation: its loss and its banks on fixed tensors, and what it refuses."""

import math

import pytest
import torch
from torch.nn import functional as F

from hf_e2kd.terms import ReferenceOutput, StepOutput
from hf_e2kd.terms.features.crd import CRD, crd_loss
from tests.terms.waves import waves

ROWS = 10
IDS = torch.tensor([4, 7, 1])


def test_the_loss_by_hand():
    """Prevents: a wrong sign, negatives that don't count in m, or N and m in each other's place."""
    scores = torch.tensor([[0.3, -1.0, 0.5, 2.0]])
    counted = torch.tensor([[True, True, False]])
    noise = 2 / 8
    right, wrong = math.exp(0.3), [math.exp(-1.0), math.exp(0.5)]
    expected = -math.log(right / (right + noise)) - sum(math.log(noise / (each + noise)) for each in wrong)
    found = crd_loss(scores[:, 0], scores[:, 1:], counted, samples=8)
    torch.testing.assert_close(found, torch.tensor([expected]), rtol=1e-5, atol=0)


def test_a_sample_without_negatives_costs_nothing():
    """Prevents: NaN, in value or gradient, where a batch's rows are all of the sample's class."""
    scores = torch.zeros(1, 4, requires_grad=True)
    loss = crd_loss(scores[:, 0], scores[:, 1:], torch.zeros(1, 3, dtype=torch.bool), samples=8)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert gradient.isfinite().all()


def test_large_scores():
    """Prevents: an overflow of exp at a low temperature."""
    loss = crd_loss(torch.tensor([200.0]), torch.tensor([[-200.0, 200.0]]), torch.ones(1, 2, dtype=torch.bool), 2)
    assert loss.item() == pytest.approx(200.0)


def test_gradient():
    """Prevents: a gradient that differs from the loss's own finite differences."""
    counted = torch.tensor([[True, False, True], [True, True, True]])
    inputs = waves(2).double().requires_grad_(), waves(2, 3, shift=1.0).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda positive, negatives: crd_loss(positive, negatives, counted, 8), inputs)


def outputs() -> tuple[StepOutput, ReferenceOutput]:
    output = StepOutput(torch.zeros(3, 2), features={"a": waves(3, 6, shift=4.0).requires_grad_()})
    return output, ReferenceOutput(torch.zeros(3).long(), features={"x": waves(3, 5, shift=5.0)})


def ready(**options) -> tuple[CRD, StepOutput, ReferenceOutput]:
    """A term of ten training samples whose weights and banks are those of `waves`."""
    term = CRD(layers={"a": "x"}, dim=4, **options)
    term.taps, term.reference_taps = ("a",), ("x",)
    term.setup(*outputs(), {}, range(ROWS))
    with torch.no_grad():
        for layer, shift in zip(term.embeddings, (0.0, 1.0), strict=True):
            layer.weight.copy_(waves(*layer.weight.shape, shift=shift))
            layer.bias.copy_(waves(4, shift=shift))
        for bank, shift in ((term.student_bank, 2.0), (term.teacher_bank, 3.0)):
            bank.copy_(F.normalize(waves(ROWS, 4, shift=shift), dim=1))
    return term, *outputs()


@pytest.mark.parametrize(
    ("classes", "values"),
    [
        (None, [(31.6186905, 2.7049267), (31.0643997, 3.2508249)]),
        (torch.arange(ROWS) % 2, [(29.2226257, 2.8078690), (28.4063339, 3.1886427)]),
    ],
    ids=["instances", "classes"],
)
def test_the_authors_code_has_the_same_values(classes, values):
    """Prevents: banks in each other's place, another constant Z or update, or negatives of the sample's own class.

    The figures, loss and norm of the student's gradient at two steps, are those of HobbitLong/RepDistiller's `CRDLoss`
    with these weights and banks, its negatives all other rows, or all rows of other classes.
    """
    term, output, reference_output = ready()
    inputs = {"sample_id": IDS}
    if classes is not None:
        term.classes.copy_(classes)
        inputs["labels"] = classes[IDS]
    for loss, norm in values:
        losses = term(output, reference_output, inputs)
        assert losses.mean().item() == pytest.approx(loss, rel=1e-5)
        (gradient,) = torch.autograd.grad(losses.mean(), output.features["a"])
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-5)
    sums = term.student_bank.sum().item(), term.teacher_bank.sum().item()
    assert sums == pytest.approx((-0.1991764, -0.6881065), rel=1e-5)


def test_classes_are_learnt_with_the_samples():
    """Prevents: labels that are never kept, or one of an unlabelled sample that excludes all unlabelled ones."""
    term, output, reference_output = ready()
    first = term(output, reference_output, {"sample_id": IDS, "labels": torch.tensor([1, 1, -100])})
    assert term.classes.tolist() == [-1, -1, -1, -1, 1, -1, -1, 1, -1, -1]
    assert len(first) == 3
    seen = []
    own = term.constants
    term.constants = lambda scores, excluded: seen.append(excluded) or own(scores, excluded)
    term(output, reference_output, {"sample_id": IDS, "labels": torch.tensor([1, 1, -100])})
    assert seen[0].nonzero().tolist() == [[0, 4], [0, 7], [1, 4], [1, 7], [2, 1]]


def test_padding_of_texts_counts_nowhere():
    """Prevents: embeddings of padded tokens, or of a teacher's own tokens by the student's mask."""
    term = CRD(layers={"a": "x"}, dim=4)
    term.taps, term.reference_taps = ("a",), ("x",)
    own, theirs = waves(2, 4, 6), waves(2, 3, 5, shift=1.0)
    output = StepOutput(torch.zeros(2, 2), features={"a": own})
    reference_output = ReferenceOutput(torch.zeros(2).long(), features={"x": theirs})
    term.setup(output, reference_output, {}, range(ROWS))
    masks = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]), torch.tensor([[1, 1, 1], [1, 0, 0]])
    inputs = {"attention_mask": masks[0], "teacher_attention_mask": masks[1]}
    student, teacher = term.embed(output, reference_output, inputs)
    expected = term.embeddings[0](own[0, :3].mean(0)), term.embeddings[1](theirs[1, 0])
    torch.testing.assert_close(student[0], F.normalize(expected[0], dim=0))
    torch.testing.assert_close(teacher[1], F.normalize(expected[1], dim=0))


def test_draws():
    """Prevents: the same negatives at each step, others on another process, or draws from a small bank."""
    term, other = ready(negatives=6)[0], ready(negatives=6)[0]
    other.seed_and_draws.copy_(term.seed_and_draws)
    draws = [term.draw(torch.device("cpu")).tolist() for _ in range(3)]
    assert [other.draw(torch.device("cpu")).tolist() for _ in range(3)] == draws
    assert draws[0] != draws[1] and len(draws[0]) == 6
    assert ready(negatives=ROWS)[0].draw(torch.device("cpu")).tolist() == list(range(ROWS))


def test_a_sample_that_stands_twice_is_written_once():
    """Prevents: a row that differs between processes, by the order of two writes."""
    term, output, reference_output = ready()
    expected = F.normalize(0.5 * term.student_bank[4] + 0.5 * term.embed(output, reference_output, {})[0][0], dim=0)
    term(output, reference_output, {"sample_id": torch.tensor([4, 7, 4])})
    torch.testing.assert_close(term.student_bank[4], expected)


def test_an_evaluation_leaves_the_banks():
    """Prevents: evaluation samples written over training samples of the same number, or no loss at all."""
    term, output, reference_output = ready(negatives=6)
    before = {name: value.clone() for name, value in term.state_dict().items()}
    losses = term.eval()(output, reference_output, {})
    own, theirs = term.embed(output, reference_output, {})
    positive = (own * theirs).sum(1) / 0.07
    rows = term.draw(own.device)
    expected = torch.zeros(3)
    for anchor, bank in ((own, term.teacher_bank), (theirs, term.student_bank)):
        scores = torch.cat([positive[:, None], anchor @ bank[rows].T / 0.07], dim=1)
        scores = scores - (scores.exp().mean() * ROWS).log()
        expected += crd_loss(scores[:, 0], scores[:, 1:], torch.ones(3, 6, dtype=torch.bool), ROWS)
    torch.testing.assert_close(losses, expected)
    for name, value in term.state_dict().items():
        torch.testing.assert_close(value, before[name], equal_nan=True)


def test_the_size_of_the_banks_is_said(caplog):
    """Prevents: a machine that runs out of memory without a word of what took it."""
    with caplog.at_level("WARNING"):
        ready()
    assert "'crd' makes two banks of 10 × 4 numbers, 320 bytes" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": {"a": "x", "b": "y"}}, "compares one pair of layers, and 2 are given"),
        ({"dim": 0}, "dim must be a finite number of at least 1"),
        ({"negatives": 0.5}, "negatives must be a finite number of at least 1"),
        ({"temperature": 0}, "temperature must be a finite number above 0"),
        ({"momentum": 1}, "momentum is 1, with which the banks would never change"),
    ],
)
def test_options_are_checked(options, message):
    """Prevents: banks that never move, or an error at the first step."""
    with pytest.raises(ValueError, match=message):
        CRD(**options)


def test_without_ids():
    """Prevents: streams whose samples have no place in a bank, and batches of a data loader of the user's own."""
    term = CRD(layers={"a": "x"})
    term.taps, term.reference_taps = ("a",), ("x",)
    with pytest.raises(ValueError, match=r"known by its position, and a generator has no length.*place of a stream"):
        term.setup(*outputs(), {}, (sample for sample in ()))
    with pytest.raises(ValueError, match="there is no training data"):
        term.setup(*outputs(), {}, None)
    with pytest.raises(ValueError, match="the batch has no 'sample_id'.*get_train_dataloader"):
        ready()[0](*outputs(), {})
