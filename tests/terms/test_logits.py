"""The loss between logits."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from hf_e2kd.fidelity.training import recorded_arguments
from hf_e2kd.terms import Logits, ReferenceOutput, StepOutput, logits, logits_loss, register_logits_loss
from tests.models import build
from tests.terms.features import waves
from tests.training import arguments, distiller, logged, samples


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


# --- DKD, DIST and hard labels ---------------------------------------------------------------------------------------

STUDENT, TEACHER = 3 * waves(4, 6, step=0.7), 4 * waves(4, 6, step=1.3)


def test_dkd_equals_the_authors_code():
    """Prevents: parts weighted otherwise than in the authors' `dkd_loss`, which gave these values for these logits."""
    labels = torch.tensor([0, 3, 5, 2])
    found = logits_loss(STUDENT, TEACHER, "dkd", temperature=4.0, labels=labels)
    assert found.shape == (4,) and found.mean().item() == pytest.approx(42.122972285147924)
    found = logits_loss(STUDENT, TEACHER, "dkd", labels=labels, alpha=1.0, beta=0.5)
    assert found.mean().item() == pytest.approx(1.3224082692144141)


def test_dkd_by_its_own_weights_is_kl():
    """Prevents: a target class left among the rest: KL = KL of target and rest + (1 − p_target)·KL among the rest."""
    labels = torch.tensor([0, 3, 5, 2])
    target = logits_loss(STUDENT, TEACHER, "dkd", 2.0, labels=labels, beta=0.0)
    rest = logits_loss(STUDENT, TEACHER, "dkd", 2.0, labels=labels, alpha=0.0, beta=1.0)
    share = 1 - (TEACHER / 2).softmax(1).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(target + share * rest, logits_loss(STUDENT, TEACHER, temperature=2.0))


def test_dkd_without_labels_takes_the_teachers_top_class():
    """Prevents: a sample without label, or of a class that isn't shared, decoupled by class −1."""
    top = TEACHER.argmax(1)
    expected = logits_loss(STUDENT, TEACHER, "dkd", labels=top)
    torch.testing.assert_close(logits_loss(STUDENT, TEACHER, "dkd"), expected)
    some = torch.where(torch.arange(4) < 2, -1, top)
    torch.testing.assert_close(logits_loss(STUDENT, TEACHER, "dkd", labels=some), expected)


def test_dkd_of_two_classes_and_of_certain_models():
    """Prevents: NaN where the rest is one class, or where probabilities round to 0 and 1."""
    student = torch.tensor([[0.0, 300.0], [-200.0, 200.0]]).requires_grad_()
    losses = logits_loss(student, torch.tensor([[300.0, 0.0], [200.0, -200.0]]), "dkd")
    losses.sum().backward()
    assert losses.tolist() == pytest.approx([300.0, 400.0]) and student.grad.isfinite().all()


def test_dist_equals_the_authors_code():
    """Prevents: covariances in the place of correlations, or one of both relations alone."""
    # The authors' `DIST` gave this for these logits; its 1e-8 beside the norms changes the tenth digit.
    found = logits_loss(STUDENT, TEACHER, "dist", beta=1.0, gamma=2.0)
    assert found.shape == (4,) and found.mean().item() == pytest.approx(2.5615111609657184, rel=1e-9)


def test_dist_by_its_relations():
    """Prevents: classes and samples swapped, a temperature of one side, or τ² left out."""
    own, theirs = (STUDENT / 3).softmax(1), (TEACHER / 3).softmax(1)
    classes = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(own, theirs, strict=True)])
    samples = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(own.T, theirs.T, strict=True)])
    found = logits_loss(STUDENT, TEACHER, "dist", 3.0, beta=2.0, gamma=0.5)
    torch.testing.assert_close(found, 9 * (2 * (1 - classes) + 0.5 * (1 - samples.mean())))


def test_dist_of_one_sample():
    """Prevents: NaN where a class has one sample, whose correlation isn't defined."""
    student = STUDENT[:1].clone().requires_grad_()
    found = logits_loss(student, TEACHER[:1], "dist")
    found.sum().backward()
    torch.testing.assert_close(found, logits_loss(STUDENT[:1], TEACHER[:1], "dist", gamma=0.0) + 1)
    assert student.grad.isfinite().all() and student.grad.norm() > 0


def test_hard_labels():
    """Prevents: soft labels, or a temperature that softens the student alone."""
    expected = F.cross_entropy(STUDENT, TEACHER.argmax(1), reduction="none")
    torch.testing.assert_close(logits_loss(STUDENT, TEACHER, "hard", temperature=4.0), expected)
    decisions = (TEACHER.sigmoid() > 0.5).double()
    expected = F.binary_cross_entropy(STUDENT.sigmoid(), decisions, reduction="none").mean(1)
    torch.testing.assert_close(logits_loss(STUDENT, TEACHER, "hard", multi_label=True), expected)


@pytest.mark.parametrize("loss", ["dkd", "dist", "hard"])
def test_their_gradients(loss):
    """Prevents: a wrong derivative."""
    assert torch.autograd.gradcheck(
        lambda x: logits_loss(x, TEACHER, loss, temperature=2.0), (STUDENT.clone().requires_grad_(),)
    )


@pytest.mark.parametrize("loss", ["dkd", "dist"])
def test_equal_logits_cost_nothing_by_them(loss):
    """Prevents: a constant of the teacher's."""
    torch.testing.assert_close(logits_loss(TEACHER, TEACHER + 2, loss), torch.zeros(4).double(), atol=1e-9, rtol=0)


def attached(problem, **options):
    student = build("resnet")
    student.config.problem_type = "multi_label_classification" if problem == "several" else None
    if problem == "score":
        student.config.num_labels = 1
    term = Logits(**options)
    term.attach(student, SimpleNamespace(student_logits=lambda logits: logits))
    return term


@pytest.mark.parametrize(
    ("problem", "loss", "message"),
    [
        ("several", "dkd", "'dkd' compares distributions over classes.*decides each class for itself.*'kl', 'hard'"),
        ("several", "dist", "'dist' compares distributions over classes"),
        *(
            ("score", loss, f"one score.*the loss '{loss}' would teach nothing.*'mse' or 'margin_mse'")
            for loss in ("kl", "dkd", "dist", "hard")
        ),
    ],
)
def test_problems_that_a_loss_does_not_fit(problem, loss, message):
    """Prevents: a softmax over classes that don't exclude each other, or over one."""
    with pytest.raises(ValueError, match=message):
        attached(problem, loss=loss)


def test_labels_of_the_batch_reach_the_loss():
    """Prevents: decoupling by the teacher's top class where the true label is there."""
    term = attached("one", loss="dkd", temperature=4.0, loss_options={"beta": "2"})
    labels = torch.tensor([0, -1, 3, 2])
    reference_output = ReferenceOutput(TEACHER.argmax(1), logits=TEACHER, shared_labels=labels)
    found = term(StepOutput(STUDENT), reference_output, {})
    torch.testing.assert_close(found, logits_loss(STUDENT, TEACHER, "dkd", 4.0, labels=labels, beta=2.0))
    assert "Decoupled Knowledge Distillation" in term.citation


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        ("dkd", {"gamma": 1}, "'dkd' has no option 'gamma'. Its options: alpha, beta."),
        ("dkd", {"labels": 1}, "'dkd' has no option 'labels'"),
        ("kl", {"alpha": 1}, "'kl' has no option 'alpha'. Its options: none."),
        ("dist", {"beta": -1}, "'beta' of the logits loss 'dist' must be a finite number of at least 0"),
    ],
)
def test_options_are_checked(tmp_path, loss, options, message):
    """Prevents: an option that has no effect, by the arguments or by an object."""
    for given in (options, json.dumps(options)):
        with pytest.raises(ValueError, match=message):
            arguments(tmp_path, logits_loss=loss, logits_loss_options=given)
    with pytest.raises(ValueError, match=message):
        attached("one", loss=loss, loss_options=options)


def test_a_training_by_dkd(tmp_path):
    """Prevents: options of the arguments that don't reach the loss."""
    settings = {"logits_loss": "dkd", "logits_loss_options": '{"beta": 2}', "temperature": 4.0, "max_steps": 1}
    settings |= {"explanation_weight": 0.0, "evaluate_explanations": False}
    trainer = distiller(build("resnet"), build("resnet", seed=1), tmp_path, settings, train_dataset=samples(4))
    trainer.train()
    pixels = torch.stack([sample["pixel_values"] for sample in samples(4)])
    labels = torch.tensor([sample["labels"] for sample in samples(4)])
    own, theirs = build("resnet").train()(pixels).logits, build("resnet", seed=1)(pixels).logits
    expected = logits_loss(own, theirs, "dkd", 4.0, labels=labels, beta=2.0).mean().item()
    assert logged(trainer, "loss_logits") == pytest.approx([expected], rel=1e-5)
    record = recorded_arguments(trainer.args)
    assert (record["logits_loss"], record["logits_loss_options"]) == ("dkd", {"beta": 2})


def test_a_registered_loss_has_options_and_labels(monkeypatch):
    """Prevents: options and labels for the built-in losses alone."""
    monkeypatch.setattr(logits, "_LOSSES", dict(logits._LOSSES))

    def of_the_label(student, teacher, temperature, labels=None, power: float = 2.0):
        return (student - teacher).abs().pow(power).gather(1, labels[:, None])[:, 0]

    register_logits_loss("of_the_label", of_the_label)
    term = attached("one", loss="of_the_label", loss_options={"power": "1"})
    labels = torch.tensor([0, 1, 3, 2])
    found = term(StepOutput(STUDENT), ReferenceOutput(labels, logits=TEACHER, shared_labels=labels), {})
    torch.testing.assert_close(found, (STUDENT - TEACHER).abs()[torch.arange(4), labels])
