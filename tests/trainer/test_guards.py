"""Trainings that would go wrong without a word, or far from their cause."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from hf_e2kd import TeacherReference
from tests.models import build
from tests.training import distiller, logged, samples, weights


def renamed(count, column):
    return [{"pixel_values": each["pixel_values"], column: each["labels"]} for each in samples(count)]


@pytest.mark.parametrize(
    ("data", "columns"),
    [
        (renamed(4, "fine_label"), r"\['fine_label', 'pixel_values'\], of which the batch keeps \['pixel_values'\]"),
        ([{**each, "labels": "class 1"} for each in samples(4)], r"\['labels', 'pixel_values'\]"),
    ],
    ids=["name", "strings"],
)
def test_labels_that_never_arrive(tiny, tmp_path, data, columns):
    """A column of another name is removed and strings are dropped by the collator: the task would not be learnt."""
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, {"task_weight": 1.0}, train_dataset=data)
    with pytest.raises(ValueError, match=f"no labels.*term task of.*{columns}.*rename_column"):
        trainer.train()
    distiller(tiny("vit"), build("vit", seed=1), tmp_path, train_dataset=data).train()


@pytest.mark.parametrize("how", ["layer", "data", "adapter", "reference"])
def test_shared_weights(tiny, tmp_path, how):
    """Layers that are assigned, not copied, would be frozen with the teacher, or train it with the student."""
    student, teacher = tiny("vit"), build("vit", seed=1)
    keywords, message = {}, "share the weights vit.embeddings.patch_embeddings.projection.weight.*copy.deepcopy"
    if how == "layer":
        student.vit.embeddings = teacher.vit.embeddings
        message = "share the weights vit.embeddings.cls_token.*copy.deepcopy"
    elif how == "data":
        student.classifier.weight.data = teacher.classifier.weight.data
        message = "share the weights classifier.weight, which.*copy.deepcopy"
    elif how == "adapter":
        teacher, message = get_peft_model(student, LoraConfig(target_modules=["q_proj"])), "share the weights .*deepcopy"
    else:
        student.vit.layers[0] = teacher.vit.layers[0]
        keywords, teacher = {"references": {"guide": TeacherReference(teacher)}}, None
        message = r"share the weights vit.layers.0.* and \d+ more.*copy.deepcopy"
    with pytest.raises(ValueError, match=message):
        distiller(student, teacher, tmp_path, **keywords)
    assert all(p.requires_grad for name, p in student.named_parameters() if "base_layer" not in name and how == "data")


def test_a_deep_copy_shares_nothing(tiny, tmp_path):
    """A student that begins as its teacher's copy is common, and no mistake."""
    teacher = build("vit", seed=1)
    distiller(copy.deepcopy(teacher), teacher, tmp_path).train()


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_weights_that_are_no_numbers(tiny, tmp_path, side):
    """NaN in a damaged file ends as a logged loss of 0 and NaN everywhere."""
    models = {"student": tiny("vit"), "teacher": build("vit", seed=1)}
    models[side].classifier.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=f"The {side}'s weight 'classifier.weight' holds NaN"):
        distiller(models["student"], models["teacher"], tmp_path)


class Breaking(torch.nn.Module):
    """A layer whose output is NaN from the n-th call on."""

    def __init__(self, layer, call):
        super().__init__()
        self.layer, self.calls, self.call = layer, 0, call

    def forward(self, features):
        self.calls += 1
        return self.layer(features) * (float("nan") if self.calls >= self.call else 1.0)


@pytest.mark.parametrize("filtered", [True, False])
def test_first_loss_that_is_no_number(tiny, tmp_path, filtered):
    """The loop logs 0 for NaN and trains on; a stop names the side and leaves weights and checkpoints as they were."""
    student, teacher = tiny("vit"), build("vit", seed=1)
    teacher.classifier = Breaking(teacher.classifier, 3)
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1, "logging_nan_inf_filter": filtered}
    trainer = distiller(student, teacher, tmp_path, {**settings, "explanation_weight": 0.0})
    with pytest.raises(ValueError, match="loss_logits is NaN.*Not finite are the logits of the reference 'teacher'"):
        trainer.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    assert all(value == value and value > 0 for value in logged(trainer, "loss"))
    assert not filtered or weights(student).isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 1e30, "max_steps": 3}, "student's .*lower the learning rate"),
        ({"explanation_weight": 1e38, "max_steps": 3}, "NaN or infinite"),
        ({"learning_rate": 1e30, "logits_weight": 1e20, "max_steps": 1}, "student's weight '.*' holds NaN.*lower the learning rate"),
    ],
    ids=["rate", "weight", "last step"],
)
def test_steps_out_of_range(tiny, tmp_path, settings, message):
    """A diverged training must not end as one that succeeded, nor put NaN into a checkpoint."""
    settings = {**settings, "logging_steps": 10, "save_strategy": "steps", "save_steps": 1}
    with pytest.raises(ValueError, match=message):
        distiller(tiny("vit"), build("vit", seed=1), tmp_path, settings).train()
    assert not list(tmp_path.glob("checkpoint-3"))
