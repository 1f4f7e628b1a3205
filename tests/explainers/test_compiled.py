"""The explained forward under `torch.compile`: one graph, with the gradients of the eager one."""

import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification

from hf_e2kd.explainers import (
    GradCAM,
    InputXGradient,
    IntegratedGradients,
    Saliency,
    install_explained_forward,
    shared_noise,
)
from tests.gradients import loss_of, relative_error
from tests.models import images, randomise, shallow
from tests.text_models import build_text, token_batch

TARGET = torch.tensor([3, 1])
# Some ways in which a head is written; the other families of tests/models.py compile likewise. ResNet's is compiled
# below, and ViT's by GradCAM's relatives (test_cam_relatives.py) and in a training (tests/trainer/test_wrappers.py).
GRADCAM = ["beit_shared", "swin", "convnext", "timm_vit", "timm_convnext", "timm_resnet"]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def gradients(model, call, inputs, target=TARGET):
    model.zero_grad()
    output = call(**inputs, explain_target=target)
    loss = loss_of(output) + output.logits.square().mean()
    loss.backward()
    return loss.item(), {
        key: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for key, parameter in model.named_parameters()
    }


def assert_compiled_equals_eager(model, inputs, backend="aot_eager", target=TARGET):
    eager_loss, eager = gradients(model, model, inputs, target)
    loss, compiled = gradients(model, torch.compile(model, backend=backend, fullgraph=True), inputs, target)
    assert loss == pytest.approx(eager_loss, rel=1e-4)
    assert relative_error(compiled, eager) < 1e-4


@pytest.mark.parametrize("name", GRADCAM)
def test_gradcam(name):
    """Prevents: a compiled step whose explanation is constant to the gradient, or whose graph is cut in pieces."""
    model = shallow(name)
    install_explained_forward(model, GradCAM())
    assert_compiled_equals_eager(model, {"pixel_values": images()})


def shallow_bert():
    """Explained at its words, a model is traced from there on: a second layer would only take as long again."""
    return build_text("bert", num_hidden_layers=1)


def shallow_modernbert():
    """A layer that looks at all words and one that looks at its neighbours."""
    return build_text("modernbert", num_hidden_layers=2, layer_types=["full_attention", "sliding_attention"])


def test_texts():
    """Prevents: other positions or padding where a model is given its word embeddings instead of its tokens."""
    # In float32 what a layer norm makes of empty rows of padding loses its digits (DeBERTa).
    model = shallow_modernbert().double()
    install_explained_forward(model, InputXGradient())
    assert_compiled_equals_eager(model, token_batch())


@pytest.mark.parametrize("name", ["vit", "wrapped_convnext"])
def test_images_at_their_pixels(name):
    model = shallow(name)
    install_explained_forward(model, Saliency())
    assert_compiled_equals_eager(model, {"pixel_values": images()})


def test_random_points_of_integrated_gradients():
    """Prevents: a step compiled anew for each draw, one whose points are frozen by the first, and a compiled share of a
    batch that explains samples that were not drawn."""
    model = shallow_bert()
    explainer = IntegratedGradients(baselines="pad", random_points=2)
    install_explained_forward(model, explainer)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    found = []
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed, target in ((0, TARGET), (1, TARGET), (0, torch.tensor([3, -1]))):
            noise = torch.rand(2, 2, generator=torch.Generator().manual_seed(seed))
            with shared_noise([explainer], noise):
                inputs = token_batch()
                eager_loss, eager = gradients(model, model, inputs, target)
                loss, own = gradients(model, compiled, inputs, target)
            assert loss == pytest.approx(eager_loss, rel=1e-4)
            assert relative_error(own, eager) < 1e-4
            found.append(loss)
    assert len(set(found)) == 3


def test_with_inductor():
    """Prevents: what is right as a graph and wrong as the code that is made of it."""
    # As few layers as can be explained: each is C++ to compile.
    model = ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", num_labels=5)
    )
    randomise(model.eval())
    install_explained_forward(model, GradCAM())
    assert_compiled_equals_eager(model, {"pixel_values": images()}, backend="inductor")


def test_compiled_hook_runs_as_it_is(tiny):
    """Prevents: a hook that captures nothing inside a forward that the caller compiled."""
    model = tiny("vit")
    install_explained_forward(model, GradCAM(target_layer="vit.layers.2.layernorm_before"))

    maps = torch.compile(model, backend="aot_eager")(pixel_values=images(), explain_target=TARGET).maps

    assert maps.requires_grad
    torch.testing.assert_close(maps, model(pixel_values=images(), explain_target=TARGET).maps)
