"""Processors that lie beside models of the Hub and of folders."""

import shutil

import pytest
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, ViTImageProcessor

from hf_e2kd.alignment.own_processing import own_image_processor, own_tokenizer
from hf_e2kd.experiments.models import label_settings, load_for_classes
from hf_e2kd.experiments.sources import load_classifier
from hf_e2kd.fidelity.describe import describe_model
from hf_e2kd.store.key import teacher_key
from tests.models import build
from tests.tokenizers import STUDENT, text_model

COMMITS = "a" * 40, "b" * 40


@pytest.fixture
def published(hub_cache, tmp_path, monkeypatch):
    """`published(commit, model, *processors, main=…)` puts files of "team/model" into the Hub's cache."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def put(commit, *parts, main=True):
        hub_cache("team/model", commit, main=main)
        for part in parts:
            part.save_pretrained(tmp_path / "hub/models--team--model/snapshots" / commit)

    return put


def test_image_processor_of_a_model_of_the_hub(published, tmp_path):
    """Prevents: a teacher of the Hub that is shown the student's images as they are, since transformers' configurations
    no longer tell the commit."""
    published(COMMITS[0], build("vit"), ViTImageProcessor(image_mean=[0.1] * 3))
    model = AutoModelForImageClassification.from_pretrained("team/model", cache_dir=tmp_path / "hub")
    assert list(own_image_processor(model).image_mean) == [0.1] * 3
    shutil.rmtree(tmp_path / "hub")
    assert own_image_processor(model) is None  # as of a folder that is gone


def test_tokenizer_of_a_model_of_the_hub(published, tmp_path):
    """Prevents: two tokenizers of models of the Hub that nobody compares."""
    published(COMMITS[0], text_model("bert"), STUDENT)
    model = AutoModelForSequenceClassification.from_pretrained("team/model", cache_dir=tmp_path / "hub")
    assert own_tokenizer(model).get_vocab() == STUDENT.get_vocab()


@pytest.mark.parametrize("number", [0, 1])
def test_a_named_revision_among_several(published, number):
    """Prevents: the processor of branch `main`, or its commit in records and stores, for the revision that was asked
    for."""
    for at, commit in enumerate(COMMITS):
        published(commit, build("vit"), ViTImageProcessor(image_mean=[at / 2] * 3), main=bool(at))
    model = load_classifier("team/model", COMMITS[number]).model
    assert describe_model(model).revision == teacher_key(model)["revision"] == COMMITS[number]
    assert list(own_image_processor(model).image_mean) == [number / 2] * 3
    own = label_settings(["a", "b"], 2)
    other, _ = load_for_classes(AutoModelForImageClassification, "team/model", own, revision=COMMITS[number])
    assert list(own_image_processor(other).image_mean) == [number / 2] * 3
