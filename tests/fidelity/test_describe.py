"""What a record says of where models and data are from, and what it keeps to itself."""

import platform
from dataclasses import fields
from types import SimpleNamespace

import pytest
from datasets import load_dataset
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from PIL import Image

from hf_e2kd.cards.card import model_card
from hf_e2kd.cards.measures import MEASURES
from hf_e2kd.explainers import build_explainer
from hf_e2kd.fidelity import DataRecord, FidelityRecord, Figure, ModelRecord, TrainingRecord, describe
from hf_e2kd.fidelity.describe import (
    describe_data,
    describe_explainer,
    describe_model,
    hub_id,
    license_of,
    loaded_from_hub,
)
from hf_e2kd.private import LEFT_OUT, is_private, without_private
from hf_e2kd.store.key import loaded_revision, teacher_key
from tests.cards.records import image_record
from tests.models import build

COMMITS = "a" * 40, "b" * 40


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """Puts a commit of a model into the cache, of branch `main` or of none."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)

    def put(name, commit, main):
        folder = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (folder / "snapshots" / commit).mkdir(parents=True)
        (folder / "snapshots" / commit / "config.json").write_text("{}")
        if main:
            (folder / "refs").mkdir(exist_ok=True)
            (folder / "refs/main").write_text(commit)

    return put


@pytest.fixture
def asked(monkeypatch):
    """The questions to a Hub, which answers as `answer` says."""
    monkeypatch.setattr(describe, "is_offline_mode", lambda: False)
    monkeypatch.setattr(describe, "_ask_from", 0.0)
    describe._stated_license.cache_clear()
    found = SimpleNamespace(questions=[], answer={"license": "mit"})

    def info(self, repo_id, *, timeout):
        found.questions.append((repo_id, timeout))
        if isinstance(found.answer, Exception):
            raise found.answer
        return SimpleNamespace(card_data=found.answer)

    monkeypatch.setattr(HfApi, "model_info", info)
    monkeypatch.setattr(HfApi, "dataset_info", info)
    yield found
    describe._stated_license.cache_clear()


# ---- Models ----------------------------------------------------------------------------------------------------------


def test_revision_that_was_loaded(cache):
    """Prevents: records without revisions, which configurations don't hold; the present commit in the place of the one
    that was loaded; a student under its base model's name."""
    model = build("vit")
    model.config._name_or_path = "google/vit"
    assert describe_model(model).id is None and teacher_key(model)["revision"] is None
    cache("google/vit", COMMITS[0], main=False)  # as with revision="v1"
    assert loaded_revision("google/vit") == COMMITS[0]
    cache("google/vit", COMMITS[1], main=False)
    assert loaded_revision("google/vit") is None and loaded_from_hub("google/vit") == "google/vit"
    cache("google/vit", "c" * 40, main=True)
    found = describe_model(model)
    assert (found.id, found.revision) == ("google/vit", "c" * 40)
    assert teacher_key(model)["revision"] == "c" * 40
    assert teacher_key(model, revision="v1")["revision"] == "v1"
    trained = describe_model(model, published=False)
    assert trained.id is trained.revision is trained.license is None and trained.weights == found.weights


@pytest.mark.parametrize("name", ["outputs/teacher", "my-secret-checkpoint", "", None])
def test_folder_that_is_gone(name, cache):
    """Prevents: a relative folder that isn't there any more, or is, taken for an id on the Hub."""
    assert loaded_from_hub(name) is None and loaded_revision(name) is None


def test_folder_of_the_same_name(cache, tmp_path):
    """Prevents: the revision of a cached model in the record of a folder of its name."""
    cache("team/model", COMMITS[0], main=True)
    (tmp_path / "team/model").mkdir(parents=True)
    assert hub_id("team/model") is None and loaded_revision("team/model") is None


# ---- Licences --------------------------------------------------------------------------------------------------------


def test_license_is_asked_once(asked):
    """Prevents: a request at every checkpoint, or one without an end."""
    assert [license_of("me/model"), license_of("me/model")] == ["mit", "mit"]
    asked.answer = {"license": ["mit", "other"]}
    assert license_of("me/data", "dataset") == "mit, other"
    asked.answer = None
    assert license_of("me/bare") is None
    assert asked.questions == [(name, describe._TIMEOUT) for name in ("me/model", "me/data", "me/bare")]


def test_hub_that_does_not_answer(asked, monkeypatch):
    """Prevents: minutes of waiting without a network, or a Hub that is never asked again; a missing repository that
    silences it."""
    asked.answer = HfHubHTTPError("404", response=SimpleNamespace(headers={}, request=None))
    assert license_of("me/gone") is None and license_of("me/gone") is None
    asked.answer = HTTPError("refused")
    assert license_of("me/model") is None and license_of("me/other") is None
    assert [name for name, _ in asked.questions] == ["me/gone", "me/model"]
    asked.answer = {"license": "mit"}
    monkeypatch.setattr(describe, "_ask_from", 0.0)
    assert license_of("me/model") == "mit"
    monkeypatch.setattr(describe, "is_offline_mode", lambda: True)
    assert license_of("me/model") is None and len(asked.questions) == 3


# ---- Private ---------------------------------------------------------------------------------------------------------


def test_local_data_have_no_name(tmp_path):
    """Prevents: the name of somebody's folder in fidelity.json."""
    (tmp_path / "alice_private/cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "alice_private/cat/a.png")
    data = load_dataset(str(tmp_path / "alice_private"), cache_dir=str(tmp_path / "cache"))["train"]
    assert "alice" not in str(describe_data(data)) and describe_data(data).name == "a local data set"


def test_options_that_are_not_for_others():
    """Prevents: absolute paths and memory addresses among an explainer's options."""
    kind = type(build_explainer("gradcam"))

    class Own(kind):
        def __init__(self, weights="/home/alice/w.pt", steps=(1, 2), nested=None, call=print, target_layer=None):
            super().__init__(target_layer=target_layer)
            self.weights, self.steps, self.call = weights, steps, call
            self.nested = {"/home/alice": [object(), 3]}

    assert describe_explainer(Own())["options"] == {
        "weights": LEFT_OUT,
        "steps": [1, 2],
        "nested": {LEFT_OUT: [LEFT_OUT, 3]},
        "call": LEFT_OUT,
        "target_layer": None,
    }


OWN_WORDS = [
    *(
        field.name
        for part in (FidelityRecord, ModelRecord, DataRecord, TrainingRecord, Figure)
        for field in fields(part)
    ),
    *MEASURES,
    *("image", "single_label_classification", "teacher_top", "TeacherReference", "shuffled", "gradcam", "torch"),
]


def test_host_with_a_word_of_the_record(monkeypatch):
    """Prevents: a card that can't be written, or without half of its content, where the machine is called `data`."""
    card, stated = str(model_card(image_record())), image_record().to_dict()
    for host in OWN_WORDS:
        monkeypatch.setattr(platform, "node", lambda host=host: f"{host}.example.org")
        assert FidelityRecord.from_dict(without_private(stated)) == image_record(), host
    assert str(model_card(image_record())) == card
    assert is_private(f"at {OWN_WORDS[-1]}.example.org")


def test_hosts_are_whole_words(monkeypatch):
    """Prevents: words left out that merely hold the machine's name."""
    monkeypatch.setattr(platform, "node", lambda: "bird")
    assert is_private("on BIRD") and is_private("bird-7") and not is_private("bluebird, birds and bird_7")


def test_names_that_users_chose(monkeypatch):
    """Prevents: private keys in a card; two of them that become one."""
    compared = {"/home/alice/a": {"accuracy": 1}, "/home/alice/b": {"accuracy": 2}}
    cleaned = without_private({"compared": compared, "data": {"arguments": {"~/x": 1}}})
    assert cleaned == {
        "compared": {LEFT_OUT: {"accuracy": 1}, f"{LEFT_OUT} 2": {"accuracy": 2}},
        "data": {"arguments": {LEFT_OUT: 1}},
    }
