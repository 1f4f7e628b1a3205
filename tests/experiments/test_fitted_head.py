"""Heads fitted to the data's labels, against scikit-learn's own predictions."""

import json
from functools import partial

import numpy as np
import pytest
import timm
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    DINOv3ConvNextConfig,
    DINOv3ConvNextModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    LevitConfig,
    LevitForImageClassificationWithTeacher,
    VitDetConfig,
    VitDetModel,
    ViTImageProcessor,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTModel,
)

from hf_e2kd import explain, wrap_timm
from hf_e2kd.alignment.labels import class_names
from hf_e2kd.architectures.taps import default_taps
from hf_e2kd.data.transforms import DistillationTransform
from hf_e2kd.experiments import fit_head, load_teacher
from hf_e2kd.experiments.sentence_encoders import pooling_of
from hf_e2kd.explainers import GradCAM
from tests.models import build, randomise
from tests.tokenizers import STUDENT, WORDS, text_model

PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32})
SIZES = {
    **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    **{"image_size": 32, "patch_size": 8},
}


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


def in_sentence_transformers_layout(folder, pooling):
    """A tiny BERT beside the files that say how its tokens are pooled."""
    model = text_model("bert").base_model
    source = saved(model, STUDENT, folder)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    listed = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in modules]
    (folder / "modules.json").write_text(json.dumps(listed), encoding="utf-8")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    return model, source


def first(tokens, mask):
    return tokens[0]


def mean(tokens, mask):
    return tokens[mask].mean(0)


def largest(tokens, mask):
    return tokens[mask].max(0).values


def last(tokens, mask):
    return tokens[mask][-1]


TWO_TOPICS = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})


@pytest.mark.parametrize(
    ("settings", "feature"),
    [
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, mean),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, first),
        ({"pooling_mode": "max"}, largest),
        ({"pooling_mode": "lasttoken"}, last),
    ],
    ids=["mean", "class token", "largest", "last token"],
)
def test_sentence_encoders_are_pooled_as_they_were_trained(tmp_path, settings, feature):
    """Prevents: a head on the first token where sentence-transformers reads the mean, padding in a feature."""
    model, source = in_sentence_transformers_layout(tmp_path, settings)
    texts = [" ".join(WORDS[number : number + 1 + number % 3]) for number in range(12)]
    data = Dataset.from_dict({"text": texts, "label": [0, 1] * 6}, features=TWO_TOPICS)
    teacher, tokenizer = fit_head(source, data, progress=False)
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        tokens = model(**batch).last_hidden_state
        found = teacher(**batch).logits
    assert (batch["attention_mask"].sum(1) < tokens.shape[1]).any()
    expected = [feature(own, mask.bool()) for own, mask in zip(tokens, batch["attention_mask"], strict=True)]
    torch.testing.assert_close(teacher.classifier(torch.stack(expected)), found)
    gradients = explain(teacher, dict(batch), "integrated_gradients", n_steps=64, completeness=True)
    torch.testing.assert_close(gradients.completeness_error, torch.zeros(12), rtol=0, atol=0.01)
    teacher.save_pretrained(tmp_path / "teacher")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "teacher").eval()
    torch.testing.assert_close(loaded(**batch).logits, found)


@pytest.mark.parametrize("kind", ["sentence encoder", "DINOv3 ViT", "ViT-MAE", "ResNet"])
def test_checkpoints_in_half_precision_stay_so(tmp_path, kind):
    """Prevents: a head in another precision than its backbone, which ends in an error."""
    if kind == "sentence encoder":
        model, source = in_sentence_transformers_layout(tmp_path, {"pooling_mode": "mean"})
        data = Dataset.from_dict({"text": WORDS[:12], "label": [0, 1] * 6}, features=TWO_TOPICS)
    else:
        make = {"DINOv3 ViT": dinov3_vit, "ViT-MAE": mae, "ResNet": partial(build, "resnet")}[kind]
        model, data = make(), pictures(["a", "b"])
        source = saved(model, PROCESSOR, tmp_path)
    model.to(torch.bfloat16).save_pretrained(source)
    teacher, _ = fit_head(source, data, progress=False)
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.bfloat16}


def test_sentence_encoders_that_pool_otherwise_are_refused(tmp_path):
    """Prevents: a head on a feature that the encoder wasn't trained for."""
    data = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=TWO_TOPICS)
    _, source = in_sentence_transformers_layout(tmp_path / "two", {"pooling_mode": ["cls", "mean"]})
    with pytest.raises(ValueError, match=r"pools its tokens in 2 ways \(cls, mean\).*Fine-tune"):
        fit_head(source, data, progress=False)
    _, source = in_sentence_transformers_layout(tmp_path / "weighted", {"pooling_mode_weightedmean_tokens": True})
    with pytest.raises(ValueError, match="Unknown pooling 'weightedmean'"):
        fit_head(source, data, progress=False)


def test_a_layout_that_cannot_be_looked_up_is_said(hub_cache, caplog):
    """Prevents: a sentence encoder's head on its first token because there was no network, and not a word of it."""
    hub_cache("me/encoder", "a" * 40, main=True)
    assert pooling_of("me/encoder") is None
    assert "'me/encoder' pools its tokens as a sentence encoder can't be looked up: its modules.json" in caplog.text


def test_refusals(tmp_path):
    """Prevents: a head over numbers in place of names, over classes without samples, and on random layers."""
    source = saved(ViTModel(build("vit").config), PROCESSOR, tmp_path / "vit")
    data = pictures(["a", "b", "c"])
    with pytest.raises(ValueError, match="no names of classes.*class_encode_column"):
        fit_head(source, data.cast_column("label", Value("int64")))
    with pytest.raises(ValueError, match="the column 'label' has samples of 2, and of the 3 classes c have none"):
        fit_head(source, data.filter(lambda row: row["label"] < 2))
    several = data.remove_columns("label").add_column(
        "label", [[0, 1]] * 24, feature=List(ClassLabel(names=["a", "b"]))
    )
    with pytest.raises(ValueError, match="'label' holds several labels a sample"):
        fit_head(source, several)
    for columns, missing in (({"column": "picture"}, "picture"), ({"label_column": "class"}, "class")):
        with pytest.raises(ValueError, match=f"no column '{missing}'. Its columns: image, label. Name those"):
            fit_head(source, data, **columns)
    with pytest.raises(ValueError, match="no column 'text'. Its columns: label"):
        fit_head(source, data.remove_columns("image"))
    with pytest.raises(OSError, match="'./nothing' doesn't exist"):
        fit_head("./nothing", data)
    unpooled = saved(VitDetModel(VitDetConfig(**SIZES)), PROCESSOR, tmp_path / "unpooled")
    with pytest.raises(ValueError, match="VitDetModel gives no pooled feature of an image"):
        fit_head(unpooled, data, progress=False)
    texts = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}).cast_column("label", ClassLabel(names=["a", "b"]))
    with pytest.raises(ValueError, match=r"of a kind \(vitdet\) that AutoModelForSequenceClassification doesn't know"):
        fit_head(unpooled, texts)


def mae():
    decoder = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTMAEForPreTraining(ViTMAEConfig(**SIZES, **{f"decoder_{name}": size for name, size in decoder.items()}))


def dinov3_vit():
    return DINOv3ViTModel(DINOv3ViTConfig(**SIZES, num_register_tokens=4))


def dinov3_convnext():
    return DINOv3ConvNextModel(DINOv3ConvNextConfig(hidden_sizes=[8, 8, 12, 16], depths=[1, 1, 1, 1]))


def unmasked(model, pixels):
    """The class token of ViT-MAE's encoder, all of whose patches are kept, in a random order."""
    model.config.mask_ratio = 0.0
    return model.vit(pixels).last_hidden_state[:, 0]


def pooled(model, pixels):
    return model(pixels).pooler_output


@pytest.mark.parametrize(
    ("make", "features", "target"),
    [
        (mae, unmasked, "vit.layers.1.layernorm_before"),
        (dinov3_vit, pooled, "layer.1.norm1"),
        (dinov3_convnext, pooled, "stages.3"),
    ],
    ids=["ViT-MAE", "DINOv3 ViT", "DINOv3 ConvNeXt"],
)
def test_backbones_without_a_classifier_of_their_own(tmp_path, make, features, target):
    """Prevents: patches masked at random, features of another token, maps of another layer, a teacher that is lost."""
    torch.manual_seed(0)
    model = make().eval()
    randomise(model)
    side = 64 if make is dinov3_convnext else 32  # which lowers the resolution by 32
    processor = ViTImageProcessor(size={"height": side, "width": side})
    data = pictures(["a", "b", "c"])
    teacher, _ = fit_head(saved(model, processor, tmp_path / "source"), data, progress=False)
    pixels = torch.stack(DistillationTransform(processor)({"image": data["image"]})["pixel_values"])
    with torch.no_grad():
        seen = features(model, pixels)
        found = teacher(pixel_values=pixels).logits
    torch.testing.assert_close(teacher.classifier(seen), found)
    scaler = StandardScaler().fit(seen.numpy())
    fitted = LogisticRegression(max_iter=2000).fit(scaler.transform(seen.numpy()), data["label"])
    expected = torch.from_numpy(fitted.predict_proba(scaler.transform(seen.numpy()))).float()
    torch.testing.assert_close(found.softmax(1), expected, rtol=0, atol=1e-4)
    (path,) = [name for name, _ in teacher.named_modules() if name.endswith(target)]
    maps = explain(teacher, pixels[:2]).maps
    torch.testing.assert_close(maps, explain(teacher, pixels[:2], GradCAM(target_layer=path)).maps)
    assert maps.abs().amax((1, 2)).min() > 0
    gradients = explain(teacher, pixels[:2], "integrated_gradients", n_steps=64, completeness=True)
    torch.testing.assert_close(gradients.completeness_error, torch.zeros(2), rtol=0, atol=0.01)
    teacher.save_pretrained(tmp_path / "teacher")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "teacher").eval()
    torch.testing.assert_close(loaded(pixel_values=pixels).logits, found)
    assert default_taps(loaded)[-1] == path.removesuffix(".layernorm_before").removesuffix(".norm1")


def test_a_classifier_of_timm_with_other_classes(tmp_path):
    """Prevents: timm's wrapper keeping its own number of classes, so that no head is found."""
    settings = {"input_size": (3, 32, 32), "crop_pct": 1.0}
    model = timm.create_model("test_efficientnet", num_classes=7, pretrained_cfg_overlay=settings)
    wrap_timm(model.eval(), id2label={number: f"old {number}" for number in range(7)}).save_pretrained(tmp_path)
    teacher, _ = fit_head(str(tmp_path), pictures(["a", "b", "c"]), progress=False)
    assert teacher.config.id2label == {0: "a", 1: "b", 2: "c"} and teacher.timm_model.classifier.out_features == 3
    teacher.save_pretrained(tmp_path / "teacher")
    assert class_names(load_teacher(tmp_path / "teacher")[0]) == ["a", "b", "c"]


@pytest.mark.parametrize("change", ["transform", "format"])
def test_the_data_set_may_show_its_rows_in_another_way(tmp_path, change):
    """Prevents: columns that a transform took away, and images that a format made tensors."""
    source, data = saved(build("vit", seed=1), PROCESSOR, tmp_path), pictures(["a", "b", "c"])
    shown = (
        data.with_transform(DistillationTransform(PROCESSOR)) if change == "transform" else data.with_format("torch")
    )
    expected, found = (fit_head(source, each, progress=False)[0].classifier for each in (data, shown))
    assert torch.equal(found.weight, expected.weight) and torch.equal(found.bias, expected.bias)


@pytest.mark.parametrize("nothing", [None, -1])
def test_samples_without_a_label_are_left_out(tmp_path, nothing):
    """Prevents: an error of scikit-learn's, or a class more than there are names."""
    source, data = saved(build("vit", seed=1), PROCESSOR, tmp_path), pictures(["a", "b", "c"])
    labels = [nothing, *data["label"][1:]]
    some = data.remove_columns("label").add_column("label", labels, feature=data.features["label"])
    expected, found = (
        fit_head(source, each, progress=False)[0].classifier for each in (data.select(range(1, len(data))), some)
    )
    assert torch.equal(found.weight, expected.weight)


def test_the_head_is_one_of_one_label_a_sample(tmp_path):
    """Prevents: a multi-label teacher because the checkpoint's own head was one."""
    model = build("vit", seed=1)
    model.config.problem_type = "multi_label_classification"
    teacher, _ = fit_head(saved(model, PROCESSOR, tmp_path), pictures(["a", "b", "c"]), progress=False)
    assert teacher.config.problem_type is None


@pytest.mark.parametrize("classes", [3, 5], ids=["as many classes", "others"])
def test_two_heads_are_refused(tmp_path, classes):
    """Prevents: one fitted head of two, whose mean are the logits."""
    config = LevitConfig(
        image_size=64,
        hidden_sizes=[16, 16, 16],
        num_attention_heads=[1, 1, 1],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
        id2label={number: f"old {number}" for number in range(classes)},
    )
    processor = ViTImageProcessor(size={"height": 64, "width": 64})
    source = saved(LevitForImageClassificationWithTeacher(config), processor, tmp_path)
    with pytest.raises(ValueError, match="no pooled feature that one linear layer reads"):
        fit_head(source, pictures(["a", "b", "c"]), progress=False)


def test_texts_are_cut_as_they_are_later(tmp_path):
    """Prevents: a head fitted to longer texts than the teacher is shown."""
    source = saved(text_model("bert").base_model, STUDENT, tmp_path)
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    words = [word for word in WORDS if len(STUDENT.tokenize(word)) == 1]
    texts = [" ".join(np.roll(words, number)[:6]) for number in range(12)]
    cut = [" ".join(text.split()[:2]) for text in texts]
    long, short = (Dataset.from_dict({"text": each, "label": [0, 1] * 6}, features=features) for each in (texts, cut))
    expected = fit_head(source, short, progress=False)[0].classifier
    found = fit_head(source, long, progress=False, max_length=4)[0].classifier
    torch.testing.assert_close(found.weight, expected.weight)
