"""Input×Gradient against captum. What it shares with the other explainers at the input stands in test_saliency.py."""

import pytest
import torch
from captum.attr import InputXGradient as CaptumInputXGradient
from captum.attr import LayerGradientXActivation

from hf_e2kd.explainers import InputXGradient, input_x_gradient
from tests.explainers.test_saliency import TARGET, embedding_gradients
from tests.explainers.written_out import assert_written_out_alike
from tests.gradients import explained_gradients
from tests.models import images
from tests.text_models import build_text, token_batch


@pytest.mark.parametrize("name", ["resnet", "convnext", "vit"])
def test_equals_captums_on_images(tiny, name):
    """Prevents: the gradient times an unnormalised image, or without its sign."""
    model, pixels = tiny(name), images()
    method = CaptumInputXGradient(lambda pixels: model(pixels).logits)
    expected = method.attribute(pixels.clone().requires_grad_(), target=TARGET).detach().sum(1)
    maps = InputXGradient()(model, {"pixel_values": pixels}, TARGET).maps
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)
    assert (maps < 0).any() and (maps > 0).any()


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_equals_captums_on_texts(name):
    """Prevents: positions counted to the words, or padding that gets a score."""
    model, inputs = build_text(name), token_batch()
    expected = embedding_gradients(model, inputs, TARGET, multiply=True).sum(-1)
    explanation = InputXGradient()(model, inputs, TARGET)
    torch.testing.assert_close(explanation.maps, expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(explanation.mask, inputs["attention_mask"].bool())
    assert explanation.layout == "tokens"


def test_is_complete_for_a_linear_model():
    """Prevents: a factor that a map's direction alone doesn't show."""
    linear = torch.nn.Linear(3 * 4 * 4, 5).double()

    class Linear(torch.nn.Module):
        def forward(self, pixel_values):
            return {"logits": linear(pixel_values.flatten(1))}

    explanation = InputXGradient()(Linear(), {"pixel_values": torch.rand(2, 3, 4, 4).double()}, TARGET)
    expected = explanation.logits.gather(1, TARGET[:, None])[:, 0] - linear.bias.detach()[TARGET]
    torch.testing.assert_close(explanation.maps.sum((1, 2)), expected)


@pytest.mark.parametrize(
    ("name", "layer"), [("resnet", "resnet.encoder.stages.0"), ("convnext", "convnext.encoder.stages.1")]
)
def test_at_a_layer_equals_captums(tiny, name, layer):
    """Prevents: guidance of a middle layer that sees another activation, or its gradient alone."""
    model, inputs = tiny(name), {"pixel_values": images()}
    method = LayerGradientXActivation(lambda pixels: model(pixels).logits, model.get_submodule(layer))
    expected = method.attribute(inputs["pixel_values"], target=TARGET).detach().sum(1)
    explainer = InputXGradient(layer=layer)
    torch.testing.assert_close(explainer(model, inputs, TARGET).maps, expected, rtol=1e-4, atol=1e-5)
    several = explainer(model, inputs, torch.stack([TARGET, torch.tensor([0, -1])], 1)).maps
    torch.testing.assert_close(several[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert several[0, 1].any() and not several[1, 1].any()


def test_a_layers_map_trains_what_is_on_both_sides_of_it(tiny):
    """Prevents: an explanation loss that reaches only one side of its layer."""
    model = tiny("resnet")
    explainer = InputXGradient(layer="resnet.encoder.stages.0")
    _, gradients = explained_gradients(model, explainer, {"pixel_values": images()}, TARGET)
    for part in ("embedder", "stages.0", "stages.1", "classifier.1.weight"):
        assert any(gradient.any() for name, gradient in gradients.items() if part in name), part


def assert_opened_alike(model, inputs, layer):
    explainer = InputXGradient(layer=layer)
    assert explainer._by_transposed_pass(model, inputs, TARGET) is not None
    assert explainer.with_features(model, ["any"])._by_transposed_pass(model, inputs, TARGET) is None
    assert_written_out_alike(model, inputs, explainer, TARGET)


@pytest.mark.parametrize("layer", [None, "last"])
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra"])
def test_the_pass_written_out_trains_alike_on_texts(name, layer):
    """Prevents: a cheaper map that is another one, or trains something else."""
    assert_opened_alike(build_text(name).double(), token_batch(), layer)


@pytest.mark.parametrize(("name", "layer"), [("vit", 0), ("deit", 1), ("dinov2", "last"), ("timm_vit", 1)])
def test_the_pass_written_out_trains_alike_on_images(tiny, name, layer):
    """Prevents: the same, for patches and their grid."""
    assert_opened_alike(tiny(name).double(), {"pixel_values": images().double()}, layer)


def test_what_cannot_be_opened_runs_as_before():
    """Prevents: a model refused for an activation that only relevance propagation must know."""
    model, inputs = build_text("bert", hidden_act="mish"), token_batch()
    assert InputXGradient()._by_transposed_pass(model, inputs, TARGET) is None
    assert InputXGradient(layer="last")(model, inputs, TARGET).maps.abs().sum() > 0


def test_other_errors_are_raised(monkeypatch):
    """Prevents: a fault of the transposed pass that is hidden by running the model's own forward."""

    def fail(*arguments):
        raise ValueError("a fault")

    monkeypatch.setattr(input_x_gradient, "shares_by_rules", fail)
    with pytest.raises(ValueError, match="a fault"):
        InputXGradient()(build_text("bert"), token_batch(), TARGET)
