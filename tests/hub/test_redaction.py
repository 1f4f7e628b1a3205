"""What is published holds no token, no path and no address of the machine that made it."""

import platform
from dataclasses import fields

import pytest

from hf_e2kd.cards.card import model_card
from hf_e2kd.cards.measures import MEASURES
from hf_e2kd.fidelity import DataRecord, FidelityRecord, MetricValue, ModelRecord, TrainingRecord
from hf_e2kd.hub.redaction import LEFT_OUT, is_private, without_private
from tests.cards.records import image_record

HOST = "bluebird-7.example.org"

PRIVATE = [
    "/home/someone/data",
    "trained on /mnt/disk 7/of someone/x",
    "~/data",
    "~someone/data",
    "C:\\Users\\someone",
    "d:/data/someone",
    "\\\\server\\share",
    "file:///tmp/x",
    "file:/tmp/x",
    "s3://bucket/secret",
    "ssh://someone@host/x",
    "https://someone:secret@example.org/x",
    "http://localhost:8000/x",
    "http://10.1.2.3/x",
    "users/someone",
    "hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567",
    "token=hf_secretOfMe!",
    "ghp_0123456789abcdefghij",
    "http://bluebird-7:8000/secret",
    "https://BLUEBIRD-7.local/secret",
    "//bluebird-7/secret",
    "someone@bluebird-7:secret",
    "bluebird-7:/mnt/secret",
    "trained on BLUEBIRD-7.example.org",
]


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A host with a name that can be looked for."""
    monkeypatch.setattr(platform, "node", lambda: HOST)


@pytest.mark.parametrize("text", PRIVATE)
def test_private(text):
    """Prevents: a token, a path or an address of this machine that is published."""
    assert is_private(text) and without_private([text]) == [LEFT_OUT]


@pytest.mark.parametrize(
    "text",
    [
        *("n/a", "cats/dogs", "3×224×224", "google/vit-base-patch16-224", "1 / 2", "km/h", "hf_e2kd_student"),
        *("hf_transformers", "https://example.org/data", "resnet.encoder.stages.3", "sk-learn", "+/- 3", "a: b"),
        *("</b>", "a bluebird-7", "me/bluebird-7", "bluebird-7.conv", "http://bluebird-70/x", "https://bluebird-7.com"),
    ],
)
def test_not_private(text):
    """Prevents: names left out that say nothing of anyone."""
    assert not is_private(text)


OWN_WORDS = [
    *(
        field.name
        for part in (FidelityRecord, ModelRecord, DataRecord, TrainingRecord, MetricValue)
        for field in fields(part)
    ),
    *MEASURES,
    *("image", "single_label_classification", "teacher_top", "TeacherReference", "shuffled", "gradcam", "torch"),
    *("resnet", "microsoft", "resnet-18", "timm", "oxford-iiit-pet", "pets", "huggingface", "example"),
]


def test_host_with_a_word_of_the_record(monkeypatch):
    """Prevents: a card without half of its content where the machine is called `data`, or as the model is."""
    card, stated = str(model_card(image_record())), image_record().to_dict()
    for host in OWN_WORDS:
        monkeypatch.setattr(platform, "node", lambda host=host: f"{host}.cluster.example.org")
        assert FidelityRecord.from_dict(without_private(stated)) == image_record(), host
        assert is_private(f"at {host}.cluster.example.org") and is_private(f"http://{host}:80"), host
    assert str(model_card(image_record())) == card


def test_no_host(monkeypatch):
    """Prevents: every address taken for that of a machine without a name."""
    monkeypatch.setattr(platform, "node", lambda: "")
    assert not is_private("https://huggingface.co/datasets/beans")


def test_names_that_users_chose():
    """Prevents: private keys in a card; two of them that become one."""
    compared = {"/home/alice/a": {"accuracy": 1}, "/home/alice/b": {"accuracy": 2}}
    cleaned = without_private({"compared": compared, "data": {"arguments": {"~/x": 1}}})
    assert cleaned == {
        "compared": {LEFT_OUT: {"accuracy": 1}, f"{LEFT_OUT} 2": {"accuracy": 2}},
        "data": {"arguments": {LEFT_OUT: 1}},
    }
