"""Distillation with self-supervision: its parts on fixed tensors, its turned images, and what it refuses."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hf_e2kd.terms import ReferenceOutput, StepOutput
from hf_e2kd.terms.features.sskd import SSKD, keep_by_rank, kept_mean, similarities
from tests.models import build
from tests.terms.waves import waves

LABELS = torch.tensor([0, 2, 4, 1])


def ready(**options) -> tuple[SSKD, StepOutput, ReferenceOutput, dict[str, torch.Tensor]]:
    """A term whose heads give the features as they are, and outputs of four images, each before its turned ones."""
    term = SSKD(layers={"a": "x"}, **options)
    term.taps, term.reference_taps = ("a",), ("x",)
    term._shared = lambda logits: logits
    logits, knowledge = 3 * waves(16, 5), 3 * waves(16, 5, shift=1.0)
    own, theirs = waves(16, 6, shift=2.0), waves(16, 7, shift=3.0)
    upright = torch.arange(16) % 4 == 0

    def step(rows, view=None):
        return StepOutput(logits[rows].requires_grad_(), features={"a": own[rows].requires_grad_()}, view=view)

    def reference(rows, view=None, shared_labels=None):
        target = torch.zeros(int(rows.sum())).long()
        features = {"x": theirs[rows]}
        return ReferenceOutput(
            target, logits=knowledge[rows], features=features, view=view, shared_labels=shared_labels
        )

    output, reference_output = step(upright, step(~upright)), reference(upright, reference(~upright), LABELS)
    inputs = {"pixel_values": torch.zeros(4, 3, 2, 2), "labels": LABELS}
    term.setup(output, reference_output, inputs, None)
    term.student_head = term.teacher_head = nn.Identity()
    return term, output, reference_output, inputs


@pytest.mark.parametrize(
    ("ratios", "parts", "total"),
    [
        ((0.75, 1.0), (3.8805437, 1.9126235, 0.4603470, 1.8403827), 15.1744080),
        ((0.5, 0.5), (3.8805437, 1.9126235, 0.3940755, 1.8890989), 14.6432266),
    ],
)
def test_the_authors_code_has_the_same_values(ratios, parts, total):
    """Prevents: turned images beside others' upright ones, another choice of samples, or parts with others' weights.

    The figures are those of the lines of xuguodong03/SSKD's `student.py` on these logits and embeddings.
    """
    term, *given = ready(ratios=ratios)
    assert term(*given).item() == pytest.approx(total, rel=1e-5)
    found = [term.logged[f"sskd_{name}"].item() for name in ("labels", "logits", "similarities", "rotated")]
    assert found == pytest.approx(parts, rel=1e-5)


def test_torchdistill_has_the_same_loss():
    """Prevents: a loss that other implementations of the method don't have."""
    losses = pytest.importorskip("torchdistill.losses.mid_level")
    paths = {f"{side}_{kind}_path": kind for side in ("student", "teacher") for kind in ("linear_module", "ss_module")}
    settings = {"kl_temp": 4.0, "ss_temp": 0.5, "tf_temp": 4.0, "ss_ratio": 0.75, "tf_ratio": 1.0}
    theirs = losses.SSKDLoss(**paths, **settings, loss_weights=[1.0, 0.9, 10.0, 2.7])
    student = {"linear_module": {"output": 3 * waves(16, 5)}, "ss_module": {"output": waves(16, 6, shift=2.0)}}
    teacher = {
        "linear_module": {"output": 3 * waves(16, 5, shift=1.0)},
        "ss_module": {"output": waves(16, 7, shift=3.0)},
    }
    term, *given = ready()
    torch.testing.assert_close(term(*given), theirs(student, teacher, LABELS))


def test_similarities_by_hand():
    """Prevents: rows and columns exchanged, or a product in the place of a cosine."""
    upright, turned = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 1.0], [0.0, 5.0], [-4.0, 0.0]])
    expected = torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, 1.0], [-1.0, 0.0]])
    torch.testing.assert_close(similarities(upright, turned), expected)


def test_rows_are_kept_by_the_rank_of_the_truth():
    """Prevents: wrong answers kept before right ones, a share of all rows, or an unknown answer taken for right."""
    scores = torch.tensor([[3.0, 2.0, 1.0]]).repeat(5, 1)
    truth = torch.tensor([2, 0, 1, -1, 0])
    assert keep_by_rank(scores, truth, 1.0).tolist() == [True] * 5
    assert keep_by_rank(scores, truth, 0.7).tolist() == [True, True, True, False, True]
    assert keep_by_rank(scores, truth, 0.6).tolist() == [False, True, True, False, True]
    assert keep_by_rank(scores, truth, 0.0).tolist() == [False, True, False, False, True]
    assert kept_mean(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([True, False, True])) == 2.5
    assert kept_mean(torch.ones(2), torch.zeros(2, dtype=torch.bool)) == 0


def test_gradient():
    """Prevents: a gradient of one part alone, or of the teacher's side."""
    term, output, reference_output, inputs = ready()
    leaves = [output.logits, output.view.logits, output.features["a"], output.view.features["a"]]
    leaves = [leaf.detach().double().requires_grad_() for leaf in leaves]

    def loss(logits, turned_logits, features, turned):
        view = StepOutput(turned_logits, features={"a": turned})
        return term(StepOutput(logits, features={"a": features}, view=view), reference_output, inputs)

    assert torch.autograd.gradcheck(loss, leaves, atol=1e-4)


def test_the_stage_tells_turned_images_apart():
    """Prevents: a head of the teacher that learns from the student, or matches the wrong upright image."""
    term, _, reference_output, inputs = ready()
    term.in_first_stage = True
    empty = StepOutput(torch.zeros(4, 0), view=StepOutput(torch.zeros(12, 0)))
    upright, turned = reference_output.features["x"], reference_output.view.features["x"]
    cosines = F.cosine_similarity(turned[:, None], upright[None], dim=2)
    expected = F.cross_entropy(cosines, torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]))
    torch.testing.assert_close(term(empty, reference_output, inputs), expected)


def test_images_are_turned():
    """Prevents: images turned the other way or mirrored, labels of other images, or a mask of the upright image."""
    pixels = waves(2, 3, 4, 4)
    view = SSKD().views(
        {"pixel_values": pixels, "teacher_pixel_values": pixels, "labels": torch.tensor([3, 1]), "mask": pixels}
    )
    assert set(view) == {"pixel_values", "teacher_pixel_values", "labels"}
    assert view["labels"].tolist() == [3, 3, 3, 1, 1, 1]
    assert torch.equal(view["pixel_values"][0], pixels[0].transpose(1, 2).flip(1))
    assert torch.equal(view["pixel_values"][4], pixels[1].flip((1, 2)))
    assert torch.equal(view["teacher_pixel_values"], view["pixel_values"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": {"a": "x", "b": "y"}}, "compares one pair of layers, and 2 are given"),
        ({"weights": [1.0]}, r"weights of the term 'sskd' are 4 numbers, not \[1.0\]"),
        ({"temperatures": [4.0, 0.0, 4.0]}, "Each of temperatures must be a finite number above 0"),
        ({"ratios": [0.5, 1.5]}, "ratios are shares from 0 to 1"),
        ({"stage_epochs": 0}, "stage_epochs must be a finite number above 0"),
    ],
)
def test_options_are_checked(options, message):
    """Prevents: a training that starts and fails, or a head that never learnt, hours later."""
    with pytest.raises(ValueError, match=message):
        SSKD(**options)


def test_what_can_not_be_turned_or_ranked():
    """Prevents: a message from inside a concatenation, or shares of mixed images read as one label."""
    with pytest.raises(
        ValueError, match=r"turns images by 90 degrees, and 'pixel_values' has the shape \(2, 3, 4, 6\)"
    ):
        SSKD().views({"pixel_values": torch.zeros(2, 3, 4, 6)})
    with pytest.raises(ValueError, match=r"turns images, and the batch has none.*'input_ids'.*for texts"):
        SSKD().views({"input_ids": torch.zeros(2, 3)})
    term, output, reference_output, inputs = ready()
    with pytest.raises(ValueError, match=r"one label a sample, \(B,\), and a batch's labels are of the shape \(4, 5\)"):
        term(output, reference_output, {**inputs, "labels": torch.zeros(4, 5)})
    assert term.eval()(output, reference_output, {"pixel_values": inputs["pixel_values"]}) is None
    student = build("vit")
    student.config.problem_type = "multi_label_classification"
    with pytest.raises(ValueError, match=r"ranks classes by one label a sample, and ViTForImageClassification gives"):
        term.attach(student, SimpleNamespace())
