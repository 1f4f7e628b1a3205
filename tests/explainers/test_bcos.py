"""Dynamic weights of B-cos networks: the package's values, and a loss's gradient that passes through the scalings."""

import threading
from copy import deepcopy

import pytest
import torch
from torch import nn

from hf_e2kd.explainers import install_explained_forward
from hf_e2kd.explainers.bcos import Bcos
from hf_e2kd.explainers.hooks import captured_output
from hf_e2kd.models import bcos, bcos_vit
from hf_e2kd.models.bcos import dynamic_weights
from tests.bcos.networks import CONFIGS, FAMILIES, network, oracle, pixels, six_channels
from tests.gradients import check_gradient, relative_error

TARGET = torch.tensor([3, 1])


def loss_of_weights(explanation):
    """1 − cos of W(x) and a fixed random reference, summed over the images: e²KD's loss."""
    vectors = explanation.vectors.flatten(1)
    reference = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(5), dtype=vectors.dtype)
    return (1 - torch.cosine_similarity(vectors, reference)).sum()


# --- Values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", CONFIGS)
def test_dynamic_weights_equal_the_packages(name, mode):
    """Prevents: a scaling, a batch statistic or an attention weight that is not held."""
    pytest.importorskip("bcos")
    model = network(name).train(mode == "train")
    theirs = oracle(model)
    channels = six_channels(pixels(8)).requires_grad_()
    target = torch.tensor([3, 1, 0, 2, 4, 3, 1, 0])

    explanation = Bcos()(model, {"pixel_values": pixels(8)}, target)

    modules = [module for module in theirs.modules() if hasattr(module, "set_explanation_mode")]
    for module in modules:
        module.set_explanation_mode(True)
    logits = theirs(channels)
    (expected,) = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), channels)
    assert explanation.vectors.shape == (8, 6, 32, 32) and explanation.maps.shape == (8, 32, 32)
    scale = expected.abs().max().item()
    torch.testing.assert_close(explanation.vectors, expected, rtol=1e-3, atol=1e-4 * scale)
    torch.testing.assert_close(explanation.maps, (expected * channels).sum(1), rtol=1e-3, atol=1e-4 * scale)
    torch.testing.assert_close(explanation.logits, logits.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "layer"), [("resnet_four_stages", "layer2"), ("densenet", "features.denseblock1")])
def test_a_layers_contributions_sum_to_the_logit_too(name, layer):
    """Prevents: scalings behind the layer that aren't held. A cut through the whole width changes no sum."""
    model, inputs = network(name).double(), {"pixel_values": pixels().double()}
    at_input, at_layer = Bcos()(model, inputs, TARGET), Bcos(layer=layer)(model, inputs, TARGET)
    assert at_layer.maps.shape[1] < at_input.maps.shape[1] and at_layer.vectors is None
    torch.testing.assert_close(at_layer.maps.sum((1, 2)), at_input.maps.sum((1, 2)))


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", CONFIGS)
def test_contributions_sum_to_the_logit(name, mode):
    """Prevents: an explanation that leaves part of the logit out. A ViT's position embedding has its own share."""
    model = network(name).train(mode == "train")
    inputs = {"pixel_values": pixels()}

    explanation = Bcos()(model, inputs, TARGET)

    explained = explanation.maps.sum((1, 2)) + model.logit_layer.bias
    if name.startswith("vit"):
        explained = explained + share_of_positions(model, pixels())
    logits = explanation.logits.gather(1, TARGET[:, None])[:, 0]
    assert explanation.maps.sum((1, 2)).abs().max() > 1e-3
    torch.testing.assert_close(explained, logits, rtol=1e-4, atol=1e-4)


def share_of_positions(model, pixel_values):
    with (
        captured_output(model, "to_patch_embedding") as patches,
        captured_output(model, "positional_embedding") as positioned,
        dynamic_weights(),
    ):
        logits = model(pixel_values).logits.gather(1, TARGET[:, None])
        (gradient,) = torch.autograd.grad(logits.sum(), positioned[0])
    return (gradient * (positioned[0] - patches[0])).sum((1, 2, 3)).detach()


def test_differs_from_the_ordinary_gradient():
    """Prevents: tests that pass because holding the scalings changes nothing."""
    for name in FAMILIES:
        model = network(name)
        channels = six_channels(pixels()).requires_grad_()
        logits = model.forward_head(model._features(channels)).gather(1, TARGET[:, None])
        (ordinary,) = torch.autograd.grad(logits.sum(), channels)
        vectors = Bcos()(model, {"pixel_values": pixels()}, TARGET).vectors
        assert torch.cosine_similarity(ordinary.flatten(1), vectors.flatten(1)).max() < 0.97


def test_several_targets():
    """Prevents: maps of one target that stand in another's place, or a map for a target that is none."""
    model = network("resnet")
    inputs = {"pixel_values": pixels()}

    explanation = Bcos()(model, inputs, torch.tensor([[3, 0], [1, -1]]))

    assert explanation.vectors.shape == (2, 2, 6, 32, 32) and explanation.maps.shape == (2, 2, 32, 32)
    torch.testing.assert_close(explanation.vectors[:, 0], Bcos()(model, inputs, TARGET).vectors)
    assert explanation.vectors[0, 1].any() and not explanation.vectors[1, 1].any()


def test_top_class_by_default():
    model = network("densenet")
    explanation = Bcos()(model, {"pixel_values": pixels()})
    assert torch.equal(explanation.target, explanation.logits.argmax(1))


# --- The loss's gradient ---------------------------------------------------------------------------------------------


def gradients_of(model, inputs):
    model.zero_grad()
    loss_of_weights(Bcos()(model, inputs, TARGET, create_graph=True)).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def check_gradient_of_weights(model, tolerance):
    """That of a loss of W(x), in every parameter."""
    inputs = {"pixel_values": pixels().double()}

    def loss():
        return loss_of_weights(Bcos()(model, inputs, TARGET, create_graph=torch.is_grad_enabled()))

    check_gradient(loss, dict(model.named_parameters()), tolerance)


@pytest.mark.parametrize(
    ("name", "mode"),
    [*((name, "eval") for name in FAMILIES), ("resnet", "train"), ("densenet", "train"), ("vit_stem", "eval")],
)
def test_gradient_equals_finite_differences_in_every_parameter(name, mode):
    """Prevents: a loss of W(x) whose gradient misses what reaches W(x) through the scalings."""
    model = network(name).double().train(mode == "train")
    check_gradient_of_weights(model, tolerance=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_detaching_in_the_forward_would_not(name, monkeypatch):
    """Prevents: a test above that a forward-time detach, as in the package, would pass."""
    monkeypatch.setattr(bcos, "holdable", torch.Tensor.detach)
    monkeypatch.setattr(bcos_vit, "holdable", torch.Tensor.detach)
    with pytest.raises(AssertionError, match="the gradient of .* is wrong|no gradient reaches"):
        check_gradient_of_weights(network(name).double(), tolerance=0.1)


def test_every_parameter_is_trained_and_the_logits_loss_adds_up():
    """Prevents: a held scaling that stays held for the loss's own backward, or for that of the logits."""
    for name in FAMILIES:
        model = network(name).train()
        inputs = {"pixel_values": pixels()}
        of_weights = gradients_of(model, inputs)
        assert all(gradient.any() for gradient in of_weights.values())
        model.zero_grad()
        model(**inputs).logits.square().sum().backward()
        of_logits = {key: parameter.grad.clone() for key, parameter in model.named_parameters()}
        model.zero_grad()

        explanation = Bcos()(model, inputs, TARGET, create_graph=True)
        (loss_of_weights(explanation) + explanation.logits.square().sum()).backward()

        both = {key: parameter.grad for key, parameter in model.named_parameters()}
        assert relative_error(both, {key: of_weights[key] + of_logits[key] for key in both}) < 1e-4


def test_targets_share_their_gradient():
    """Prevents: a graph freed, or detached, after the first of a sample's targets."""
    model = network("vit").double()
    inputs = {"pixel_values": pixels().double()}
    target = torch.tensor([[3, 0], [1, -1]])

    def gradients(*columns):
        model.zero_grad()
        for column in columns:
            Bcos()(model, inputs, column, create_graph=True).vectors.square().sum().backward()
        return {key: parameter.grad.clone() for key, parameter in model.named_parameters()}

    assert relative_error(gradients(target), gradients(*target.unbind(1))) < 1e-9


# --- Manners ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_frozen_teacher(name):
    """Prevents: a teacher without gradients that can't be explained, or whose explanation carries a graph."""
    model = network(name)
    expected = Bcos()(model, {"pixel_values": pixels()}, TARGET)
    model.requires_grad_(False)

    with torch.no_grad():
        explanation = Bcos().forward(model, {"pixel_values": pixels()}, TARGET)

    torch.testing.assert_close(explanation.vectors, expected.vectors)
    assert not explanation.vectors.requires_grad and not explanation.maps.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("mode", [True, False])
def test_leaves_the_model_as_it_was(mode):
    """Prevents: a changed training mode, a hook left behind, scalings held for good, statistics counted twice."""
    model = network("resnet").train(mode)
    once = deepcopy(model)
    once(pixels())

    Bcos()(model, {"pixel_values": pixels()}, TARGET, create_graph=True)
    with pytest.raises(ValueError, match="RGB images"):
        Bcos()(model, {"pixel_values": torch.rand(2, 4, 32, 32)}, TARGET)

    assert all(module.training == mode for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert bcos._holding == 0
    for (key, value), expected in zip(model.named_buffers(), once.buffers(), strict=True):
        torch.testing.assert_close(value, expected, msg=key)


def test_holds_in_the_threads_of_a_backward_pass():
    """Prevents: a thread-local flag, which the backward threads of an accelerator would not see."""
    channels = six_channels(pixels()).requires_grad_()
    model = network("resnet")
    logits = model.forward_head(model._features(channels)).gather(1, TARGET[:, None])
    found = []

    with dynamic_weights():
        thread = threading.Thread(target=lambda: found.extend(torch.autograd.grad(logits.sum(), channels)))
        thread.start()
        thread.join()

    torch.testing.assert_close(found[0], Bcos()(model, {"pixel_values": pixels()}, TARGET).vectors)


def test_full_precision_under_autocast():
    """Prevents: W(x) in half precision, where the inner gradient loses digits or underflows."""
    for name in FAMILIES:
        model = network(name)
        expected = Bcos()(model, {"pixel_values": pixels()}, TARGET)
        with torch.autocast("cpu", torch.bfloat16):
            explanation = Bcos()(model, {"pixel_values": pixels()}, TARGET)
        torch.testing.assert_close(explanation.vectors, expected.vectors)
        assert explanation.logits.dtype == torch.float32
        half = Bcos()(model.to(torch.bfloat16), {"pixel_values": pixels()}, TARGET)
        assert half.vectors.dtype == half.maps.dtype == torch.float32


def test_explained_forward():
    """Prevents: an explanation that is not to be had from the call that DDP and accelerate wrap."""
    model = network("vit")
    expected = Bcos()(model, {"pixel_values": pixels()}, TARGET)
    install_explained_forward(model, Bcos())

    output = model(pixel_values=pixels(), explain_target=TARGET)

    torch.testing.assert_close(output.maps, expected.maps)
    assert output.maps.requires_grad


def test_inside_another_module():
    """Prevents: the input layer sought at the top alone (an adapter's model has it further down)."""

    class Wrapper(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.base_model = model

        def forward(self, pixel_values):
            return self.base_model(pixel_values)

    model = network("resnet")
    explanation = Bcos()(Wrapper(model), {"pixel_values": pixels()}, TARGET)
    torch.testing.assert_close(explanation.maps, Bcos()(model, {"pixel_values": pixels()}, TARGET).maps)


def test_check_refuses_what_can_not_be_explained(tiny):
    """Prevents: a run that fails at its first explained step."""
    Bcos().check(network("resnet"))
    with pytest.raises(ValueError, match="ResNetForImageClassification is no B-cos network.*BcosViTFor.*'gradcam'"):
        Bcos().check(tiny("resnet"))
    with pytest.raises(ValueError, match="Train without torch_compile"):
        Bcos().check(network("resnet"), compiled=True)
