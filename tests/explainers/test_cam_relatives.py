"""HiResCAM and LayerCAM: the libraries' maps, their relation to GradCAM, their gradients."""

import numpy as np
import pytest
import torch
from pytorch_grad_cam import HiResCAM as PublishedHiResCAM
from pytorch_grad_cam import LayerCAM as PublishedLayerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from hf_e2kd import explain
from hf_e2kd.explainers import HiResCAM, LayerCAM, install_explained_forward
from hf_e2kd.testing import check_explainer
from tests.explainers.test_compiled import assert_compiled_equals_eager
from tests.explainers.test_gradcam import Logits, normalised, target_layer
from tests.models import images, shallow
from tests.text_models import build_text

TARGET = torch.tensor([3, 1])
PUBLISHED = {"hires_cam": PublishedHiResCAM, "layer_cam": PublishedLayerCAM}
METHODS = pytest.mark.parametrize("method", PUBLISHED)


def patches(tokens):
    return tokens[:, tokens.shape[1] - 16 :].reshape(len(tokens), 4, 4, -1).permute(0, 3, 1, 2)


@METHODS
@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("resnet", None),
        ("resnet", "resnet.encoder.stages.0"),
        ("convnext", None),
        ("timm_convnext", "stages.3.downsample.0"),
        ("vit", None),
        ("dinov2", None),
    ],
)
def test_maps_equal_pytorch_grad_cams(tiny, method, name, path):
    """Prevents: a gradient averaged over places, or a ReLU left out or at another place of the formula."""
    model = tiny(name)
    layer = target_layer(model, path or ("norm_pre" if name == "timm_convnext" else None))
    reshape = patches if name in ("vit", "dinov2") else None
    with PUBLISHED[method](Logits(model), [layer], reshape_transform=reshape) as cam:
        expected = cam(images(), [ClassifierOutputTarget(label) for label in TARGET.tolist()])
    options = {} if path is None else {"target_layer": path}
    maps = explain(model, images(), method, target=TARGET, **options).maps
    assert expected.max() > 0.9
    # The library adds 1e-7 to the divisor, which shows where a map's largest value is small.
    np.testing.assert_allclose(normalised(maps), expected, atol=1e-5 + 2e-7 / maps.max().item())


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "timm_resnet"])
def test_hires_cam_of_pooled_features_is_gradcam(tiny, name):
    """Prevents: a HiResCAM that differs where every place has the same gradient, and one that is GradCAM everywhere."""
    model, early = tiny(name), {"timm_resnet": "layer2", "resnet": "resnet.encoder.stages.0"}
    gradcam, hires_cam = (explain(model, images(), method, target=TARGET).maps for method in ("gradcam", "hires_cam"))
    torch.testing.assert_close(hires_cam, gradcam, rtol=1e-4, atol=1e-6)
    if name in early:
        before = [
            explain(model, images(), each, target=TARGET, target_layer=early[name]).maps
            for each in ("gradcam", "hires_cam")
        ]
        assert not torch.allclose(*before, rtol=0.1)


@METHODS
@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_trains(tiny, method, name):
    """Prevents: a part of the formula without its gradient, hooks left behind, or another forward than the model's."""
    check_explainer(method, tiny(name), {"pixel_values": images()}, TARGET)


@pytest.mark.parametrize("explainer", [HiResCAM(), LayerCAM()], ids=["hires_cam", "layer_cam"])
def test_compiles(explainer):
    """Prevents: a relative of GradCAM that takes the hook where GradCAM's head is known."""
    torch.compiler.reset()
    model = shallow("vit")
    install_explained_forward(model, explainer)
    assert_compiled_equals_eager(model, {"pixel_values": images()})
    torch.compiler.reset()


def test_texts_are_refused_by_the_methods_own_name():
    """Prevents: an error that names another method than the user chose."""
    with pytest.raises(ValueError, match="HiResCAM explains images, and BertForSequenceClassification reads texts"):
        HiResCAM().check(build_text("bert"))
