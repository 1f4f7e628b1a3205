"""X-DNN ResNets: homogeneous, so that two explanations are one; trainable without a norm; saved and loaded."""

import copy

import pytest
import torch
from transformers import AutoModelForImageClassification

from hf_e2kd.explainers import GradCAM, InputXGradient, IntegratedGradients
from hf_e2kd.models import XResNetConfig, XResNetForImageClassification
from tests.gradients import explained_gradients
from tests.models import CLASSES, images, randomise

TARGET = torch.tensor([3, 1])
CONFIGS = {
    "bottleneck": XResNetConfig(depths=(1, 2), embedding_size=4, small_inputs=True, num_labels=CLASSES),
    "basic": XResNetConfig(depths=(1, 1, 1), layer_type="basic", embedding_size=4, num_labels=CLASSES),
}


def network(name, random=True):
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_config(copy.deepcopy(CONFIGS[name]))
    if random:
        randomise(model)
    return model.double().eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_input_x_gradient_equals_integrated_gradients(name):
    """Prevents: a bias, in whatever layer, by which the two differ and neither sums to the logit."""
    model, inputs = network(name), {"pixel_values": images().double()}
    product = InputXGradient()(model, inputs, TARGET)
    integral = IntegratedGradients(n_steps=5, completeness=True)(model, inputs, TARGET)
    torch.testing.assert_close(product.maps, integral.maps, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(product.maps.sum((1, 2)), product.logits.gather(1, TARGET[:, None])[:, 0])
    torch.testing.assert_close(model(3 * inputs["pixel_values"]).logits, 3 * product.logits)
    assert not any("bias" in key for key in model.state_dict())


@pytest.mark.parametrize("name", CONFIGS)
def test_fixup_begins_as_a_chain_of_shortcuts(name):
    """Prevents: activations that grow with the depth for want of a norm, and blocks that can't learn."""
    model, inputs = network(name, random=False), {"pixel_values": images().double()}
    with_branches = model.forward_features(inputs["pixel_values"])
    for block in [block for stage in model.stages for block in stage]:
        assert not block.convolutions[-1].weight.any() and block.convolutions[0].weight.any()
        block.scale.data.zero_()
    torch.testing.assert_close(model.forward_features(inputs["pixel_values"]), with_branches)


@pytest.mark.parametrize("explainer", [GradCAM(), InputXGradient()])
def test_explanations_train_every_weight(explainer):
    model, inputs = network("bottleneck"), {"pixel_values": images().double()}
    _, gradients = explained_gradients(model, explainer, inputs, TARGET)
    assert all(gradient.any() for gradient in gradients.values())


def test_saved_and_loaded(tmp_path):
    model, pixels = network("basic"), images().double()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).double().eval()
    assert isinstance(loaded, XResNetForImageClassification)
    torch.testing.assert_close(loaded(pixels).logits, model(pixels).logits)


def test_the_default_is_a_resnet_50():
    with torch.device("meta"):
        model = XResNetForImageClassification(XResNetConfig(num_labels=1000))
    # torchvision's has 25,557,032: less 1,000 biases and 53,120 weights of batch norms, more 16 scales.
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_557_032 - 1_000 - 53_120 + 16


def test_other_blocks_are_refused():
    with pytest.raises(ValueError, match="one of .'basic', 'bottleneck'., not 'wide'"):
        XResNetConfig(layer_type="wide")
