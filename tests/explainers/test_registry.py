"""Explainers by name."""

import warnings

import numpy as np
import pytest
import torch
from transformers import BatchFeature, ViTModel

import hf_e2kd
from hf_e2kd.explainers import Explainer, Explanation, GradCAM, build_explainer, registry
from tests.models import build, images
from tests.tokenizers import STUDENT, text_model
from tests.training import Unregistered


class Uniform(Explainer):
    """Everything matters equally."""

    name = "uniform"

    def __init__(self, height: float = 1.0):
        self.height = height

    def forward(self, model, inputs, target):
        logits = model(**inputs).logits
        return Explanation(logits, torch.full((len(logits), 2, 2), self.height), logits.argmax(1))


@pytest.fixture
def uniform(monkeypatch):
    monkeypatch.setattr(registry, "_EXPLAINERS", dict(registry._EXPLAINERS))
    hf_e2kd.register_explainer("uniform", Uniform)


def test_unknown_name_lists_the_valid_ones(tiny, uniform):
    """Prevents: a KeyError that leaves the reader guessing."""
    with pytest.raises(ValueError, match=r"Unknown explainer 'salience'. Available: .*gradcam.*, uniform"):
        hf_e2kd.explain(tiny("vit"), images(), method="salience")


def test_unknown_option_is_named():
    """Prevents: an option with a typing error that is silently ignored."""
    with pytest.raises(ValueError, match=r"don't fit the explainer 'gradcam'.*'layer'.*Its options: target_layer"):
        build_explainer("gradcam", layer="stages.3")


def test_registered_method_is_available(tiny, uniform):
    """Prevents: a registration that `explain` doesn't see."""
    assert "uniform" in hf_e2kd.available_explainers()
    assert (hf_e2kd.explain(tiny("vit"), images(), method="uniform", height=3.0).maps == 3).all()


def test_explainer_as_method(tiny):
    """Prevents: options beside an explainer that go nowhere."""
    explainer = GradCAM(target_layer="vit.layers.1")
    expected = hf_e2kd.explain(tiny("vit"), images(), target_layer="vit.layers.1")

    assert torch.equal(hf_e2kd.explain(tiny("vit"), images(), method=explainer).maps, expected.maps)
    with pytest.raises(ValueError, match=r"options \['target_layer'\] to the explainer's constructor"):
        hf_e2kd.explain(tiny("vit"), images(), method=explainer, target_layer="vit.layers.1")


def test_contract_of_an_explanation(tiny):
    """Prevents: shapes, types or a layout that the consumers of an explanation don't expect."""
    explanation = hf_e2kd.explain(tiny("convnext"), {"pixel_values": images(3)})

    assert explanation.logits.shape == (3, 5)
    assert explanation.maps.shape == (3, 4, 4)
    assert explanation.maps.dtype == torch.float32
    assert (explanation.maps >= 0).all()
    assert explanation.target.shape == (3,)
    assert explanation.mask is None
    assert explanation.vectors is None
    assert explanation.layout == "image"
    assert not explanation.maps.requires_grad


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("image.png", "not given by its path"),
        (images()[0], r"\(B, channels, H, W\).*not \(3, 32, 32\).*image\[None\]"),
        (images()[:0], "B at least 1"),
        ((255 * images().sigmoid()).byte(), "pixel_values are uint8, and ViTForImageClassification takes floats"),
        ({"pixel_values": [np.zeros((3, 32, 32))]}, 'return_tensors="pt"'),
        (torch.cat([images(), torch.full((1, 3, 32, 32), torch.nan)]), r"NaN or infinite values in the samples \[2\]"),
    ],
    ids=["path", "one image", "no image", "bytes", "not tensors", "NaN"],
)
def test_inputs_that_are_no_batch(tiny, inputs, message):
    """Prevents: a message from deep inside torch, or a map of NaN."""
    with pytest.raises(ValueError, match=message):
        hf_e2kd.explain(tiny("vit"), inputs)


def test_forms_of_inputs(tiny):
    """Prevents: what a processor gives refused, or its labels given to the forward."""
    model, batch = tiny("vit"), images()
    expected = hf_e2kd.explain(model, batch).maps

    for inputs in ({"pixel_values": batch}, BatchFeature({"pixel_values": batch, "labels": torch.tensor([0, 1])})):
        assert torch.equal(hf_e2kd.explain(model, inputs).maps, expected)


@pytest.mark.parametrize(
    "target", [[1, 1], np.array([1, 1]), np.int64(1), torch.tensor(1), lambda _: torch.tensor([1, 1])]
)
def test_forms_of_targets(tiny, target):
    """Prevents: an AttributeError for a list of classes."""
    expected = hf_e2kd.explain(tiny("vit"), images(), target=1)

    explanation = hf_e2kd.explain(tiny("vit"), images(), target=target)

    assert explanation.target.tolist() == [1, 1]
    assert torch.equal(explanation.maps, expected.maps)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (5, "no class 5: the model has 5 classes"),
        (-1, "no class -1"),
        ([0, -2], "no class -2"),
        ("cat", "not 'cat'.*label2id"),
        ([0.5, 1.0], "must be integers"),
        ([0, 1, 2], "for a batch of 2"),
    ],
)
def test_targets_that_are_no_classes(tiny, target, message):
    """Prevents: a map of zeros for a class that doesn't exist."""
    with pytest.raises(ValueError, match=message):
        hf_e2kd.explain(tiny("vit"), images(), target=target)


def test_logits_that_are_no_numbers(tiny):
    """Prevents: maps of NaN, and class 0 for a top class, of a model whose weights are damaged."""
    model = tiny("resnet")
    model.classifier[-1].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"logits are NaN or infinite for the samples \[0, 1\].*load or train"):
        hf_e2kd.explain(model, images(2))


def test_model_without_a_classifier(tiny):
    """Prevents: a KeyError for a backbone."""
    with pytest.raises(ValueError, match="no logits.*AutoModelForImageClassification"):
        hf_e2kd.explain(ViTModel(tiny("vit").config).eval(), images())
    with pytest.raises(ValueError, match="not NoneType"):
        hf_e2kd.explain(None, images())


def test_training_mode_is_warned_of(tiny):
    """Prevents: explanations with dropout, and statistics of a batch norm that drift, unnoticed."""
    model = tiny("resnet").train()

    with pytest.warns(UserWarning, match="ResNetForImageClassification is in training mode.*eval"):
        hf_e2kd.explain(model, images())

    assert model.training


def test_inference_mode(tiny):
    """Prevents: a model of one's own called not spatial because the caller disabled gradients."""
    model = Unregistered(tiny("resnet")).eval()
    expected = hf_e2kd.explain(model, images()).maps

    with torch.inference_mode():
        assert torch.equal(hf_e2kd.explain(model, images()).maps, expected)


@pytest.mark.parametrize("method", ["gradcam", "saliency", "integrated_gradients", "occlusion"])
def test_a_model_in_half_precision(method):
    """Prevents: "Input type and weight type should be the same" of a model that was loaded in bfloat16, as its
    configuration says, and of images as its processor makes them."""
    model, pixels = build("resnet"), images()
    whole = hf_e2kd.explain(model, pixels, method)
    found = hf_e2kd.explain(model.bfloat16(), pixels, method, whole.target)
    assert found.maps.dtype == torch.float32
    assert torch.cosine_similarity(found.maps.flatten(1), whole.maps.flatten(1)).min() > 0.95
    with torch.autocast("cpu", torch.bfloat16):
        assert hf_e2kd.explain(model.float(), pixels, method).maps.isfinite().all()


def test_only_explainers_are_registered(uniform):
    """Prevents: an instance registered, which fails at its first use."""
    with pytest.raises(ValueError, match="a subclass of `Explainer`"):
        hf_e2kd.register_explainer("wrong", Uniform())


@pytest.mark.parametrize("method", ["gradcam", "saliency", "attention_gradient", "integrated_gradients"])
def test_a_model_that_returns_tuples(tiny, method):
    """Prevents: an AttributeError from inside a model whose outputs are read by name; a changed configuration."""
    model = tiny("vit").eval()
    expected = hf_e2kd.explain(model, images(), method)
    model.config.return_dict = False
    torch.testing.assert_close(hf_e2kd.explain(model, images(), method).maps, expected.maps)
    assert model.config.return_dict is False


def test_special_tokens_of_given_tokens(tmp_path):
    """Prevents: [CLS] and [SEP] dominating a map of tokens without a word said (fault A10)."""
    model = text_model("bert").eval()
    batch = STUDENT(["a warm film", "bad"], return_tensors="pt", padding=True)
    with pytest.warns(UserWarning, match="nothing says which of them are special.*processing_class"):
        everything = hf_e2kd.explain(model, batch, "saliency")
    expected = hf_e2kd.explain(model, batch, "saliency", processing_class=STUDENT)
    special = torch.isin(batch["input_ids"], torch.tensor(STUDENT.all_special_ids))
    torch.testing.assert_close(expected.maps, everything.maps.masked_fill(special, 0))
    assert torch.equal(expected.mask, ~special)
    model.save_pretrained(tmp_path)
    STUDENT.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(hf_e2kd.explain(loaded, batch, "saliency").maps, expected.maps)
