"""B-cos networks: the package's own numbers, and what a model of transformers has to do."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification

from hf_e2kd.architectures import find_architecture
from hf_e2kd.explainers import GradCAM
from hf_e2kd.models import BcosResNetConfig, BcosResNetForImageClassification, bcos_config, load_bcos_weights
from hf_e2kd.models.bcos import BcosLinear
from tests.bcos.networks import CONFIGS, FAMILIES, network, oracle, pixels, six_channels
from tests.gradients import relative_error
from tests.models import CLASSES

# --- The package's numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_the_packages(name):
    """Prevents: a layer, an epsilon, a stride or an order of channels that differs from the published networks."""
    pytest.importorskip("bcos")
    model = network(name)

    logits = model(pixels()).logits

    expected = oracle(model)(six_channels(pixels()))
    assert (logits - logits.mean(1, keepdim=True)).abs().max() > 1e-2  # random weights that tell classes apart
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet", "densenet"])
def test_training_mode_equals_the_packages(name):
    """Prevents: batch statistics about 0 instead of about the mean, or another running average."""
    pytest.importorskip("bcos")
    model = network(name).train()
    theirs = oracle(model)

    logits = model(pixels(8)).logits

    torch.testing.assert_close(logits, theirs(six_channels(pixels(8))), rtol=1e-4, atol=1e-5)
    for key, value in theirs.state_dict().items():
        if key.endswith("running_var"):
            torch.testing.assert_close(model.state_dict()[key], value)


@pytest.mark.parametrize("name", FAMILIES)
def test_ordinary_backward_is_the_packages(name):
    """Prevents: a task loss whose gradient misses the scalings, which the package keeps outside explanations."""
    pytest.importorskip("bcos")
    model = network(name).double().train()
    theirs = oracle(model).double()

    model(pixels(8).double()).logits.square().sum().backward()
    theirs(six_channels(pixels(8).double())).square().sum().backward()

    found = {key: parameter.grad for key, parameter in model.named_parameters()}
    expected = {key.removeprefix("0."): parameter.grad for key, parameter in theirs.named_parameters()}
    assert relative_error(found, expected) < 1e-9


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("resnet18", 11.69),
        ("resnet34", 21.80),
        ("resnet50", 25.54),
        ("resnet101", 44.50),
        ("resnet152", 60.13),
        ("densenet121", 7.95),
        ("densenet161", 28.58),
        ("densenet169", 14.08),
        ("densenet201", 19.91),
        ("simple_vit_ti_patch16_224", 5.80),
        ("simple_vit_l_patch16_224", 178.79),
        ("vitc_ti_patch1_14", 5.32),
        ("vitc_s_patch1_14", 20.88),
        ("vitc_l_patch1_14", 167.44),
    ],
)
def test_published_sizes(name, millions):
    """Prevents: a table of depths or widths that no published weights fit."""
    with torch.device("meta"):
        model = AutoModelForImageClassification.from_config(bcos_config(name, num_labels=1000))
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=6e-3)


def test_unknown_published_name():
    with pytest.raises(ValueError, match="Unknown B-cos network 'resnet19'. Known: resnet18"):
        bcos_config("resnet19")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", None])
@pytest.mark.parametrize("name", FAMILIES)
def test_loads_weights_of_the_package(tmp_path, name, suffix):
    """Prevents: published weights that load in part, or under other names."""
    pytest.importorskip("bcos")
    model = network(name)
    weights = oracle(model).state_dict()
    if suffix is not None:
        path = tmp_path / f"weights{suffix}"
        (save_file if suffix == ".safetensors" else torch.save)(weights, path)
        weights = path
    other = AutoModelForImageClassification.from_config(CONFIGS[name]).eval()

    assert load_bcos_weights(other, weights) is other

    assert torch.equal(other(pixels()).logits, model(pixels()).logits)


def test_refuses_weights_that_do_not_fit(tmp_path):
    """Prevents: a classifier left at random, a centred norm read without its mean, and a pickle that runs code."""
    model = network("resnet")
    state = {key: value.clone() for key, value in model.state_dict().items()}

    with pytest.raises(ValueError, match=r"don't fit this BcosResNet.*fc.linear.weight \(5, 16, 1, 1\) ← \(7, 16, 1"):
        load_bcos_weights(model, {**state, "fc.linear.weight": torch.rand(7, 16, 1, 1)})
    with pytest.raises(ValueError, match="in 1 places .*bn1.weight None"):
        load_bcos_weights(network("vit"), {**network("vit").state_dict(), "bn1.weight": torch.ones(3)})
    with pytest.raises(ValueError, match="subtract a mean.*bn1.running_mean"):
        load_bcos_weights(model, {**state, "bn1.running_mean": torch.ones(8)})
    torch.save(model, tmp_path / "pickled.pth")
    with pytest.raises(Exception, match="[Ww]eights.only"):
        load_bcos_weights(model, tmp_path / "pickled.pth")


# --- A model of transformers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_saved_models_load_by_the_auto_classes(tmp_path, name):
    """Prevents: a student that can't be loaded again, or that comes back changed."""
    model = network(name)
    model.save_pretrained(tmp_path)

    assert (tmp_path / "model.safetensors").is_file()
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(model.config)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(loaded) is type(model) and not loaded.training
    assert loaded.config.id2label == model.config.id2label
    assert torch.equal(loaded(pixels()).logits, model(pixels()).logits)


@pytest.mark.parametrize("name", FAMILIES)
def test_another_number_of_classes(tmp_path, name):
    """Prevents: a replaced classifier with the old logit bias, or without weights."""
    network(name).save_pretrained(tmp_path)

    model = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=9, ignore_mismatched_sizes=True)

    logits = model(pixels()).logits
    assert logits.shape == (2, 9) and logits.isfinite().all()
    assert model.logit_layer.bias == -math.log(8)


@pytest.mark.parametrize("name", FAMILIES)
def test_initial_weights(name):
    """Prevents: transformers' normal(0.02) instead of each family's own initialisation."""
    model = AutoModelForImageClassification.from_config(CONFIGS[name])
    weight = {
        "resnet": lambda: (model.layer2[0].conv2.linear.weight, (2 / (9 * 16)) ** 0.5),
        "densenet": lambda: (model.features.denseblock1.denselayer1.conv2.linear.weight, (2 / (9 * 8)) ** 0.5),
        "vit": lambda: (model.transformer.encoder_0.attn.to_qkv.weight, (1 / (3 * 16)) ** 0.5),
    }[name]()
    assert weight[0].std().item() == pytest.approx(weight[1], rel=0.1)


def test_losses():
    """Prevents: a loss under gradient accumulation that is too large by the number of steps, or no binary one."""
    model = network("resnet")
    labels = torch.tensor([1, 3])

    output = model(pixels(), labels=labels)

    torch.testing.assert_close(output.loss, nn.functional.cross_entropy(output.logits, labels))
    halved = model(pixels(), labels=labels, num_items_in_batch=4).loss
    torch.testing.assert_close(halved, output.loss / 2)
    assert model(pixels(), labels=labels, return_dict=False)[0] == output.loss
    model.config.problem_type = "multi_label_classification"
    one_hot = nn.functional.one_hot(labels, CLASSES).float()
    binary = nn.functional.binary_cross_entropy_with_logits(output.logits, one_hot)
    torch.testing.assert_close(model(pixels(), labels=one_hot).loss, binary)


def test_half_precision_and_autocast():
    """Prevents: a mix of dtypes that a convolution refuses, and norms that overflow."""
    for name in FAMILIES:
        model = network(name)
        logits = model(pixels()).logits
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(model(pixels()).logits.float(), logits, rtol=0.1, atol=0.05)
        half = model.to(torch.bfloat16)(pixels()).logits
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), logits, rtol=0.1, atol=0.05)


def test_zero_vector_has_finite_derivatives():
    """Prevents: NaN from the norm of a token that is all zero, in the first derivative or the second."""
    layer = BcosLinear(3, 2)
    features = torch.zeros(1, 3, requires_grad=True)

    (gradient,) = torch.autograd.grad(layer(features).sum(), features, create_graph=True)
    (gradient.sum() + layer(features).sum()).backward()

    assert features.grad.isfinite().all() and layer.linear.weight.grad.isfinite().all()


# --- Bad inputs ------------------------------------------------------------------------------------------------------


def test_refuses_other_channels():
    """Prevents: six channels given to a model that adds the inverse itself, and convolution's own message."""
    with pytest.raises(ValueError, match=r"RGB images \(B, 3, H, W\), not \(2, 6, 32, 32\).*adds the three inverse"):
        network("resnet")(six_channels(pixels()))
    with pytest.raises(ValueError, match=r"not \(2, 4, 32, 32\)"):
        network("vit")(torch.rand(2, 4, 32, 32))


@pytest.mark.parametrize("scale", [lambda image: (image - 0.45) / 0.22, lambda image: image * 255])
def test_refuses_normalised_images(scale):
    """Prevents: a processor's default normalisation, after which 1 − x is no inverse colour."""
    model = AutoModelForImageClassification.from_config(CONFIGS["resnet"])
    model(torch.zeros(1, 3, 32, 32))  # as a trace of its layers does, which must not pass for a check
    with pytest.raises(ValueError, match=r"RGB in \[0, 1\], not normalised.*do_normalize=False"):
        model(scale(pixels()))


def test_refuses_sizes_that_make_no_network():
    with pytest.raises(ValueError, match="layer_type must be one of \\['basic', 'bottleneck'\\], not 'wide'"):
        BcosResNetConfig(layer_type="wide")
    with pytest.raises(ValueError, match="multiple of 4, at least 8, and of the 3 heads, not 20"):
        bcos_config("simple_vit_ti_patch16_224", hidden_size=20)
    with pytest.raises(ValueError, match="at least two classes, not 1. Set `logit_bias`"):
        BcosResNetForImageClassification(BcosResNetConfig(num_labels=1))
    with pytest.raises(ValueError, match="20×20 places can't be cut in patches of 8×8"):
        network("vit")(pixels(size=20))


# --- GradCAM ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_gradcam_by_head_and_by_hook(name):
    """Prevents: a target layer, head or grid of the registry that is not the model's own."""
    model = network(name)
    inputs, target = {"pixel_values": pixels()}, torch.tensor([3, 1])

    by_head = GradCAM()(model, inputs, target, create_graph=True)
    by_hook = GradCAM(target_layer=find_architecture(model).target_path(model))(model, inputs, target)

    assert by_head.maps.any()
    torch.testing.assert_close(by_head.maps, by_hook.maps)
    torch.testing.assert_close(by_head.logits, model(pixels()).logits)
    by_head.maps.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_gradcam_compiles():
    """Prevents: a holdable scaling that the compiler can't trace."""
    model = network("vit")
    inputs, target = {"pixel_values": pixels()}, torch.tensor([3, 1])
    expected = GradCAM()(model, inputs, target).maps
    torch.compiler.reset()

    compiled = torch.compile(lambda: GradCAM().forward(model, inputs, target).maps, backend="aot_eager", fullgraph=True)

    torch.testing.assert_close(compiled(), expected)
    torch.compiler.reset()
