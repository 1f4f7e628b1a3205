"""A classifier of some of another's classes."""

import pytest
import timm
import torch
from torch import nn
from transformers import AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification

from hf_e2kd import wrap_timm
from hf_e2kd.data.imagenet import class_names
from hf_e2kd.experiments import keep_classes, label_settings


def timm_classifier(names):
    settings = {"input_size": (3, 32, 32), "crop_pct": 1.0}
    model = timm.create_model("test_efficientnet", num_classes=len(names), pretrained_cfg_overlay=settings)
    return wrap_timm(model.eval(), id2label=dict(enumerate(names)))


def transformers_classifier(names):
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(**sizes, **label_settings(names, len(names)))).eval()


@pytest.mark.parametrize("make", [timm_classifier, transformers_classifier])
def test_logits_are_those_of_the_classes_kept(make, tmp_path):
    """Prevents: rows in the model's order, and a checkpoint that doesn't load or names other classes."""
    model = make(["tench", "crane (n02012849)", "wok", "yurt"])
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(pixel_values=pixels).logits
        keep_classes(model, ["yurt", *class_names(["n02012849"])])
        after = model(pixel_values=pixels).logits
    torch.testing.assert_close(after, before[:, [3, 1]])
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert loaded.config.id2label == {0: "yurt", 1: "crane (n02012849)"}
    assert torch.equal(loaded(pixel_values=pixels).logits, after)


def test_new_names_are_saved_of_a_loaded_classifier(tmp_path):
    """Prevents: the names that timm's wrapper was loaded with, which would be matched with another's by their index."""
    timm_classifier(["tench", "crane", "wok"]).save_pretrained(tmp_path / "whole")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "whole")
    keep_classes(model, ["wok", "tench"])
    model.save_pretrained(tmp_path / "part")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "part")
    assert loaded.config.id2label == {0: "wok", 1: "tench"}


def test_refusals():
    """Prevents: a class that stands for another, and a head of two whose rows are cut in one."""
    model = transformers_classifier(["tench", "crane", "Crane", "yurt"])
    for name, count in (("wok", 0), ("crane", 2)):
        with pytest.raises(ValueError, match=f"'{name}' is the name of {count} of the model's 4 named classes"):
            keep_classes(model, ["tench", name])
    model.second = nn.Linear(3, 4)
    with pytest.raises(ValueError, match="has 2 linear layers of 4 outputs.*fit_head"):
        keep_classes(model, ["tench", "yurt"])
