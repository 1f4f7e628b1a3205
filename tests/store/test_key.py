"""What a store was built with, and what else is refused."""

import copy
import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import BitImageProcessor, ViTImageProcessor

from hf_e2kd.explainers import GradCAM, Saliency
from hf_e2kd.store import StoredReference, StoreError
from hf_e2kd.store.key import explainer_key, public_key, teacher_key
from tests.models import build
from tests.store.stores import PROCESSOR, TEACHER, store, text_model, texts, train
from tests.training import samples


def test_another_teacher_processor_or_explainer(tmp_path, teacher):
    """Prevents: explanations of one teacher passed off as another's. Both values must be shown."""
    reference = store(teacher, samples(4), tmp_path / "store", processing_class=PROCESSOR)
    reference.check(build("vit", seed=1), PROCESSOR, GradCAM())
    with pytest.raises(StoreError, match=r"teacher\.weights is '\w{64}' in the store and '\w{64}' here"):
        reference.check(build("vit", seed=2))
    bigger = ViTImageProcessor(size={"height": 48, "width": 48}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    with pytest.raises(StoreError, match=r"size\.height is 32 in the store and 48 here"):
        reference.check(processing_class=bigger)
    reference.check(student_processing_class=bigger)
    cropping = BitImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    with pytest.raises(StoreError, match="'keeps_ratio': False, .* student's processor shows {'keeps_ratio': True"):
        reference.check(student_processing_class=cropping)
    with pytest.raises(
        StoreError, match=r"explainer\.options\.target_layer is None in the store and 'vit\.layers\.1' here"
    ):
        reference.check(explainer=GradCAM("vit.layers.1"))
    with pytest.raises(StoreError, match=r"explainer\.name is 'gradcam' in the store and 'saliency' here"):
        reference.check(explainer="saliency")
    with pytest.raises(StoreError, match=r"teacher\.weights is .* or build into another folder"):
        store(build("vit", seed=2), samples(4), tmp_path / "store", processing_class=PROCESSOR)
    with pytest.raises(StoreError, match=r"ids\.count is 4 in the store and 5 here"):
        store(teacher, samples(5), tmp_path / "store", processing_class=PROCESSOR)
    with pytest.raises(StoreError, match="holds explanations by 'gradcam', and the student is explained by 'saliency'"):
        train(tmp_path, reference, reference.attach(samples(4)), explainer="saliency")
    freely = StoredReference(tmp_path / "store", allow_explainer_mismatch=True)
    train(tmp_path, freely, freely.attach(samples(4)), explainer="saliency", settings={"max_steps": 1})


def test_other_columns_of_the_same_data(tmp_path, teacher):
    """Prevents: the explanations of one column's images, or of one column's labels, taken for those of another, where
    ids say that the samples are the same."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 3, 40, 40, 3), dtype=np.uint8)
    photo, sketch = ([Image.fromarray(each) for each in side] for side in noise)
    data = Dataset.from_dict(
        {"id": ["a", "b", "c"], "photo": photo, "sketch": sketch, "own": [0, 1, 2], "other": [2, 1, 0]}
    )
    options = {"processing_class": PROCESSOR, "id_column": "id", "target": "label"}
    built = store(teacher, data, tmp_path / "store", image_column="photo", label_column="own", **options)
    with pytest.raises(StoreError, match=r"columns\.label is 'own' in the store and 'other' here"):
        store(teacher, data, tmp_path / "store", image_column="photo", label_column="other", **options)
    with pytest.raises(StoreError, match=r"columns\.image is 'photo' in the store and 'sketch' here"):
        store(teacher, data, tmp_path / "store", image_column="sketch", label_column="own", **options)
    # Of a version that didn't state them.
    path = tmp_path / "store" / "store.json"
    stated = json.loads(path.read_text(encoding="utf-8"))
    del stated["key"]["columns"]
    path.write_text(json.dumps(stated), encoding="utf-8")
    again = store(teacher, data, tmp_path / "store", image_column="photo", label_column="own", **options)
    assert len(again.shards) == len(built.shards) == 3


def test_a_tokenizer_that_reads_the_end_of_long_texts(tmp_path):
    """Prevents: scores of the first tokens of long texts taken for those of the last ones."""
    options = {"processing_class": TEACHER, "explainer": "saliency"}
    reference = store(text_model("bert", TEACHER, 1), texts(4), tmp_path, **options)
    end = copy.deepcopy(TEACHER)
    end.truncation_side = "left"
    reference.check(processing_class=TEACHER)
    with pytest.raises(StoreError, match="truncation_side is .* in the store and 'left' here"):
        reference.check(processing_class=end)


def test_maps_of_another_sense_are_refused(tmp_path):
    """Prevents: unsigned gradients of the teacher that a student's signed ones are pulled to."""
    teacher = build("vit", seed=1)
    reference = store(teacher, samples(4), tmp_path / "store", explainer="saliency")
    attached = reference.attach(samples(4))
    signed = Saliency(signed=True)
    message = r"by 'saliency' with signed=False, and the student is explained with signed=True. Give .*'signed': False"
    with pytest.raises(StoreError, match=message):
        train(tmp_path, reference, attached, explainer=signed)
    freely = StoredReference(tmp_path / "store", allow_explainer_mismatch=True)
    train(tmp_path, freely, freely.attach(samples(4)), explainer=signed, settings={"max_steps": 1})


class Option:
    def __init__(self, number):
        self.number = number


class Own(GradCAM):
    def __init__(self, weights=None, call=None, names=None, option=None, scale=None):
        super().__init__()
        self.weights, self.call, self.names, self.option, self.scale = weights, call, names, option, scale


def test_keys_of_own_explainers():
    """Prevents: memory addresses, by which an interrupted building is refused in the next process; paths in store.json;
    options that differ and are taken for the same."""

    def key(path="/home/alice/w.pt", number=1, weight=1.0):
        layer = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(layer.weight, weight), torch.nn.init.zeros_(layer.bias)
        return explainer_key(Own(path, lambda: None, {"b", "a"}, Option(number), [layer, np.float32(2)]))

    assert key() == key() and "alice" not in str(key()) and "0x" not in str(key())
    assert key()["options"]["names"] == ["a", "b"] and key()["options"]["scale"][1] == 2
    assert key() != key("/home/bob/w.pt") and key() != key(number=2) and key() != key(weight=2.0)
    assert public_key({"explainer": key()}) == {"explainer": key()}


def test_a_folder_is_no_name(tmp_path, teacher, hub_cache):
    """Prevents: the folder that a teacher was loaded from in store.json and in its card."""
    for source in (str(tmp_path), "/home/alice/gone", "models/gone"):
        teacher.config._name_or_path = source
        assert teacher_key(teacher)["name"] == "ViTForImageClassification"
    for given in (str(tmp_path), "/home/alice/gone"):
        assert teacher_key(teacher, given)["name"] == "ViTForImageClassification"
    hub_cache("google/vit", "a" * 40, main=True)
    teacher.config._name_or_path = "google/vit"
    assert teacher_key(teacher)["name"] == "google/vit"
