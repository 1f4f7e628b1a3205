"""The explanation loss's gradient: right in every parameter, checkpointed or compiled."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from transformers import ConvNextConfig, ConvNextForImageClassification, ViTConfig, ViTForImageClassification

from hf_e2kd.explainers import GradCAM, Saliency
from tests.gradients import check_gradient, explained_gradients, explained_loss, loss_of, relative_error
from tests.models import images, randomise

TARGET = torch.tensor([3, 1])
HOOKED = {
    "vit": "vit.layers.2.layernorm_before",
    "convnext": "convnext.encoder.stages.1",
    "resnet": "resnet.encoder.stages.1",
}


# --- Finite differences ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["split", "hook"])
@pytest.mark.parametrize("name", HOOKED)
def test_gradient_equals_finite_differences_in_every_parameter(tiny, name, path):
    """Prevents: a second derivative that is wrong, or cut off, in a single tensor among many."""
    model = tiny(name).double()
    explainer = GradCAM() if path == "split" else GradCAM(target_layer=HOOKED[name])
    inputs = {"pixel_values": images().double()}
    check_gradient(explained_loss(model, explainer, inputs, TARGET), dict(model.named_parameters()))


class Student(nn.Module):
    """The loss of a very small model's map as a function of chosen parameters."""

    def __init__(self, model, layer=None):
        super().__init__()
        self.model = model.double().eval()
        randomise(self.model)
        self.explainer = GradCAM(target_layer=layer)

    def forward(self):
        explanation = self.explainer(self.model, {"pixel_values": images(1).double()}, torch.tensor([1]), True)
        return loss_of(explanation) + explanation.maps.square().sum()


def smallest(name):
    if name == "vit":
        settings = {"hidden_size": 4, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 4}
        return ViTForImageClassification(ViTConfig(**settings, image_size=32, patch_size=16))
    return ConvNextForImageClassification(
        ConvNextConfig(num_stages=2, hidden_sizes=[2, 2], depths=[1, 1], patch_size=8)
    )


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("vit", None),
        ("vit", "vit.layers.1.layernorm_before"),
        ("convnext", None),
        ("convnext", "convnext.encoder.stages.1"),
    ],
)
def test_gradcheck(name, layer):
    """Prevents: an error that a few random directions miss."""
    student = Student(smallest(name), layer)
    # One parameter before the target layer, those of the layer's own block, and those after it.
    parts = {"vit": ("q_proj", "layernorm", "classifier"), "convnext": ("dwconv", "layer_scale", "classifier")}[name]
    chosen = {key: value for key, value in student.named_parameters() if any(part in key for part in parts)}
    names = list(chosen)

    def loss(*values):
        return functional_call(student, dict(zip(names, values, strict=True)), ())

    values = [chosen[key].detach().requires_grad_() for key in names]
    assert torch.autograd.gradcheck(loss, values, eps=1e-6, atol=1e-6, rtol=1e-4, fast_mode=False)


def test_maps_of_several_targets_share_their_gradient(tiny):
    """Prevents: a graph freed, or detached, after the first of a sample's targets."""
    target = torch.tensor([[3, 0], [1, -1]])
    for layer in (None, HOOKED["vit"]):
        explainer = GradCAM(target_layer=layer)
        model = tiny("vit").double()
        inputs = {"pixel_values": images().double()}
        explainer(model, inputs, target, create_graph=True).maps.square().sum().backward()
        together = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
        model.zero_grad()
        for column in target.unbind(1):
            explainer(model, inputs, column, create_graph=True).maps.square().sum().backward()
        apart = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        for one, other in zip(together, apart, strict=True):
            torch.testing.assert_close(one, other)


def test_frozen_parameters_get_none(tiny):
    """Prevents: an adapter's frozen base model that collects gradients."""
    model = tiny("vit")
    model.vit.requires_grad_(False)

    loss_of(GradCAM()(model, {"pixel_values": images()}, TARGET, create_graph=True)).backward()

    assert model.classifier.weight.grad.any()
    assert all(parameter.grad is None for parameter in model.vit.parameters())


# --- Activation checkpointing ----------------------------------------------------------------------------------------


def checkpointed(name, model):
    if name.startswith("timm"):
        model.set_grad_checkpointing()
    elif hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable({"use_reentrant": False})


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        *((name, None) for name in ("vit", "deit", "beit", "beit_token", "dinov2", "swin", "timm_vit")),
        ("vit", HOOKED["vit"]),
        ("vit", "vit.layers.1"),
        ("timm_convnext", "stages.2"),
    ],
)
def test_checkpointing_changes_no_gradient(tiny, name, layer):
    """Prevents: layers recomputed in the first derivative only, or 'saved tensor hooks' errors of torch.func."""
    model = tiny(name).train()
    if layer is not None and name == "vit":
        model.set_attn_implementation("eager")
    for module in model.modules():
        if type(module).__name__.endswith("DropPath"):
            module.drop_prob = 0.0
    inputs = {"pixel_values": images()}
    plain_loss, plain = explained_gradients(model, GradCAM(target_layer=layer), inputs, TARGET)

    checkpointed(name, model)
    loss, gradients = explained_gradients(model, GradCAM(target_layer=layer), inputs, TARGET)

    assert loss.item() == pytest.approx(plain_loss.item(), rel=1e-5)
    assert relative_error(gradients, plain) < 1e-5


def test_recomputed_fused_attention_is_refused(tiny):
    """Prevents: torch's CheckpointError about metadata, where a hook's layers are recomputed by another kernel."""
    model = tiny("vit").train()
    checkpointed("vit", model)
    explainer = GradCAM(target_layer=HOOKED["vit"])

    with pytest.raises(ValueError, match="Activation checkpointing.*set_attn_implementation\\('eager'\\)"):
        explainer(model, {"pixel_values": images()}, TARGET, create_graph=True)
    assert explainer(model, {"pixel_values": images()}, TARGET).maps.any()


@pytest.mark.parametrize("explainer", [GradCAM(target_layer="blocks.1"), Saliency()], ids=lambda each: each.name)
def test_recomputed_fused_attention_of_timm_is_refused(tiny, explainer):
    """Prevents: torch's CheckpointError about metadata, of timm's models, which have kernels of their own."""
    model = tiny("timm_vit").train()
    checkpointed("timm_vit", model)
    with pytest.raises(ValueError, match="Activation checkpointing.*set_fused_attn"):
        explainer(model, {"pixel_values": images()}, TARGET, create_graph=True)
    assert explainer(model, {"pixel_values": images()}, TARGET).maps.any()
    for block in model.blocks:
        block.attn.fused_attn = False
    _, gradients = explained_gradients(model, explainer, {"pixel_values": images()}, TARGET)
    assert gradients["patch_embed.proj.weight"].any()
