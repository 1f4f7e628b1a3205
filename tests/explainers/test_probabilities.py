"""Explanations of probabilities, and gradient SHAP, whose sums must lie in −1 to 1 for XDistillation."""

import numpy as np
import pytest
import torch
from torch import nn

from hf_e2kd import explain
from hf_e2kd.architectures.functions import FunctionModel
from hf_e2kd.explainers import GradCAM, GradientShap, IntegratedGradients
from hf_e2kd.testing import check_explainer
from tests.models import CLASSES, build, images

TARGET = torch.tensor([3, 1])


class Linear(nn.Module):
    """A linear classifier of 2×2 pixels, whose Shapley values are known."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 3)

    def forward(self, pixel_values):
        return self.layer(pixel_values.flatten(1))


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_gradient_of_the_probability_is_that_of_the_logits_by_the_chain_rule(name):
    """∂p_t/∂x = p_t Σ_c (δ_tc − p_c) ∂z_c/∂x: prevents the logit's gradient, or the softmax of another class."""
    model, pixels = build(name), images()
    found = explain(model, pixels, method="input_x_gradient", target=TARGET, output="probability")
    probabilities = model(pixels).logits.softmax(1)
    torch.testing.assert_close(found.logits, probabilities, rtol=1e-5, atol=1e-6)
    every = torch.arange(CLASSES).expand(2, -1)
    maps = explain(model, pixels, method="input_x_gradient", target=every).maps
    chosen = probabilities.gather(1, TARGET[:, None])
    cotangents = chosen * (nn.functional.one_hot(TARGET, CLASSES) - probabilities)
    torch.testing.assert_close(found.maps, torch.einsum("bk,bkhw->bhw", cotangents, maps), rtol=1e-3, atol=1e-6)


def test_gradcam_of_the_probability_equals_autograd():
    model, pixels = build("resnet"), images()
    maps = explain(model, pixels, method=GradCAM(), target=TARGET, output="probability").maps
    features = model.resnet(pixels).last_hidden_state
    logits = model.classifier(model.resnet.pooler(features))
    chosen = logits.softmax(1).gather(1, TARGET[:, None]).sum()
    (gradient,) = torch.autograd.grad(chosen, features)
    expected = (gradient.mean((2, 3), keepdim=True) * features).sum(1).relu()
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-7)
    assert maps.any()


@pytest.mark.parametrize(("method", "option"), [("gradcam", "target_layer"), ("input_x_gradient", "layer")])
def test_layers_are_named_as_in_the_model(method, option):
    """Prevents: a layer that is only known by its path in the model made for the explanation."""
    model, pixels = build("resnet"), images()
    path = "resnet.encoder.stages.0"
    maps = explain(model, pixels, method, target=TARGET, output="probability", **{option: path}).maps
    assert maps.shape == explain(model, pixels, method, target=TARGET, **{option: path}).maps.shape
    with pytest.raises(ValueError, match="has no layer 'resnet.encoder.stages.7'"):
        explain(model, pixels, method, output="probability", **{option: "resnet.encoder.stages.7"})


def test_integrated_gradients_sum_to_the_probabilitys_rise():
    model, pixels = build("resnet").double(), images().double()
    found = explain(model, pixels, method=IntegratedGradients(n_steps=300), target=TARGET, output="probability")
    rise = (model(pixels).logits.softmax(1) - model(0 * pixels).logits.softmax(1)).gather(1, TARGET[:, None])[:, 0]
    torch.testing.assert_close(found.maps.sum((1, 2)), rise.detach(), rtol=0, atol=2e-3)


def test_outputs_that_are_refused():
    model, pixels = build("resnet"), images()
    with pytest.raises(ValueError, match="output 'score'"):
        explain(model, pixels, output="score")
    for method in ("rise", "lrp", "attention_rollout"):
        with pytest.raises(ValueError, match=f"'{method}' explains what it is defined for. Those methods: gradcam"):
            explain(model, pixels, method=method, output="probability")
    model = Linear().eval()
    model.layer = nn.Linear(12, 1)
    with pytest.raises(ValueError, match="Linear gives one score a sample, which has no probability"):
        explain(model, images(height=2), method="saliency", output="probability")


# --- Gradient SHAP ---------------------------------------------------------------------------------------------------


def test_gradient_shap_of_a_linear_model_is_its_shapley_values():
    """Prevents: another background than the given one, colours left unsummed, or the logit of another class."""
    model, pixels, background = Linear(), images(height=2), images(1, height=2, seed=5)
    found = GradientShap(background, samples=3)(model, {"pixel_values": pixels}, TARGET % 3)
    weights = model.layer.weight.detach()[TARGET % 3].view(2, 3, 2, 2)
    torch.testing.assert_close(found.maps, ((pixels - background) * weights).sum(1))
    zero = GradientShap(samples=2)(model, {"pixel_values": pixels}, TARGET % 3)
    torch.testing.assert_close(zero.maps, (pixels * weights).sum(1))


def test_gradient_shap_sums_to_the_rise_over_the_background():
    """In expectation: the sum is p(x) less its mean over the background."""
    model, pixels, background = build("resnet"), images(), images(4, seed=9)
    shap = GradientShap(background, samples=600, batch_size=600)
    found = explain(model, pixels, method=shap, target=TARGET, output="probability")
    with torch.no_grad():
        start = model(background).logits.softmax(1).mean(0)
        rise = (model(pixels).logits.softmax(1) - start).gather(1, TARGET[:, None])[:, 0]
    torch.testing.assert_close(found.maps.sum((1, 2)), rise, rtol=0, atol=0.03)
    assert rise.abs().max() > 0.1


def test_gradient_shap_makes_the_same_choices_each_time():
    """Prevents: choices that differ between teacher and student, or that change the caller's random numbers."""
    model, inputs = build("resnet"), {"pixel_values": images()}
    check_explainer("gradient_shap", model, inputs)
    np.random.seed(3)
    wanted = np.random.rand()
    np.random.seed(3)
    own = torch.get_rng_state()
    first = GradientShap(images(3, seed=1), samples=2)(model, inputs, TARGET).maps
    assert torch.equal(torch.get_rng_state(), own)  # captum draws noise of no width there
    assert np.random.rand() == wanted
    assert torch.equal(first, GradientShap(images(3, seed=1), samples=2)(model, inputs, TARGET).maps)
    assert not torch.equal(first, GradientShap(images(3, seed=1), samples=2, seed=1)(model, inputs, TARGET).maps)


def test_gradient_shap_refusals():
    model, pixels = build("resnet"), images()
    with pytest.raises(ValueError, match=r"background must be images .* not of the shape \(3, 2, 2\)"):
        GradientShap(torch.zeros(3, 2, 2))
    with pytest.raises(ValueError, match=r"shape \(3, 8, 8\), and the images \(3, 32, 32\)"):
        explain(model, pixels, method=GradientShap(images(height=8)))
    with pytest.raises(ValueError, match="no training can match its maps. Train with 'integrated_gradients'"):
        GradientShap().check(model)
    function = FunctionModel(lambda pixel_values: pixel_values.flatten(1)[:, :3])
    for output in ("logit", "probability"):
        with pytest.raises(ValueError, match="takes gradients, which .* doesn't have. Take 'kernel_shap'"):
            explain(function, pixels, method="gradient_shap", output=output)
    found = explain(function, pixels, method="kernel_shap", samples=60, output="probability")
    torch.testing.assert_close(found.logits, pixels.flatten(1)[:, :3].softmax(1))
