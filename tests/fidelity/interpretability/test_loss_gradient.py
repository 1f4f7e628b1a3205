"""Loss gradients: by finite differences, their energy on masks and edges, and their picture."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from hf_e2kd.fidelity.interpretability.loss_gradient import LossGradient, edge_masks, loss_gradient
from hf_e2kd.fidelity.interpretability.loss_gradient_figure import loss_gradient_panel
from hf_e2kd.metrics import energy_pointing_game
from tests.models import images


def test_equal_to_finite_differences(tiny):
    """Prevents: a mean over the batch, whose gradients shrink with it, and a batch norm that mixes its samples."""
    model, pixels, labels = tiny("resnet").double().train(), images(3).double(), torch.tensor([0, 4, 2])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = loss_gradient(model, pixels, labels)
    direction = torch.randn_like(pixels)

    def losses(step):
        with torch.no_grad():
            return nn.functional.cross_entropy(model.eval()(pixels + step * direction).logits, labels, reduction="none")

    differences = (losses(1e-5) - losses(-1e-5)) / 2e-5
    assert torch.allclose((found.gradients * direction).sum((1, 2, 3)), differences, rtol=1e-6)
    assert torch.allclose(found.losses, losses(0.0))
    alone = loss_gradient(model, pixels[1:2], labels[1:2])
    assert torch.allclose(alone.gradients, found.gradients[1:2])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_model_keeps_its_mode_and_gradients(tiny):
    model = tiny("resnet").train()
    loss_gradient(model, images(1), torch.tensor([0]))
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_in_half_precision(tiny):
    """Prevents: images of float32 that a model which was loaded in bfloat16 can't take."""
    found = loss_gradient(tiny("resnet").bfloat16(), images(2), torch.tensor([0, 4]))
    assert found.gradients.dtype == torch.float32 and found.gradients.any()


def test_the_share_of_the_energy_on_a_mask():
    """1² + 2² of 1² + 2² + 5² lie on the mask; tiny gradients have the same share."""
    gradients = torch.zeros(2, 2, 1, 3)
    gradients[0, :, 0, 0] = torch.tensor([1.0, -2.0])
    gradients[0, 0, 0, 2] = 5.0
    gradients[1] = gradients[0] * 1e-30
    found = LossGradient(gradients, torch.zeros(2))
    mask = torch.tensor([[[True, True, False]]]).expand(2, -1, -1)
    assert energy_pointing_game(found.energy, mask).tolist() == pytest.approx([5 / 30, 5 / 30])


def test_edges_are_where_the_brightness_changes():
    shown = torch.zeros(1, 3, 20, 20)
    shown[..., 10:] = 1
    edges = edge_masks(shown, margin=0)[0]
    assert edges[2:-2].any(1).all() and set(edges.nonzero()[:, 1].tolist()) <= {9, 10}
    assert edge_masks(shown, margin=2)[0].sum(1).max() == edges.sum(1).max() + 4
    assert not edge_masks(torch.full((1, 1, 8, 8), 0.5)).any()


def test_without_scikit_image_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.feature", None)
    with pytest.raises(ImportError, match=r"pip install 'hf-e2kd\[interpretability\]'"):
        edge_masks(torch.rand(1, 3, 8, 8))


def test_the_picture_shows_the_sign():
    """Prevents: a scale on which zero isn't in the middle."""
    gradient = torch.zeros(1, 1, 4, 4)
    gradient[0, 0, 0, 0], gradient[0, 0, 3, 3] = -1.0, 1.0
    figure = loss_gradient_panel(torch.rand(1, 1, 4, 4), {"scratch": gradient, "KD": torch.zeros(1, 1, 4, 4)})
    image, scratch, distilled = (axis.images[0].get_array() for axis in figure.axes)
    assert [axis.get_title() for axis in figure.axes] == ["image", "scratch", "KD"]
    assert scratch[0, 0] < 0.5 < scratch[3, 3] and np.all(scratch[1] == 0.5) and np.all(distilled == 0.5)
    coloured = loss_gradient_panel(torch.rand(2, 3, 4, 5), {"KD": torch.randn(2, 3, 4, 5)})
    assert [axis.images[0].get_array().shape for axis in coloured.axes] == [(4, 5, 3)] * 4


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 5]), r"labels holds \[5\], but the model's classes are 0 to 4"),
        (torch.tensor([0]), "for 2 images. Give one class each"),
        (torch.tensor([0.0, 1.0]), "type torch.float32"),
    ],
)
def test_wrong_labels(labels, message, tiny):
    with pytest.raises(ValueError, match=message):
        loss_gradient(tiny("resnet"), images(2), labels)


def test_what_cannot_be_differentiated_or_drawn(tiny):
    model = tiny("resnet")
    with pytest.raises(ValueError, match=r"samples \[1\] isn't finite"):
        loss_gradient(model, torch.stack([images(1)[0], torch.full((3, 32, 32), torch.nan)]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="gives one logit, whose cross-entropy is always 0"):
        loss_gradient(
            torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 1)), torch.rand(1, 3, 2, 2), torch.tensor([0])
        )
    model.config.problem_type = "multi_label_classification"
    with pytest.raises(ValueError, match="several labels a sample"):
        loss_gradient(model, images(1), torch.tensor([0]))
    with pytest.raises(ValueError, match="values from -.* undo the processor's normalisation"):
        edge_masks(images(1))
    with pytest.raises(ValueError, match="margin is -1"):
        edge_masks(torch.rand(1, 3, 8, 8), margin=-1)
    with pytest.raises(ValueError, match="'KD' are of shape"):
        loss_gradient_panel(torch.rand(1, 3, 8, 8), {"KD": torch.rand(1, 3, 4, 4)})
    with pytest.raises(ValueError, match="'KD' hold NaN"):
        loss_gradient_panel(torch.rand(1, 3, 8, 8), {"KD": torch.full((1, 3, 8, 8), torch.nan)})
