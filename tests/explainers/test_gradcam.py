"""GradCAM: the published formula, the libraries' maps, targets, precision, and what it leaves behind."""

import random

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM as PublishedGradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification

from hf_e2kd import explain
from hf_e2kd.architectures import call_model, find_architecture
from hf_e2kd.explainers import GradCAM
from tests.models import BUILDERS, CLASSES, build, images, randomise

TARGET = torch.tensor([3, 1])
CONVOLUTIONAL = {
    "convnext": None,
    "resnet": None,
    "regnet": None,
    "mobilenet": None,
    "efficientnet": None,
    "timm_resnet": "layer4",
    "timm_convnext": "norm_pre",
    "timm_efficientnet": "bn2",
}


class Logits(nn.Module):
    """What the libraries expect: a module that takes images and gives logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        return call_model(self.model, {"pixel_values": pixel_values})


def target_layer(model, path=None):
    return model.get_submodule(path or find_architecture(model).target_path(model))


# --- The map ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_maps_equal_captums(tiny, name):
    """Prevents: another weighting, ReLU or normalisation than the published method's."""
    model = tiny(name)

    expected = LayerGradCam(Logits(model), target_layer(model, CONVOLUTIONAL[name])).attribute(
        images(), TARGET, relu_attributions=True
    )

    maps = explain(model, images(), target=TARGET).maps
    assert maps.any()
    torch.testing.assert_close(maps, expected[:, 0], rtol=1e-5, atol=1e-5 * maps.max().item())


def published_maps(model, layer, **options):
    """pytorch-grad-cam's maps, resized to the image and scaled to [0, 1] as that library does."""
    with PublishedGradCAM(Logits(model), [layer], **options) as cam:
        return cam(images(), [ClassifierOutputTarget(label) for label in TARGET.tolist()])


def normalised(maps):
    """The same resizing and scaling: once for the layer, once for the mean over layers."""
    return scale_cam_image(scale_cam_image(maps.numpy(), tuple(images().shape[-2:])))


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_maps_equal_pytorch_grad_cams(tiny, name):
    """Prevents: agreement with one library by an error that both share."""
    model = tiny(name)

    expected = published_maps(model, target_layer(model, CONVOLUTIONAL[name]))

    assert expected.max() > 0.9
    # The library adds 1e-7 to the divisor, which shows where a map's largest value is small.
    maps = explain(model, images(), target=TARGET).maps
    np.testing.assert_allclose(normalised(maps), expected, atol=1e-5 + 2e-7 / maps.max().item())


@pytest.mark.parametrize("name", ["vit", "deit", "beit_token", "dinov2", "timm_vit", "timm_deit_distilled"])
def test_vit_maps_equal_pytorch_grad_cams(tiny, name):
    """Prevents: class tokens counted as places, or patches in another order, where the head computes few tokens."""
    model = tiny(name)

    def patches(tokens):
        return tokens[:, tokens.shape[1] - 16 :].reshape(len(tokens), 4, 4, -1).permute(0, 3, 1, 2)

    expected = published_maps(model, target_layer(model), reshape_transform=patches)

    assert expected.max() > 0.9
    np.testing.assert_allclose(normalised(explain(model, images(), target=TARGET).maps), expected, atol=1e-5)


def test_formula_by_hand():
    """Prevents: a ReLU on the weights instead of the sum, and a softmax on the logits."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    weight = torch.tensor([[1.0, -2.0], [0.0, 0.0]])
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3)[:2, :, None, None])
        model[3].weight.copy_(weight)
    pixel_values = torch.tensor([[[4.0, 0.0], [2.0, 0.0]], [[1.0, 3.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])[None]

    maps = explain(model, pixel_values, target=0, target_layer="0").maps

    # The mean gradient of a pooled channel is its weight over the number of places.
    expected = torch.tensor([[[4.0 - 2.0, 0.0], [2.0 - 2.0, 0.0]]]) / 4
    torch.testing.assert_close(maps, expected)


def bright_square(count, seed):
    """Images of noise with one square at a random place; its colour is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    pixels = 0.3 * torch.randn(count, 3, 32, 32, generator=generator)
    corners = torch.randint(0, 3, (count, 2), generator=generator) * 8
    for index, (top, left) in enumerate(corners.tolist()):
        pixels[index, labels[index], top : top + 12, left : left + 12] += 2.0
    return pixels, labels


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_maps_depend_on_what_was_learnt(name):
    """Prevents: a map that shows the image's edges whatever the weights are (parameter randomisation check)."""
    untrained = BUILDERS[name]()
    trained = BUILDERS[name]()
    trained.load_state_dict(untrained.state_dict())
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-2 if name == "resnet" else 3e-3)
    trained.train()
    for step in range(40):
        pixels, labels = bright_square(32, seed=step)
        F.cross_entropy(trained(pixel_values=pixels).logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    trained.eval()
    pixels, labels = bright_square(64, seed=1000)
    before = explain(untrained.eval(), pixels, target=labels)
    after = explain(trained, pixels, target=labels)

    assert (after.logits.argmax(1) == labels).float().mean() > 0.8
    similarity = F.cosine_similarity(before.maps.flatten(1), after.maps.flatten(1))
    assert similarity.mean() < 0.8


@pytest.mark.parametrize("name", ["resnet", "convnext", "vit", "timm_swin"])
def test_each_layer_after_the_target_matters(tiny, name):
    """Prevents: maps that ignore the head, which is where the decision is."""
    model = tiny(name)
    before = explain(model, images(), target=TARGET).maps
    head = next(module for key, module in model.named_modules() if key.endswith(("classifier", "head.fc")))
    randomise(next(module for module in reversed(list(head.modules())) if isinstance(module, nn.Linear)))

    after = explain(model, images(), target=TARGET).maps

    assert F.cosine_similarity(before.flatten(1), after.flatten(1)).mean() < 0.95


# --- Targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"target_layer": "vit.layers.2.layernorm_before"}], ids=["split", "hook"])
class TestTargets:
    def explain(self, model, options, target):
        return explain(model, images(3), target=target, **options)

    def test_none_is_the_top_class(self, tiny, options):
        """Prevents: explaining class 0, or the label, by default."""
        found = self.explain(tiny("vit"), options, None)

        assert torch.equal(found.target, found.logits.argmax(1))
        torch.testing.assert_close(found.maps, self.explain(tiny("vit"), options, found.target).maps)

    def test_integer_is_every_samples_class(self, tiny, options):
        """Prevents: one class explained for the first sample only."""
        found = self.explain(tiny("vit"), options, 2)

        assert found.target.tolist() == [2, 2, 2]
        torch.testing.assert_close(found.maps, self.explain(tiny("vit"), options, torch.tensor([2, 2, 2])).maps)

    def test_several_classes_a_sample(self, tiny, options):
        """Prevents: maps of several targets mixed up, or padding explained as class 0."""
        target = torch.tensor([[0, 4], [3, -1], [-1, -1]])
        found = self.explain(tiny("vit"), options, target)

        assert found.maps.shape == (3, 2, 4, 4)
        assert torch.equal(found.target, target)
        for column, classes in enumerate([torch.tensor([0, 3, 0]), torch.tensor([4, 0, 0])]):
            single = self.explain(tiny("vit"), options, classes).maps
            given = target[:, column] >= 0
            torch.testing.assert_close(found.maps[given, column], single[given])
            assert not found.maps[~given, column].any()

    def test_function_of_the_logits(self, tiny, options):
        """Prevents: a rule that sees a graph, or the logits of another pass."""
        seen = []

        def runner_up(logits):
            seen.append(logits)
            return logits.topk(2).indices[:, 1]

        found = self.explain(tiny("vit"), options, runner_up)

        assert len(seen) == 1
        assert not seen[0].requires_grad
        torch.testing.assert_close(seen[0], found.logits)
        assert torch.equal(found.target, found.logits.topk(2).indices[:, 1])

    @pytest.mark.parametrize(
        "target", [torch.zeros(2, dtype=torch.long), torch.zeros(3), torch.zeros(3, 2, 1, dtype=torch.long)]
    )
    def test_wrong_shapes_are_refused(self, tiny, options, target):
        """Prevents: broadcasting that explains other classes than were asked for."""
        with pytest.raises(ValueError, match=r"integers of shape \(batch,\) or \(batch, K\) for a batch of 3"):
            self.explain(tiny("vit"), options, target)

    @pytest.mark.parametrize("target", [CLASSES, torch.tensor([0, 1, CLASSES])])
    def test_class_that_the_model_lacks_is_refused(self, tiny, options, target):
        """Prevents: an index error from deep inside torch, or on a GPU a device-side assert."""
        with pytest.raises(ValueError, match=f"no class {CLASSES}: the model has {CLASSES} classes"):
            self.explain(tiny("vit"), options, target)


def test_labels_in_a_batch_are_left_out(tiny):
    """Prevents: a processor's or collator's batch that can't be explained as it is."""
    batch = {"pixel_values": images(), "labels": torch.tensor([0, 1])}

    explanation = explain(tiny("resnet"), batch)

    assert "labels" in batch
    torch.testing.assert_close(explanation.maps, explain(tiny("resnet"), images()).maps)


def test_one_sample_at_a_time_gives_the_same_maps(tiny):
    """Prevents: gradients that leak between the samples of a batch."""
    for name in ("vit", "convnext"):
        together = explain(tiny(name), images(3), target=1).maps
        apart = torch.cat([explain(tiny(name), image[None], target=1).maps for image in images(3)])
        torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-6)


# --- Precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit", "dinov2", "swin", "convnext", "resnet", "timm_vit", "timm_siglip"])
def test_autocast_gives_float32_maps(tiny, name):
    """Prevents: maps in half precision, whose faint places are lost."""
    model = tiny(name)
    full = explain(model, images(), target=TARGET)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = explain(model, images(), target=TARGET)

    assert half.maps.dtype == torch.float32
    # bfloat16 keeps 8 bits, and several layers' roundings add up.
    assert F.cosine_similarity(half.maps.flatten(1), full.maps.flatten(1)).min() > 0.99


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_autocast_keeps_float64_heads(tiny, name):
    """Prevents: a float64 model whose head is run in another precision under autocast."""
    model = tiny(name).double()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        explanation = explain(model, images().double(), target=TARGET)

    assert explanation.maps.dtype == torch.float64


@pytest.mark.parametrize("name", ["vit", "convnext", "resnet", "timm_vit"])
def test_autocast_of_several_precisions(tiny, name):
    """Prevents: "expected m1 and m2 to have the same dtype" of a float32 classifier on a half-precision backbone."""
    full = explain(tiny(name), images(), target=TARGET)
    model = tiny(name).bfloat16()
    (model.get_classifier() if name.startswith("timm") else model.classifier).float()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = explain(model, images(), target=TARGET)

    assert mixed.maps.dtype == torch.float32
    assert F.cosine_similarity(mixed.maps.flatten(1), full.maps.flatten(1)).min() > 0.98


def test_autocast_holds_for_the_hook_too(tiny):
    """Prevents: half-precision maps of a model that is read by a hook."""
    model = tiny("vit")
    layer = "vit.layers.2.layernorm_before"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = explain(model, images(), target=TARGET, target_layer=layer)

    assert half.maps.dtype == torch.float32
    full = explain(model, images(), target=TARGET)
    assert F.cosine_similarity(half.maps.flatten(1), full.maps.flatten(1)).min() > 0.98


@pytest.mark.parametrize("name", ["vit", "convnext", "timm_vit"])
def test_double_precision_stays(tiny, name):
    """Prevents: a float64 check that silently runs in float32."""
    explanation = explain(tiny(name).double(), images().double(), target=TARGET)

    assert explanation.maps.dtype == explanation.logits.dtype == torch.float64
    torch.testing.assert_close(
        explanation.maps.float(), explain(tiny(name), images(), target=TARGET).maps, rtol=1e-3, atol=1e-5
    )


# --- What is left behind ---------------------------------------------------------------------------------------------

METHODS = pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit", {}),
        ("vit", {"target_layer": "vit.layers.1"}),
        ("resnet", {}),
        ("timm_convnext", {"target_layer": "stages.2"}),
        ("unregistered", {}),
    ],
)


def make(tiny, name):
    if name != "unregistered":
        return tiny(name)
    model = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(256, CLASSES))
    randomise(model)
    return model


def hooks_of(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [hook for module in model.modules() for kind in kinds for hook in getattr(module, kind).values()]


@METHODS
def test_nothing_is_left_behind(tiny, name, options):
    """Prevents: a hook, a training mode, a gradient or a drawn random number that changes the training around it."""
    model = make(tiny, name)
    model.train()
    next(iter(model.children())).eval()  # a mixed state, as a frozen batch norm makes it
    if name != "timm_convnext":
        next(model.parameters()).requires_grad_(False)
    modes = [module.training for module in model.modules()]
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    states = {key: value.clone() for key, value in model.state_dict().items() if "num_batches" not in key}
    pixel_values = images()

    explain(model.eval(), pixel_values, **options)  # discovery included
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    drop_random_numbers(model)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    explain(model, pixel_values, **options)

    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not pixel_values.requires_grad
    assert pixel_values.grad is None
    assert not hooks_of(model)
    for key, value in model.state_dict().items():
        if not any(part in key for part in ("running", "num_batches")):
            assert torch.equal(value, states[key])


def drop_random_numbers(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


@METHODS
def test_existing_gradients_stay(tiny, name, options):
    """Prevents: an explanation between two accumulated batches that adds to their gradients."""
    model = make(tiny, name)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)

    explain(model, images(), **options)

    assert all((parameter.grad == 1).all() for parameter in model.parameters())


@METHODS
def test_gradients_may_be_switched_off_around_it(tiny, name, options):
    """Prevents: explanations that fail, or differ, in an evaluation under `no_grad` or of a frozen teacher."""
    model = make(tiny, name).eval()
    expected = explain(model, images(), target=TARGET, **options)

    with torch.no_grad():
        found = explain(model, images(), target=TARGET, **options)
    frozen = explain(model.requires_grad_(False), images(), target=TARGET, **options)

    for explanation in (found, frozen):
        torch.testing.assert_close(explanation.maps, expected.maps)
        assert not explanation.maps.requires_grad
        assert not explanation.logits.requires_grad


@METHODS
def test_images_that_require_gradients_stay_untouched(tiny, name, options):
    """Prevents: an explanation that writes a gradient into the caller's images."""
    pixel_values = images().requires_grad_()

    explain(make(tiny, name).eval(), pixel_values, **options)

    assert pixel_values.grad is None
    assert pixel_values.requires_grad


@pytest.mark.parametrize("options", [{}, {"target_layer": "1"}])
def test_hooks_are_gone_after_an_error(options):
    """Prevents: a hook that outlives the batch that failed, and every batch after it."""

    class Fails(nn.Module):
        def forward(self, features):
            raise ArithmeticError("in the head")

    model = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), Fails()).train()

    with pytest.raises(ArithmeticError, match="in the head"):
        explain(model, images(), **options)

    assert not hooks_of(model)
    assert all(module.training for module in model.modules())


def test_hook_is_gone_after_a_refused_layer(tiny):
    """Prevents: the same where the explainer itself raises."""
    model = tiny("resnet")

    with pytest.raises(ValueError, match="no spatial grid"):
        explain(model, images(), target_layer="resnet.pooler")

    assert not hooks_of(model)


# --- Options and refusals --------------------------------------------------------------------------------------------


def test_unknown_layer_lists_the_layers(tiny):
    """Prevents: a KeyError that doesn't say what the layers are called."""
    with pytest.raises(ValueError, match=r"no layer 'layer4'. Its layers: .*resnet.encoder.stages.1"):
        explain(tiny("resnet"), images(), target_layer="layer4")


def test_layer_that_is_not_called_is_named():
    """Prevents: an empty list's IndexError for a layer that the forward skips."""

    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Conv2d(3, 5, 4, 4), nn.Conv2d(3, 5, 4, 4)

        def forward(self, pixel_values):
            return self.used(pixel_values).mean((2, 3))

    with pytest.raises(ValueError, match="'unused' of Skips was not called"):
        explain(Skips(), images(), target_layer="unused")


def test_layer_that_does_not_reach_the_logits_is_named(tiny):
    """Prevents: torch's 'One of the differentiated Tensors appears to not have been used in the graph'."""

    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.aside = nn.Conv2d(3, 5, 4, 4), nn.Conv2d(3, 5, 4, 4)

        def forward(self, pixel_values):
            self.aside(pixel_values)
            return self.used(pixel_values).mean((2, 3))

    with pytest.raises(ValueError, match="'aside' of Auxiliary doesn't reach the logits"):
        explain(Auxiliary(), images(), target_layer="aside")


@pytest.mark.parametrize("kernel", ["flash_attention_2", "flash_attention_3", "flex_attention"])
def test_attention_without_a_double_backward_is_refused(tiny, kernel):
    """Prevents: a training run that fails in its first backward, or a gradient that is partial."""
    model = tiny("vit")
    model.config._attn_implementation = kernel

    with pytest.raises(ValueError, match=rf"'{kernel}' has no double backward.*attn_implementation='sdpa'"):
        GradCAM().check(model)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_both_attention_kernels_give_the_same(tiny, kernel):
    """Prevents: a fused kernel between the target layer and the logits, which can't be differentiated twice."""
    config = ViTConfig(**tiny("vit").config.to_diff_dict())
    model = ViTForImageClassification._from_config(config, attn_implementation=kernel).eval()
    model.load_state_dict(build("vit").state_dict())

    for options in ({}, {"target_layer": "vit.layers.2.layernorm_before"}):
        explanation = GradCAM(**options)(model, {"pixel_values": images()}, TARGET, create_graph=True)
        explanation.maps.square().sum().backward()
        torch.testing.assert_close(
            explanation.maps.detach(), explain(tiny("vit"), images(), target=TARGET).maps, rtol=1e-4, atol=1e-6
        )


def test_compiled_hooks_are_refused(tiny):
    """Prevents: a hook registered after compiling, which captures nothing and says nothing."""
    model = tiny("vit")
    GradCAM().check(model, compiled=True)

    with pytest.raises(ValueError, match="torch_compile can't see into ViTForImageClassification through a hook"):
        GradCAM(target_layer="vit.layers.1").check(model, compiled=True)
    with pytest.raises(ValueError, match="register the architecture with a `split` function"):
        GradCAM().check(nn.Sequential(nn.Conv2d(3, 4, 3)), compiled=True)


@pytest.mark.parametrize("name", ["timm_resnet", "wrapped_convnext", "timm_vit_average"])
def test_sharded_models_of_timm(tiny, name, monkeypatch):
    """Prevents: "has no layer 'forward_features'" where FSDP2 has sharded a model, which a hook must read then."""
    model, inputs, target = tiny(name), {"pixel_values": images()}, torch.tensor([3, 1])
    expected = GradCAM()(model, inputs, target).maps
    monkeypatch.setattr("hf_e2kd.explainers.cam.is_sharded", lambda model: True)
    torch.testing.assert_close(GradCAM()(model, inputs, target).maps, expected)
