"""`load_student`: what was published, and nothing that could run code."""

import json
import sys

import pytest
import torch
import transformers.dynamic_module_utils
from huggingface_hub import HfApi, constants
from transformers import PreTrainedTokenizerBase

from hf_e2kd import load_student
from hf_e2kd.fidelity import DataRecord, FidelityRecord, MetricValue, ModelRecord
from hf_e2kd.hub.upload import push_folder
from tests.bcos.networks import network
from tests.bcos.networks import pixels as bcos_pixels
from tests.hub.students import PROCESSOR, assert_same
from tests.models import build, images
from tests.tokenizers import STUDENT, text_model

RECORD = FidelityRecord(
    modality="image",
    problem="single_label_classification",
    student=ModelRecord(None, "ViTForImageClassification"),
    teacher=ModelRecord("me/teacher", "ViTForImageClassification", revision="0123abc"),
    data=DataRecord("me/data", "me/data", samples=[3, 1]),
    explainer={"name": "gradcam", "options": {}},
    figures={"agreement": MetricValue(0.9, 0.8, 1.0, samples=2)},
)


def published(folder, model, processor=None, record=None):
    """A student saved in a folder and pushed as me/student."""
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    if record is not None:
        record.save(folder)
    push_folder(folder, "me/student", commit_message="A student")
    return model


@pytest.mark.parametrize("source", ["hub", "folder"])
def test_images(hub, tmp_path, source):
    """Prevents: a student without its processor, its record or the reference to its teacher."""
    model = published(tmp_path / "student", build("vit"), PROCESSOR, RECORD)
    student = load_student("me/student" if source == "hub" else tmp_path / "student")
    assert_same(student.model, model)
    assert not student.model.training
    assert student.processing_class.to_dict() == PROCESSOR.to_dict()
    assert student.fidelity == RECORD and student.teacher == RECORD.teacher


def test_texts(hub, tmp_path):
    """Prevents: a student of texts taken for one of images, or loaded without its tokenizer."""
    model = published(tmp_path / "student", text_model("bert", own=STUDENT), STUDENT)
    student = load_student("me/student")
    assert isinstance(student.processing_class, PreTrainedTokenizerBase)
    batch = student.processing_class(["a fine film"], return_tensors="pt")
    torch.testing.assert_close(student.model(**batch).logits, model(**batch).logits)
    assert student.fidelity is None and student.teacher is None


@pytest.mark.parametrize("family", ["wrapped_convnext", "bcos"])
def test_other_families(hub, tmp_path, family):
    """Prevents: a student of timm or B-cos that the Auto classes don't know, one without a processor refused, or timm's
    without the processor that its configuration states."""
    model = published(tmp_path / "student", network("resnet") if family == "bcos" else build(family))
    student = load_student("me/student")
    inputs = bcos_pixels() if family == "bcos" else images(2)
    torch.testing.assert_close(student.model(inputs).logits, model.eval()(inputs).logits)
    if family == "bcos":
        assert student.processing_class is None
    else:
        assert student.processing_class.data_config["mean"] == tuple(model.config.pretrained_cfg["mean"])


def test_revision_and_offline(hub, tmp_path, monkeypatch):
    """Prevents: another revision than was asked for, or no student without the network though it was loaded before."""
    first = published(tmp_path / "first", build("vit", seed=1))
    revision = HfApi().model_info("me/student").sha
    second = published(tmp_path / "second", build("vit", seed=2))
    assert_same(load_student("me/student", revision=revision).model, first)
    assert_same(load_student("me/student").model, second)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_same(load_student("me/student").model, second)
    with pytest.raises(OSError, match="HF_HUB_OFFLINE"):
        load_student("me/never-loaded")


def test_pickled_weights_are_refused(hub, tmp_path):
    """Prevents: a file that runs code when it is read, loaded or even fetched."""
    model = published(tmp_path / "student", build("vit"))
    (tmp_path / "student" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "student" / "pytorch_model.bin")
    HfApi().delete_file("model.safetensors", "me/student")
    push_folder(tmp_path / "student", "me/student", commit_message="Pickled")
    hub.requests = []
    for source in ("me/student", tmp_path / "student"):
        with pytest.raises(ValueError, match="no weights in the safetensors format"):
            load_student(source)
    assert hub.count("GET /(lfs|me/student/resolve/.*bin)") == 0


OWN = """
import sys
from transformers import ViTConfig, ViTForImageClassification

sys.own_code_ran = True

class OwnConfig(ViTConfig):
    model_type = "own"

class OwnForImageClassification(ViTForImageClassification):
    config_class = OwnConfig
"""


def test_remote_code_runs_only_if_trusted(hub, tmp_path, monkeypatch):
    """Prevents: code of a stranger run by loading a model, or a question asked of a script that nobody sits at."""
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    monkeypatch.delattr(sys, "own_code_ran", raising=False)
    model = published(tmp_path / "student", build("vit"))
    config = json.loads((tmp_path / "student/config.json").read_text())
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForImageClassification": "own.OwnForImageClassification"}
    config |= {"model_type": "own", "architectures": ["OwnForImageClassification"], "auto_map": classes}
    (tmp_path / "student/config.json").write_text(json.dumps(config))
    (tmp_path / "student/own.py").write_text(OWN)
    push_folder(tmp_path / "student", "me/student", commit_message="Code of its own")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        load_student("me/student")
    assert not hasattr(sys, "own_code_ran") and hub.count(r"GET .*own\.py") == 0
    student = load_student("me/student", trust_remote_code=True)
    assert sys.own_code_ran and type(student.model).__name__ == "OwnForImageClassification"
    assert_same(student.model, model)


def test_no_student(hub, tmp_path):
    """Prevents: an error from deep inside for what is no model, no classifier or no id."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_student(tmp_path / "empty")
    with pytest.raises(ValueError, match="is not the id of a repository"):
        load_student(tmp_path / "nowhere")
    build("vit").vit.save_pretrained(tmp_path / "features")
    with pytest.raises(ValueError, match=r"not a classifier .* \['ViTModel'\]"):
        load_student(tmp_path / "features")
