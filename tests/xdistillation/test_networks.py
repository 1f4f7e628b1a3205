"""The networks for small images: their sizes, their explanations, what they refuse."""

import pytest
import torch
from transformers import AutoModelForImageClassification

from hf_e2kd.architectures.taps import default_taps
from hf_e2kd.models import (
    LeNetConfig,
    LeNetForImageClassification,
    SmallResNetConfig,
    SmallResNetForImageClassification,
    VGGConfig,
    VGGForImageClassification,
)
from hf_e2kd.testing import check_explainer
from tests.models import CLASSES, images, randomise

CONFIGS = {
    "vgg": VGGConfig(widths=((4,), (4, 8)), image_size=16, num_labels=CLASSES),
    "lenet": LeNetConfig(channels=(3, 4), hidden_sizes=(8,), image_size=16, num_channels=3, num_labels=CLASSES),
    "small_resnet": SmallResNetConfig(depths=(1, 1), embedding_size=4, num_labels=CLASSES),
}


@pytest.fixture(params=CONFIGS)
def network(request):
    model = AutoModelForImageClassification.from_config(CONFIGS[request.param])
    randomise(model)
    return model.eval()


@pytest.mark.parametrize(("depth", "count"), [(16, 14_728_266), (11, 9_231_114), (7, 2_781_386)])
def test_parameters_of_vggs(depth, count):
    """Table III's counts: prevents a layer, a bias or a width that isn't the paper's."""
    with torch.device("meta"):
        model = VGGForImageClassification(VGGConfig(depth=depth, num_labels=10))
    assert model.num_parameters() == count


def test_parameters_of_lenet_5():
    """156 + 2,416 of the convolutions, 48,120 + 10,164 + 850 of the linear layers; the paper prints 61,701."""
    assert LeNetForImageClassification(LeNetConfig(num_labels=10)).num_parameters() == 61_706


def test_parameters_of_resnet_20():
    """Prevents: a layer or a norm that isn't ResNet-20's: .27 M parameters (He et al., Table 6), and 2,752 of the two
    projections, which have the place of the paper's padded identities.
    """
    model = SmallResNetForImageClassification(SmallResNetConfig(num_labels=10))
    assert model.num_parameters() == 269_722 + 2_752


def test_a_small_resnet_refuses_unknown_blocks():
    with pytest.raises(ValueError, match="layer_type must be one of"):
        SmallResNetConfig(layer_type="wide")


def test_explained_by_gradcam_at_the_last_convolutions(network):
    """Prevents: a map of the pooled features, or a gradient that the students' training would get wrong."""
    pixels = images(height=16)
    check_explainer("gradcam", network, {"pixel_values": pixels})
    assert default_taps(network) == ["stages.0", "stages.1"]
    last = network.forward_features(pixels)
    assert last.shape[2:] == {"vgg": (8, 8), "lenet": (4, 4), "small_resnet": (8, 8)}[network.config.model_type]
    assert (last >= 0).all()  # after the ReLU, as GradCAM takes it


def test_saved_and_loaded(network, tmp_path):
    network.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert type(loaded) is type(network)
    assert torch.equal(loaded(images(height=16)).logits, network(images(height=16)).logits)


def test_trained_by_labels(network):
    """Prevents: layers that stay untrained, dead from the start."""
    network.train()(images(8, height=16), labels=torch.arange(8) % CLASSES).loss.backward()
    assert all(parameter.grad.any() for name, parameter in network.named_parameters() if name.endswith("weight"))


@pytest.mark.parametrize("network", ["vgg", "lenet"], indirect=True)
def test_images_of_another_shape_are_refused(network):
    for pixels in (images(height=20), images(height=16)[:, :1]):
        with pytest.raises(ValueError, match=r"takes images \(B, 3, 16, 16\), not of the shape .*num_channels"):
            network(pixels)


def test_configurations_that_fit_no_image_are_refused():
    with pytest.raises(ValueError, match=r"depth must be one of \[7, 11, 16\], not 19"):
        VGGConfig(depth=19)
    with pytest.raises(ValueError, match="28 pixels are too small for 5 poolings. Enlarge them to 32"):
        VGGConfig(image_size=28)
    with pytest.raises(ValueError, match="11 pixels are too small for a LeNet. Give 12"):
        LeNetConfig(image_size=11)
    with pytest.raises(ValueError, match=r"channels must be two numbers, one of each convolution, not \(6,\)"):
        LeNetConfig(channels=(6,))
