"""Layers whose activation goes straight into a norm: activation times gradient there is rounding errors."""

import pytest
import torch

from hf_e2kd.explainers import GradCAM, HiResCAM, InputXGradient, LayerCAM
from hf_e2kd.explainers.scale_free import refuse_scale_free_layer
from tests.models import build, images
from tests.text_models import build_text, token_batch

TARGET = torch.tensor([3, 1])
PIXELS = {"pixel_values": images()}
BEFORE_A_NORM = [
    "vit",
    "deit_teacher",
    "beit_token",
    "timm_vit",
    "wrapped_deit_distilled",
    "convnext",
    "wrapped_convnext",
]


@pytest.mark.parametrize("name", BEFORE_A_NORM)
def test_what_rounding_leaves_is_refused(tiny, name):
    """Prevents: a student trained on, and figures of, the rounding errors of Input×Gradient in front of a norm."""
    with pytest.raises(ValueError, match="at the layer 'last'.*rounding errors.*norm's output"):
        InputXGradient(layer="last")(tiny(name), PIXELS, TARGET)


@pytest.mark.parametrize("name", ["dinov2", "beit", "swin", "resnet", "timm_vit_average", "wrapped_swin"])
def test_what_counts_is_explained(tiny, name):
    """Prevents: a refusal of layers that reach the logits past a norm."""
    assert InputXGradient(layer="last")(tiny(name), PIXELS, TARGET).maps.any()


def test_texts():
    """Prevents: the same of a decoder's or a ModernBERT's tokens, or a refusal of norms behind the sum, as BERT's."""
    with pytest.raises(ValueError, match="rounding errors"):
        InputXGradient(layer="last")(build_text("modernbert"), token_batch(), TARGET)
    assert InputXGradient(layer="last")(build_text("bert"), token_batch(), TARGET).maps.any()


def test_hires_cam_of_a_named_layer(tiny):
    """Prevents: HiResCAM's map of rounding errors; GradCAM and LayerCAM don't take each place's own product."""
    model, layer = tiny("vit"), "vit.layers.1"
    with pytest.raises(ValueError, match="'hires_cam' at the layer 'vit.layers.1'"):
        HiResCAM(target_layer=layer)(model, PIXELS, TARGET)
    for method in (GradCAM, LayerCAM):
        assert method(target_layer=layer)(model, PIXELS, TARGET).maps.any()
    assert HiResCAM(target_layer="vit.layers.2.layernorm_before")(model, PIXELS, TARGET).maps.any()


def test_the_model_stays_as_it_is():
    """Prevents: statistics, modes or random numbers changed by the look at a model, or a look at each step."""
    model = build("resnet").train()
    before, state = {name: value.clone() for name, value in model.named_buffers()}, torch.random.get_rng_state()
    refuse_scale_free_layer(model, 0, PIXELS, "input_x_gradient")
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert torch.equal(torch.random.get_rng_state(), state) and model.training
    model.forward = None  # a second look would call it
    refuse_scale_free_layer(model, 0, PIXELS, "input_x_gradient")


def test_a_classifier_that_begins_at_zero_is_looked_at_later(tiny):
    """Prevents: a refusal, or a verdict for good, by a gradient that is zero everywhere."""
    model = tiny("vit")
    weight = model.classifier.weight.detach().clone()
    torch.nn.init.zeros_(model.classifier.weight)
    assert not InputXGradient(layer="last")(model, PIXELS, TARGET).maps.any()
    model.classifier.weight.data.copy_(weight)
    with pytest.raises(ValueError, match="rounding errors"):
        InputXGradient(layer="last")(model, PIXELS, TARGET)
