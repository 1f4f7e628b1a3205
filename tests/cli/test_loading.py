"""Models and data sets that a command line names: what is found, and what is said of bad names."""

import json
import os

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError

import hf_e2kd.cli.loading as loading
from hf_e2kd.cli.loading import Classifier, check_pair, check_source, load_classifier, load_split
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
        ("a/../b", "is not the id of a repository"),
        ("a..b", "is not the id of a repository"),
        ("me/a/b", "is not the id of a repository"),
        ("me/two words", "is not the id of a repository"),
    ],
)
@pytest.mark.parametrize("load", [load_classifier, lambda source: load_split(source, False, "train", None, [])])
def test_names_that_are_none(monkeypatch, tmp_path, source, message, load):
    """Prevents: an address taken for a folder, a path that leads out of the cache, a search that takes a minute."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(source)


@pytest.mark.parametrize("load", [load_classifier, lambda source: load_split(source, False, "train", None, [])])
@pytest.mark.parametrize("variable", [None, "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_no_network(monkeypatch, load, variable):
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
        monkeypatch.setattr(loading.datasets.config, "HF_HUB_OFFLINE", False)
    else:
        monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(loading, "get_session", Session)
    with pytest.raises(OSError, match="'me/model' is neither a folder nor .* name a local folder") as raised:
        load("me/model")
    assert ("can't be reached" if variable is None else f"{variable}=1 forbids") in str(raised.value)
    assert "HF_HUB_OFFLINE" in str(raised.value)
    # Asked once, for seconds; from then on the clients know.
    assert len(asked) == (variable is None) and all(seconds <= 10 for seconds in asked)
    assert constants.HF_HUB_OFFLINE


def test_a_network(monkeypatch):
    """Prevents: a Hub that answers, by an error too, and isn't used."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(loading, "get_session", lambda: type("Session", (), {"head": lambda *_, **__: None})())
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
