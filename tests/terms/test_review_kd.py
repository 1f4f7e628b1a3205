"""Knowledge review."""

import pytest
import torch
from torch.nn import functional as F

from hf_e2kd.terms.features.review_kd import ReviewKD, hierarchical_context_loss
from tests.terms.features import set_up, waves

STUDENT = [waves(2, size, size, channels, step=0.3 + n) for n, (size, channels) in enumerate([(8, 3), (4, 4), (2, 6)])]


def teacher(*sizes):
    return [
        waves(2, size, size, channels, step=0.7 + n)
        for n, (size, channels) in enumerate(zip(sizes, (5, 7, 9), strict=True))
    ]


def test_context_loss_by_hand():
    """Prevents: sizes above the features' own, weights that don't fall, or no mean over them."""
    student = waves(2, 3, 3, 4)
    # Of 3×3 cells: as they are, 2×2 and 1×1.
    parts = [student.square().mean((1, 2, 3))]
    parts += [F.adaptive_avg_pool2d(student.movedim(-1, 1), n).square().mean((1, 2, 3)) for n in (2, 1)]
    expected = (parts[0] + parts[1] / 2 + parts[2] / 4) / 1.75
    torch.testing.assert_close(hierarchical_context_loss(student, torch.zeros_like(student)), expected)
    pooled = waves(2, 1, 1, 4)
    torch.testing.assert_close(hierarchical_context_loss(pooled, 0 * pooled), pooled.square().mean((1, 2, 3)))


@pytest.mark.parametrize(
    ("sizes", "expected"), [((8, 4, 2), 5.436283135261621), ((6, 4, 3), 5.30276892556569)], ids=["equal", "other"]
)
def test_equals_the_authors_code(sizes, expected):
    """Prevents: fusion in another order, without the pooled level, or resized elsewhere than in the authors' code.

    Their code gave these values for these features and parameters: that of ImageNet for equal grids, that of CIFAR-100
    (in mdistiller) for others.
    """
    term = ReviewKD(mid_channels=4)
    outputs = set_up(term, STUDENT, teacher(*sizes))
    assert term(*outputs, {}).mean().item() == pytest.approx(expected)


def test_gradient():
    """Prevents: a wrong derivative through the fusions, of features and parameters."""
    term = ReviewKD(mid_channels=2)
    student, taught = [waves(2, 3, 3, 2), waves(2, 2, 2, 3)], [waves(2, 3, 3, 2, step=0.7), waves(2, 2, 2, 2, step=0.9)]
    output, reference_output = set_up(term, student, taught)
    term.eval()  # running statistics, so that the parameters' differences are smooth
    names = dict(term.named_parameters())

    def loss(first, last, *values):
        output.features.update({"0": first, "1": last})
        given = dict(zip(names, values, strict=True))
        return torch.func.functional_call(term, given, (output, reference_output, {}))

    leaves = [*student, *names.values()]
    assert torch.autograd.gradcheck(loss, [leaf.detach().clone().requires_grad_() for leaf in leaves])


def test_channels_of_the_fusion():
    """Prevents: a fusion as wide as the teacher, or as the student's first layer."""
    term = ReviewKD()
    set_up(term, STUDENT, teacher(8, 4, 2))
    assert {fusion.reduce[0].out_channels for fusion in term.fusions} == {6}
    wide = ReviewKD()
    set_up(wide, [waves(2, 2, 2, 600)], [waves(2, 2, 2, 3)])
    assert wide.fusions[0].reduce[0].out_channels == 512


def test_default_layers():
    """Prevents: a fusion of a stem's large maps, or of each block of a deep transformer."""
    stem = ["act1", *(f"layer{number}" for number in (1, 2, 3, 4))]
    blocks = [f"blocks.{number}" for number in range(12)]
    assert ReviewKD().default_layers(stem, stem) == {layer: layer for layer in stem[1:]}
    assert list(ReviewKD().default_layers(blocks, blocks)) == ["blocks.2", "blocks.5", "blocks.8", "blocks.11"]


@pytest.mark.parametrize(
    ("student", "message"),
    [(waves(2, 5, 4), "texts have a row of tokens. Take 'hint'"), (waves(2, 4), "the layer '0' has none")],
)
def test_features_without_a_grid_are_refused(student, message):
    """Prevents: a message of a convolution's."""
    with pytest.raises(ValueError, match=message):
        set_up(ReviewKD(), [student], [student])


def test_options_are_checked():
    """Prevents: a fusion without channels."""
    with pytest.raises(ValueError, match="mid_channels must be a finite number of at least 1"):
        ReviewKD(mid_channels=0)
