"""The same losses in torchdistill, on fixed features."""

import pytest
import torch
from torch import nn

from hf_e2kd.terms import logits_loss
from hf_e2kd.terms.features.activation_boundary import activation_boundary_loss
from hf_e2kd.terms.features.attention_transfer import attention_transfer_loss
from hf_e2kd.terms.features.review_kd import ReviewKD
from tests.terms.features import set_up, waves

mid_level = pytest.importorskip("torchdistill.losses.mid_level", reason="needs the extra torchdistill")


def channels_first(features):
    return features.movedim(-1, 1)


def io(features, name="layer"):
    return {name: {"output": features}}


SIDES = {side: {"path": "layer", "io": "output"} for side in ("student", "teacher")}
MODULES = {f"{side}_module_{part}": value for side in SIDES for part, value in (("path", "layer"), ("io", "output"))}


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl(temperature):
    """Prevents: another temperature, or α of the hard loss: there it weights that, as 1 − α does in e²KD's Eq. 1."""
    student, teacher = 3 * waves(4, 6, step=0.7), 4 * waves(4, 6, step=1.3)
    labels = torch.tensor([0, 3, 5, 2])
    theirs = mid_level.KDLoss("layer", "output", "layer", "output", temperature, alpha=0.3, reduction="batchmean")
    expected = theirs(io(student), io(teacher), labels)
    soft = logits_loss(student, teacher, temperature=temperature).mean()
    torch.testing.assert_close(0.3 * nn.functional.cross_entropy(student, labels) + 0.7 * soft, expected)


def test_dist():
    """Prevents: other relations."""
    student, teacher = 3 * waves(4, 6, step=0.7), 4 * waves(4, 6, step=1.3)
    expected = mid_level.DISTLoss(**MODULES, beta=2.0, gamma=0.5, tau=4.0)(io(student), io(teacher))
    torch.testing.assert_close(logits_loss(student, teacher, "dist", 4.0, beta=2.0, gamma=0.5).mean(), expected)


def test_attention_transfer():
    """Prevents: another norm or mean."""
    student, teacher = waves(2, 4, 4, 5, step=0.9), waves(2, 4, 4, 3, step=1.7)
    theirs = mid_level.ATLoss({"pair": {**SIDES, "factor": 1}}, mode="code")
    expected = theirs(io(channels_first(student)), io(channels_first(teacher)))
    torch.testing.assert_close(attention_transfer_loss(student, teacher).mean(), expected)


@pytest.mark.parametrize("margin", [1.0, 0.5])
def test_activation_boundary(margin):
    """Prevents: another loss than `AltActTransferLoss`."""
    student, teacher = 2 * waves(2, 4, 4, 3, step=0.9), waves(2, 4, 4, 3, step=1.7)
    theirs = mid_level.AltActTransferLoss({"pair": {**SIDES, "weight": 1}}, margin=margin, reduction="mean")
    expected = theirs(io(channels_first(student)), io(channels_first(teacher)))
    torch.testing.assert_close(activation_boundary_loss(student, teacher, margin).mean(), expected)


def test_review():
    """Prevents: another fusion than `AttentionBasedFusion`, or another loss than `HierarchicalContextLoss`."""
    from torchdistill.models.wrapper import AttentionBasedFusion

    sizes = [(8, 3, 5), (4, 4, 7)]
    student = [waves(2, size, size, own, step=0.3 + n) for n, (size, own, _) in enumerate(sizes)]
    teacher = [waves(2, size, size, theirs, step=0.7 + n) for n, (size, _, theirs) in enumerate(sizes)]
    term = ReviewKD(mid_channels=4)
    outputs = set_up(term, student, teacher)
    found = term(*outputs, {}).mean()
    expected, deeper = 0.0, None
    for fusion, (own, theirs) in zip(term.fusions, term.levels(*outputs), strict=True):
        other = AttentionBasedFusion(own.shape[-1], 4, theirs.shape[-1], fusion.attention is not None).double()
        for mine, copied in ((fusion.reduce, other.conv1), (fusion.expand, other.conv2)):
            copied.load_state_dict(mine.state_dict())
        if fusion.attention is not None:
            other.attention_conv[0].load_state_dict(fusion.attention.state_dict())
        compared, deeper = other(channels_first(own), deeper, own.shape[1])
        loss = mid_level.HierarchicalContextLoss(**MODULES)
        expected = expected + loss({"layer": {"output": (compared, deeper)}}, io(channels_first(theirs)))
    torch.testing.assert_close(found, expected)
