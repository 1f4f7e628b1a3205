"""Hard sigmoids: trained through, with the same numbers, and put back."""

import pytest
import timm
import torch
from torch import nn
from transformers import PPLCNetConfig, PPLCNetForImageClassification

from hf_e2kd.explainers import GradCAM, InputXGradient, Saliency
from hf_e2kd.explainers.hard_gates import differentiable_gates
from hf_e2kd.testing import check_explainer
from tests.models import images, randomise

TARGET = torch.tensor([3, 1])


class Gated(nn.Module):
    """Squeezed features that open gates for the others, before and behind a layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 4, 4), nn.Conv2d(6, 6, 3, padding=1)
        self.gates, self.head = nn.Hardsigmoid(inplace=True), nn.Linear(6, 5)

    def forward(self, pixel_values):
        features = self.first(pixel_values)
        features = self.second(features * self.gates(features.mean((2, 3), keepdim=True)))
        return self.head((features * self.gates(features)).mean((2, 3)))


@pytest.mark.parametrize(
    "explainer", [InputXGradient(), Saliency(), GradCAM(target_layer="first")], ids=lambda explainer: explainer.name
)
def test_they_train(explainer):
    """Prevents: a family that is refused for its gates alone, and gates whose second derivative is left out."""
    torch.manual_seed(0)
    model = Gated()
    randomise(model)
    check_explainer(explainer, model, {"pixel_values": images()}, TARGET)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PPLCNetForImageClassification(PPLCNetConfig(num_labels=5, scale=0.25)),
        lambda: timm.create_model("mobilenetv3_small_050", num_classes=5),
    ],
    ids=["PP-LCNet", "MobileNetV3"],
)
def test_families_with_them_train(make):
    """Prevents: gates of a family that are no modules of torch's."""
    model = make().eval()
    found = InputXGradient()(model, {"pixel_values": images()}, TARGET, create_graph=True)
    found.maps.square().sum().backward()
    assert sum(isinstance(module, nn.Hardsigmoid) for module in model.modules()) > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.ndim > 1)


def test_values_and_modules_stay():
    """Prevents: logits that change with the explanation, and a module that can't be pickled afterwards."""
    gates, x = nn.Hardsigmoid(), torch.linspace(-4, 4, 1001)
    expected = gates(x)
    with differentiable_gates(gates), differentiable_gates(gates):
        assert torch.equal(gates(x), expected)
        assert "forward" in vars(gates)
    assert "forward" not in vars(gates)
    with differentiable_gates(written := nn.Hardsigmoid(inplace=True)):
        written(changed := x.clone())
    assert torch.equal(changed, expected)
    with pytest.raises(ArithmeticError), differentiable_gates(gates):
        raise ArithmeticError
    assert "forward" not in vars(gates)
