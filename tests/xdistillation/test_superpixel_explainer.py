"""Maps summed over superpixels as an explainer, and a teacher's stored so: SHAP's, LIME's, GradCAM's."""

import pytest
import torch

from hf_e2kd import explain
from hf_e2kd.alignment import slic_superpixels, stretched, superpixel_maps
from hf_e2kd.explainers import GradCAM, GradientShap, Lime, SuperpixelExplainer
from hf_e2kd.store import StoreError
from hf_e2kd.testing import check_explainer
from tests.models import build, images
from tests.store.stores import Calls, store

METHODS = {
    "gradient_shap": GradientShap(images(3, seed=4), samples=2),
    "lime": Lime(samples=12, superpixels=4),
    "gradcam": GradCAM(),
}
SUPERPIXELS = 5


def patches(count):
    """Images of 4×4 squares of one colour each, which SLIC cuts apart."""
    return torch.nn.functional.interpolate(images(count, 4), size=(32, 32), mode="nearest")


def wanted(model, pixels, method, target=None, output="probability"):
    parts = slic_superpixels(stretched(pixels), SUPERPIXELS)
    return superpixel_maps(explain(model, pixels, method=method, target=target, output=output).maps, parts)


@pytest.mark.parametrize("output", ["logit", "probability"])
def test_sums_of_the_methods_own_maps(output):
    """Prevents: probabilities stored in the place of logits, and another superpixel than the image's own."""
    model, pixels, inputs = build("resnet"), patches(2), {"pixel_values": patches(2)}
    explainer = SuperpixelExplainer("gradcam", SUPERPIXELS, output, workers=2)
    check_explainer(explainer, model, inputs)
    assert explainer.forward_passes == 1
    target = torch.tensor([[0, 2], [1, -1]])
    found = explainer(model, inputs, target)
    torch.testing.assert_close(found.logits, model(pixels).logits)
    for column in range(2):
        own = wanted(model, pixels, "gradcam", target[:, column], output)
        torch.testing.assert_close(found.maps[:, column], own)
    assert found.maps[0].any()


@pytest.mark.parametrize("name", METHODS)
def test_stored_explanations(tmp_path, name):
    """A teacher's sums, computed once: prevents the maps of another method, or of a part of its options."""
    teacher, pixels = build("resnet", seed=1), patches(4)
    data = [{"pixel_values": each} for each in pixels]
    explainer = SuperpixelExplainer(METHODS[name], SUPERPIXELS, "probability")
    reference = store(teacher, data, tmp_path / "store", explainer=explainer, dtype="float32")
    maps = torch.stack([sample["reference_map"] for sample in reference.attach(data)])
    torch.testing.assert_close(maps, wanted(teacher, pixels, METHODS[name]))
    assert maps.any()
    calls = Calls(teacher)
    again = SuperpixelExplainer(METHODS[name], SUPERPIXELS, "probability", workers=3)
    store(teacher, data, tmp_path / "store", explainer=again, dtype="float32")
    assert not calls.batches
    others = {
        "explainer.options.method.name": SuperpixelExplainer("saliency", SUPERPIXELS, "probability"),
        "explainer.options.superpixels": SuperpixelExplainer(METHODS[name], 7, "probability"),
        "explainer.options.output": SuperpixelExplainer(METHODS[name], SUPERPIXELS),
        "explainer.name": METHODS[name],
    }
    for part, other in others.items():
        with pytest.raises(StoreError, match=rf"{part} is .* in the store and .* or build into another folder"):
            store(teacher, data, tmp_path / "store", explainer=other, dtype="float32")


def test_refusals():
    model = build("resnet")
    with pytest.raises(ValueError, match="for evaluations and stores. Train with the method itself: 'gradcam'"):
        SuperpixelExplainer("gradcam").check(model)
    with pytest.raises(ValueError, match="output='probability' is of methods that explain any output, and 'bcos'"):
        SuperpixelExplainer("bcos", output="probability")(model, {"pixel_values": images()})
    with pytest.raises(ValueError, match="Superpixels are of `pixel_values`; given are input_ids"):
        SuperpixelExplainer("saliency")(model, {"input_ids": torch.ones(1, 2)})
    with pytest.raises(ValueError, match="count is 2, which is out of the range from 3 to 20"):
        SuperpixelExplainer("gradcam", 2)(model, {"pixel_values": images()})
