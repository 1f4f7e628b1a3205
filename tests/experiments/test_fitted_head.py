"""Heads fitted to the data's labels, against scikit-learn's own predictions."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from transformers import AutoModelForImageClassification, ViTImageProcessor, ViTModel

from hf_e2kd import explain
from hf_e2kd.data.transforms import DistillationTransform
from hf_e2kd.experiments import fit_head
from tests.models import build
from tests.tokenizers import STUDENT, WORDS, text_model

PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32})


def pictures(names, count=24):
    """Noise whose brightness follows the class."""
    noise = np.random.default_rng(0)
    labels = [number % len(names) for number in range(count)]
    images = [(noise.integers(0, 120, (32, 32, 3)) + 60 * label).clip(0, 255).astype(np.uint8) for label in labels]
    return Dataset.from_dict(
        {"image": images, "label": labels}, features=Features({"image": Image(), "label": ClassLabel(names=names)})
    )


def saved(model, processing, folder):
    model.save_pretrained(folder)
    processing.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("names", [["dark", "grey", "bright"], ["dark", "bright"]], ids=["three", "two"])
@pytest.mark.parametrize("has_head", [False, True], ids=["backbone", "of other classes"])
def test_it_is_scikit_learns(tmp_path, names, has_head):
    """Prevents: weights of scaled features on unscaled ones, classes in another order, two classes by half a logit."""
    model = build("vit", seed=1).eval()
    data = pictures(names)
    source = saved(model if has_head else model.vit, PROCESSOR, tmp_path)
    teacher, processor = fit_head(source, data, regularisation=0.5, batch_size=7, progress=False)
    pixels = torch.stack(DistillationTransform(processor)({"image": data["image"]})["pixel_values"])
    with torch.no_grad():
        features = model.vit(pixels).last_hidden_state[:, 0].numpy()
        found = teacher(pixel_values=pixels).logits
    scaler = StandardScaler().fit(features)
    fitted = LogisticRegression(C=0.5, max_iter=2000).fit(scaler.transform(features), data["label"])
    expected = torch.from_numpy(fitted.predict_proba(scaler.transform(features))).float()
    torch.testing.assert_close(found.softmax(1), expected, rtol=0, atol=1e-4)
    assert (found.argmax(1) == torch.tensor(data["label"])).float().mean() > 0.9
    assert list(teacher.config.id2label.values()) == names
    assert explain(teacher, pixels[:2], "saliency").maps.abs().amax((1, 2)).min() > 0
    teacher.save_pretrained(tmp_path / "teacher")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "teacher").eval()
    torch.testing.assert_close(loaded(pixel_values=pixels).logits, found)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_texts(tmp_path, family):
    """Prevents: a head on random layers of a text encoder, which its checkpoint doesn't hold."""
    source = saved(text_model(family).base_model, STUDENT, tmp_path)
    names = ["first half", "second half"]
    texts = [f"{WORDS[number]} {WORDS[-number - 1]}" for number in range(24)]
    data = Dataset.from_dict(
        {"text": texts, "label": [number % 2 for number in range(24)]},
        features=Features({"text": Value("string"), "label": ClassLabel(names=names)}),
    )
    teacher, tokenizer = fit_head(source, data, regularisation=1e3, progress=False)
    with torch.no_grad():
        found = teacher(**tokenizer(texts, return_tensors="pt", padding=True)).logits.argmax(1)
    assert (found == torch.tensor(data["label"])).float().mean() > 0.7
    if family == "roberta":
        torch.testing.assert_close(teacher.classifier.dense.weight, torch.eye(teacher.config.hidden_size))


def test_refusals(tmp_path):
    """Prevents: a head over numbers in place of names, over classes without samples, and on random layers."""
    source = saved(ViTModel(build("vit").config), PROCESSOR, tmp_path / "vit")
    data = pictures(["a", "b", "c"])
    with pytest.raises(ValueError, match="no names of classes.*class_encode_column"):
        fit_head(source, data.cast_column("label", Value("int64")))
    with pytest.raises(ValueError, match="these have none: c"):
        fit_head(source, data.filter(lambda row: row["label"] < 2))
