"""Maps without autograd, of every family that can be exported: those of `explain`."""

import pytest
import timm
import torch
from torch import nn

from hf_e2kd import explain
from hf_e2kd.export.tracing import _convolution_backward, gradcam_graph, logits_program, require_explainable
from tests.models import CLASSES, images, randomise, shallow
from tests.text_models import build_text

FAMILIES = [
    *("vit", "deit_teacher", "beit", "beit_token", "dinov2", "swin"),
    *("convnext", "resnet", "mobilenet", "efficientnet", "timm_vit", "timm_convnext"),
]
MOBILENETS = {"timm_mobilenetv3": "mobilenetv3_small_050", "timm_mobilenetv4": "mobilenetv4_conv_small_035"}


def model_of(name):
    """A frozen model of a family, as shallow as can be: the head is what matters."""
    if name not in MOBILENETS:
        return shallow(name).requires_grad_(False)
    model = timm.create_model(MOBILENETS[name], num_classes=CLASSES)
    randomise(model)
    return model.eval().requires_grad_(False)


def check_equal(model, pixel_values, options):
    """Traced with three images, the graph gives the maps of one and of five."""
    three = pixel_values[:3]
    explain(model, {"pixel_values": three, **options})
    graph = gradcam_graph(model, three, options)
    for batch, target in ((pixel_values, torch.tensor([-1, 4, 0, 2, -1])), (pixel_values[:1], torch.tensor([1]))):
        logits, maps = graph(batch, target)
        expected = explain(
            model,
            {"pixel_values": batch, **options},
            target=lambda found, target=target: torch.where(target < 0, found.argmax(1), target),
        )
        assert expected.maps.any() and maps.shape == expected.maps.shape
        torch.testing.assert_close(logits, expected.logits, rtol=1e-5, atol=1e-5 * expected.logits.abs().max().item())
        assert (maps - expected.maps).abs().max() <= 1e-5 * expected.maps.max()
    return graph


@pytest.mark.parametrize("name", [*FAMILIES, *MOBILENETS])
def test_maps_equal_explains(name):
    """Prevents: a head whose derivative is written out wrongly, for one image or for another number of them."""
    graph = check_equal(model_of(name), images(5, 64 if name in MOBILENETS else 32), {})
    assert not [node for node in graph.graph.nodes if "backward" in str(node.target)]


@pytest.mark.parametrize(("name", "options"), [("vit", {"interpolate_pos_encoding": True}), ("regnet", {})])
def test_maps_of_another_image_size(name, options):
    """Prevents: a grid, or a pooling, that is right for the configuration's square image alone."""
    check_equal(model_of(name), images(5, 32, 48), options)


def test_half_of_a_stride():
    """Prevents: a transposed convolution that leaves out the rows which a stride passes over."""
    inputs = torch.randn(2, 4, 8, 7, dtype=torch.double, requires_grad=True)
    weight = torch.randn(6, 2, 3, 2, dtype=torch.double)
    settings = {"stride": [2, 3], "padding": [1, 0], "dilation": [1, 2]}
    output = nn.functional.conv2d(inputs, weight, groups=2, **settings)
    gradient = torch.randn_like(output)
    (expected,) = torch.autograd.grad(output, inputs, gradient)
    given = gradient, inputs, weight, None, *settings.values(), False, [0, 0], 2, [True, False, False]
    torch.testing.assert_close(_convolution_backward(*given)[0], expected)


class Deciding(nn.Module):
    """A network whose forward depends on its input's values."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, pixel_values):
        pooled = pixel_values.mean((2, 3))
        return self.linear(pooled if pooled.sum() > 0 else -pooled)


def test_refusals():
    """Prevents: an export that fails in the exporter's words, or a map that is another method's."""
    with pytest.raises(ValueError, match=r"Deciding can't be exported: its forward .*control flow"):
        logits_program(Deciding().eval(), {"pixel_values": images(3)}, {})
    with pytest.raises(ValueError, match=r"made through a hook.*Supported are .*DINOv2.*`split`"):
        require_explainable(Deciding())
    with pytest.raises(ValueError, match="reads texts"):
        require_explainable(build_text("bert"))
