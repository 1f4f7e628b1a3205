"""Explainers by name."""

import pytest
import torch

import hf_e2kd
from hf_e2kd.explainers import Explainer, Explanation, GradCAM, build_explainer, registry
from tests.models import images


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
    with pytest.raises(ValueError, match=r"Unknown explainer 'saliency'. Available: .*gradcam.*, uniform"):
        hf_e2kd.explain(tiny("vit"), images(), method="saliency")


def test_unknown_option_is_named():
    """Prevents: an option with a typing error that is silently ignored."""
    with pytest.raises(ValueError, match=r"don't fit the explainer 'gradcam'.*'layer'"):
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
