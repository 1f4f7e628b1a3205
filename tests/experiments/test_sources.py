"""Models and data sets that a command line names: what is found, and what is said of bad names."""

import json
import os
import pickle
import shutil

import datasets
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BitImageProcessor, DeiTImageProcessor, ViTImageProcessor

from hf_e2kd.alignment.inputs import ImageView, image_view
from hf_e2kd.data import images, text
from hf_e2kd.experiments import reaching
from hf_e2kd.experiments.models import (
    create_student,
    load_teacher,
    load_text_classifier,
    require_size,
    shallow_copy_of,
)
from hf_e2kd.experiments.processors import processor_like
from hf_e2kd.experiments.sources import Classifier, check_pair, check_source, load_classifier, load_split
from hf_e2kd.hub.ids import loaded_commit
from tests.models import build, build_bcos
from tests.text_models import build_text
from tests.tokenizers import tokenizer


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Models without a processor of their own, and one with code of its own."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("vit", "wrapped_resnet"):
        build(name).save_pretrained(folder / name)
    build_bcos(["cat", "dog"]).save_pretrained(folder / "bcos")
    build_text("bert").save_pretrained(folder / "bert")
    build_text("modernbert").save_pretrained(folder / "modernbert")
    (folder / "custom").mkdir()
    auto_map = {"AutoConfig": "code.Config", "AutoModelForImageClassification": "code.ForImageClassification"}
    config = {"model_type": "never_heard_of", "architectures": ["ForImageClassification"], "auto_map": auto_map}
    (folder / "custom" / "config.json").write_text(json.dumps(config))
    (folder / "custom" / "code.py").write_text("raise SystemExit('it ran')")
    return folder


def test_teachers_without_a_trained_head(tmp_path):
    """Prevents: a student of a teacher whose classifier is random."""
    build("vit").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    headless = {name: value for name, value in weights.items() if not name.startswith("classifier")}
    save_file(headless, tmp_path / "model.safetensors", {"format": "pt"})
    for load in (load_teacher, load_classifier):
        with pytest.raises(ValueError, match="has no weights for classifier.*trained as a classifier"):
            load(str(tmp_path))


@pytest.mark.parametrize("kind", ["pretrained", "random", "texts", "layers"])
def test_students_are_trained_in_full_precision(tmp_path, kind):
    """Prevents: a checkpoint in half precision, as transformers loads it, whose images end a training in an error, and
    whose weights lose small updates."""
    is_text = kind in ("texts", "layers")
    model = (build_text("bert") if is_text else build("resnet")).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    names = [f"class {number}" for number in range(model.config.num_labels)]
    if kind == "layers":
        student = shallow_copy_of(model, 1, "teacher-layers")
    elif is_text:
        student = load_text_classifier(str(tmp_path), names, len(names))
    else:
        student = create_student(str(tmp_path), kind, names)
    assert {each.dtype for each in student.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", ["vit", "wrapped_resnet"])
@pytest.mark.parametrize(("keeps_ratio", "fraction"), [(False, 1.0), (False, 0.8), (True, 0.8)])
def test_a_new_student_sees_what_its_teacher_sees(family, keeps_ratio, fraction):
    """Prevents: a student that starts anew and sees the whole image, where its teacher (DeiT) sees a crop."""
    view = ImageView((32, 32), (0.5,) * 3, (0.25,) * 3, keeps_ratio, fraction)
    assert image_view(processor_like(view, build(family))) == view


@pytest.mark.parametrize("family", ["vit", "wrapped_vit"])
def test_a_new_student_of_another_size_than_its_teachers(family):
    """Prevents: "Input image size (48*48) doesn't match model (32*32)." after a head was fitted, and of timm's models a
    traceback."""
    with pytest.raises(
        ValueError, match="'new' starts anew and is shown what its teacher sees, 48×40 pixels.*img_size"
    ):
        require_size(build(family), "new", (48, 40))
    require_size(build(family), "new", (32, 32))
    require_size(build("resnet"), "new", (48, 40))


@pytest.mark.parametrize(
    "processor",
    [
        BitImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 24, "width": 40}),
        DeiTImageProcessor(size={"height": 40, "width": 60}, crop_size={"height": 32, "width": 32}),
    ],
    ids=["crop", "squash and crop"],
)
def test_a_new_student_sees_its_teachers_crop(processor):
    """Prevents: another part of the image, where the teacher's crop isn't of the resized image's proportions."""
    view = image_view(processor)
    assert image_view(processor_like(view, build("vit"))) == view
    with pytest.raises(ValueError, match="timm's crops one share of both sides.*Take a student of transformers"):
        processor_like(view, build("wrapped_resnet"))


@pytest.mark.parametrize(
    ("name", "normalises"), [("wrapped_resnet", True), ("bcos", False)], ids=["timm's carries it", "B-cos"]
)
def test_processors_that_no_file_states(place, name, normalises):
    """Prevents: timm's and B-cos models refused, or a B-cos model shown normalised images."""
    found = load_classifier(str(place / name))
    assert not found.is_text and found.source == str(place / name)
    if normalises:
        assert found.processing_class.data_config["mean"]
    else:
        processor = found.processing_class
        assert not processor.do_normalize and (processor.size["shortest_edge"], processor.crop_size["width"]) == (
            256,
            224,
        )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit", "has no image processor that could be loaded .* AutoImageProcessor.from_pretrained"),
        ("bert", "has no tokenizer .*special tokens alone.* AutoTokenizer.from_pretrained"),
        ("modernbert", "has no tokenizer .* AutoTokenizer.from_pretrained"),
        ("custom", "code of its own, .* add --trust-remote-code, which runs them"),
    ],
)
def test_incomplete_models(place, name, message):
    """Prevents: a text read as unknown words alone, and code from elsewhere that is run or asked about at a prompt."""
    with pytest.raises(ValueError, match=f"{name}' .*{message}"):
        load_classifier(str(place / name))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("https://huggingface.co/google/vit/tree/main", "is an address. Give the id alone, as in 'google/vit'"),
        ("https://huggingface.co/datasets/ethz/food101", "as in 'ethz/food101'"),
        ("hf.co/google/vit", "is an address"),
        ("../secret/x", "'../secret/x' doesn't exist"),
        ("~/model", "doesn't exist"),
        ("a/../b", "doesn't exist"),
        ("a..b", "is not the id of a repository"),
        ("me/a/b", "doesn't exist"),
        ("me/two words", "is not the id of a repository"),
    ],
)
@pytest.mark.parametrize("load", [load_classifier, lambda source: load_split(source, False, "train", None, [])])
def test_names_that_are_none(monkeypatch, tmp_path, source, message, load):
    """Prevents: an address taken for a folder, a path that leads out of the cache, a search that takes a minute."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(source)


@pytest.mark.parametrize(
    ("load", "remedy"),
    [
        (load_classifier, ""),
        (lambda source: load_split(source, False, "train", None, []), ""),
        (load_teacher, ""),
        (lambda source: load_text_classifier(source, None, 2), ""),
        (lambda source: create_student(source, "pretrained", ["a", "b"]), "--student_init random"),
        (lambda source: create_student(source, "random", ["a", "b"]), "timm/NAME or a configuration's file"),
    ],
)
@pytest.mark.parametrize("variable", [None, "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_no_network(monkeypatch, load, remedy, variable):
    """Prevents: half a minute of retries, and an error that names neither the model nor a way out."""
    asked = []

    class Session:
        def head(self, url, timeout):
            asked.append(timeout)
            raise HTTPError("no route to host")

    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    if variable is None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(reaching.datasets.config, "HF_HUB_OFFLINE", False)
    else:
        monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(reaching, "get_session", Session)
    with pytest.raises(OSError, match="'me/model' is neither a folder nor .* name a local folder") as raised:
        load("me/model")
    assert ("can't be reached" if variable is None else f"{variable}=1 forbids") in str(raised.value)
    assert "HF_HUB_OFFLINE" in str(raised.value) and remedy in str(raised.value)
    # Asked once, for seconds; from then on the clients know.
    assert len(asked) == (variable is None) and all(seconds <= 10 for seconds in asked)
    assert constants.HF_HUB_OFFLINE


def test_an_architecture_needs_no_network(monkeypatch):
    """Prevents: a student that starts anew from an architecture of timm, and asks the Hub for its weights."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(reaching, "get_session", lambda: pytest.fail("the Hub is asked"))
    assert create_student("timm/test_resnet", "random", ["a", "b"]).config.num_labels == 2


def test_random_weights_that_cannot_be_trained(tmp_path):
    """Prevents: hours of training of an EfficientNet whose logits are the same for every image."""
    file, widths = tmp_path / "small.json", {"width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 320}
    config = {"model_type": "efficientnet", "image_size": 32, "depth_divisor": 4, **widths}
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="no gradient reaches its first layers.* timm/efficientnet_b0"):
        create_student(str(file), "random", ["a", "b"])
    file.write_text(json.dumps(config | {"initializer_range": 0.2}))
    student = create_student(str(file), "random", ["a", "b"]).train()
    student(torch.rand(4, 3, 32, 32)).logits.std(0).sum().backward()
    assert next(student.parameters()).grad.norm() > 1e-3


def test_a_configuration_of_a_type_with_several_classifiers(tmp_path):
    """Prevents: transformers' TypeError for a file that names DeiT, whose type has a classifier with a teacher too."""
    file, sizes = tmp_path / "small.json", {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    file.write_text(json.dumps({"model_type": "deit", "image_size": 32, "intermediate_size": 8, **sizes}))
    assert type(create_student(str(file), "random", ["a", "b"])).__name__ == "DeiTForImageClassification"


def test_a_network(monkeypatch):
    """Prevents: a Hub that answers, by an error too, and isn't used."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(reaching, "get_session", lambda: type("Session", (), {"head": lambda *_, **__: None})())
    check_source("me/model")
    assert not constants.HF_HUB_OFFLINE


def test_pairs():
    """Prevents: a comparison of what can't be compared, seen only when the first batch fails."""
    own = tokenizer("wordpiece")
    images = Classifier(build("vit"), None, False, "me/vit")
    texts = Classifier(build_text("bert", vocab_size=len(own)), own, True, "me/bert")
    with pytest.raises(ValueError, match="teacher 'me/vit' classifies images and the student 'me/bert' texts"):
        check_pair(images, texts)
    others = Classifier(build_bcos(["cat", "dog"]), None, False, "me/pets")
    with pytest.raises(ValueError, match="share no label"):
        check_pair(images, others)
    check_pair(images, Classifier(build("resnet"), None, False, "me/resnet"))


def test_relative_folders_are_folders(monkeypatch, place):
    """Prevents: a folder refused because its name can't be an id."""
    monkeypatch.chdir(place / "vit")
    check_source(os.path.join("..", "vit"))


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_a_single_file(tmp_path, kind):
    """Prevents: a file refused as a data set, though the folder around it is one."""
    rows = datasets.Dataset.from_dict({"text": ["good", "bad"], "label": [1, 0]})
    path = str(tmp_path / f"rows.{kind}")
    getattr(rows, f"to_{kind}")(path)
    data, split = load_split(path, True, None, None, ["text", "label"])
    assert split == "train" and data["text"] == ["good", "bad"] and data["label"] == [1, 0]
    (tmp_path / "rows.docx").write_text("good")
    with pytest.raises(ValueError, match="rows.docx' is no file of samples. Give .* ends in .csv, .tsv, .json"):
        load_split(str(tmp_path / "rows.docx"), True, None, None, [])


def test_the_only_split(tmp_path):
    """Prevents: a folder of images without splits refused for a split that nobody named."""
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    data, split = load_split(str(tmp_path / "photos"), False, None, None, ["image"])
    assert split == "train" and len(data) == 3
    with pytest.raises(ValueError, match="has no split 'validation'. Its splits: train. Name one by --split"):
        load_split(str(tmp_path / "photos"), False, "validation", None, ["image"])
    parts = {"train": data, "validation": data.select([0]), "test": data.select([1, 2])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    saved = str(tmp_path / "saved")
    assert load_split(saved, False, None, None, [])[1] == "validation"
    assert len(load_split(saved, False, None, None, [], default="train")[0]) == 3


@pytest.mark.parametrize("content", [b"no pickle", pickle.dumps({"classifier.weight": os.getcwd})])
def test_pickled_weights(place, tmp_path, content):
    """Prevents: code that runs as weights are read, and a traceback where they are damaged."""
    shutil.copy(place / "vit" / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    for load in (
        load_classifier,
        load_teacher,
        lambda source: create_student(source, "pretrained", ["a", "b"]),
    ):
        with pytest.raises(ValueError, match="holds no weights in the safetensors format. .* call save_pretrained"):
            load(str(tmp_path))


def test_weights_of_a_named_revision(hub_cache, tmp_path, monkeypatch):
    """Prevents: a teacher or student of branch `main` in the place of the revision that was asked for."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    commits = "a" * 40, "b" * 40
    for kind, parts in (("seen", [ViTImageProcessor()]), ("read", [tokenizer("wordpiece")])):
        for commit in commits:
            hub_cache(f"team/{kind}", commit, main=commit == commits[1])
            torch.manual_seed(int(commit, 16) % 1000)
            for part in [build("vit") if kind == "seen" else build_text("bert"), *parts]:
                part.save_pretrained(tmp_path / f"hub/models--team--{kind}/snapshots" / commit)
    names = [str(number) for number in range(build("vit").config.num_labels)]
    for commit in commits:
        seen, read = (
            load_file(tmp_path / f"hub/models--team--{kind}/snapshots" / commit / "model.safetensors")
            for kind in ("seen", "read")
        )
        for model in (
            load_teacher("team/seen", commit)[0],
            create_student("team/seen", "pretrained", names, revision=commit),
        ):
            name = "vit.embeddings.cls_token"
            torch.testing.assert_close(model.state_dict()[name], seen[name], rtol=0, atol=0)
            assert loaded_commit(model.config) == commit
        model = load_text_classifier("team/read", None, 2, commit)
        name = "bert.embeddings.word_embeddings.weight"
        torch.testing.assert_close(model.state_dict()[name], read[name], rtol=0, atol=0)
    with pytest.raises(ValueError, match="'timm/resnet18' is an architecture, which has no revision 'v1'"):
        create_student("timm/resnet18", "random", names, revision="v1")


def test_configurations_of_data_sets(tmp_path, monkeypatch):
    """Prevents: the first of several configurations, or one that nobody reads, and an error without the option."""
    for module, load in (
        (images, lambda: images.load_images("nyu/glue", config="sst2")),
        (text, lambda: text.load_texts("nyu/glue", "train", "validation", "image", "label", config="sst2")),
    ):
        asked = []

        def load_dataset(*arguments, asked=asked):
            asked.append(arguments)
            raise FileNotFoundError

        monkeypatch.setattr(module, "load_dataset", load_dataset)
        with pytest.raises(FileNotFoundError):
            load()
        assert asked == [("nyu/glue", "sst2")]
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.csv\n" for name in ("cola", "sst2"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    for name in ("cola", "sst2"):
        (tmp_path / f"{name}.csv").write_text("text,label\na,1\n")
    monkeypatch.setattr(reaching, "look_for_network", lambda: None)
    with (
        pytest.raises(ValueError, match="'nyu/glue' has several .* by --dataset-config: 'cola', 'sst2'."),
        reaching.loading_data("nyu/glue"),
    ):
        datasets.load_dataset_builder(str(tmp_path))
