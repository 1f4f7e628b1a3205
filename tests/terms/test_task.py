"""The loss on the labels by the mean squared error of probabilities."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from hf_e2kd import ExplanationDistillArguments
from hf_e2kd.terms.task import classification_loss, probability_mse
from hf_e2kd.testing import check_gradient
from tests.models import CLASSES, build
from tests.training import distiller, logged, samples

MSE = {"task_loss": "mse", "task_weight": 2.0, "logits_weight": 0.0, "explanation_weight": 0.0}


def test_value_by_hand():
    """Probabilities (1/4, 3/4) against (0, 1): (1/16 + 1/16) / 2. Prevents: a sum over the classes, raw logits."""
    model = build("resnet")
    logits = torch.tensor([[0.0, 3.0], [9.0, 0.0]]).clamp(min=1).log().double().requires_grad_()
    labels = torch.tensor([1, -100])
    assert probability_mse(model, logits, labels).item() == pytest.approx(1 / 16)
    assert probability_mse(model, logits, torch.tensor([-100, -100])) == 0
    check_gradient(lambda: probability_mse(model, logits, labels), {"logits": logits})


def test_trained_by_it(tmp_path):
    """Prevents: the cross-entropy in its place, or a weight that is left out."""
    model, data = build("resnet"), samples(4)
    trainer = distiller(model, build("resnet", seed=1), tmp_path, {**MSE, "max_steps": 1}, train_dataset=data)
    trainer.train()
    labels = torch.tensor([sample["labels"] for sample in data])
    with torch.no_grad():
        logits = build("resnet").train()(torch.stack([sample["pixel_values"] for sample in data])).logits
    wanted = torch.nn.functional.one_hot(labels, CLASSES)
    expected = (logits.softmax(1) - wanted).square().mean().item()
    assert logged(trainer, "loss_task") == pytest.approx([expected], rel=1e-5)
    assert logged(trainer, "loss") == pytest.approx([2 * expected], rel=1e-5)


def test_refusals(tmp_path):
    model, logits = build("resnet"), torch.zeros(2, CLASSES)
    with pytest.raises(ValueError, match="Unknown task_loss 'mae'. Available: auto, mse"):
        ExplanationDistillArguments(str(tmp_path), task_loss="mae")
    with pytest.raises(ValueError, match="label_smoothing_factor is of the cross-entropy"):
        ExplanationDistillArguments(str(tmp_path), task_loss="mse", label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match="compute_loss_func or by task_loss='mse', not both"):
        distiller(model, build("resnet", seed=1), tmp_path, MSE, compute_loss_func=lambda *_, **__: logits.sum())
    with pytest.raises(ValueError, match=r"one class a sample \(integers\), not torch.float32 of shape \(2, 5\)"):
        probability_mse(model, logits, logits)
    model.config.problem_type = "multi_label_classification"
    with pytest.raises(ValueError, match="doesn't give. Take task_loss='auto'"):
        probability_mse(model, logits, torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize("labelled", [2, 0])
def test_a_loss_of_the_users_own_is_told_how_many_labels_count(tmp_path, labelled):
    """Prevents: a sum over the labelled samples that is divided by all of them, or by none."""
    data = [{**sample, "labels": sample["labels"] if row < labelled else -100} for row, sample in enumerate(samples(4))]
    counts = []

    def summed(outputs, labels, num_items_in_batch=None):
        counts.append(int(num_items_in_batch))
        return F.cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch

    settings = {"task_weight": 1.0, "explanation_weight": 0.0, "max_steps": 1}
    teacher = build("resnet", seed=1)
    trainer = distiller(build("resnet"), teacher, tmp_path, settings, train_dataset=data, compute_loss_func=summed)
    trainer.train()
    stock = distiller(build("resnet"), teacher, tmp_path, settings, train_dataset=data)
    stock.train()
    assert counts == [max(labelled, 1)]
    assert logged(trainer, "loss_task") == pytest.approx(logged(stock, "loss_task"), abs=1e-6)


def test_a_loss_of_the_users_own_that_is_never_called(tmp_path, caplog):
    """Prevents: a training without the loss that was given to it, as the labels weigh nothing by default."""
    teacher = build("resnet", seed=1)
    for weight in (1.0, 0.0):
        caplog.clear()
        distiller(build("resnet"), teacher, tmp_path, {"task_weight": weight}, compute_loss_func=lambda *_, **__: 0)
        assert ("compute_loss_func is the loss on the labels, whose weight is 0" in caplog.text) is (weight == 0)


class OwnConfig(PreTrainedConfig):
    model_type = "own"


class OwnNetwork(PreTrainedModel):
    """A class of the user's own, whose name doesn't say what it is for."""

    config_class = OwnConfig
    main_input_name = "pixel_values"

    def __init__(self, config):
        super().__init__(config)
        self.convolution = nn.Conv2d(3, 8, 3, stride=2)
        self.head = nn.Linear(8, config.num_labels)
        self.post_init()

    def forward(self, pixel_values, labels=None):
        logits = self.head(self.convolution(pixel_values).relu().mean((2, 3)))
        return {"logits": logits}


def test_students_of_a_class_of_the_users_own(tmp_path):
    """Prevents: a TypeError of transformers' loss of language models, the default of classes that it doesn't know."""
    student, data = OwnNetwork(OwnConfig(num_labels=CLASSES)), samples(4)
    labels = torch.tensor([sample["labels"] for sample in data])
    with torch.no_grad():
        logits = student(torch.stack([sample["pixel_values"] for sample in data]))["logits"]
    settings = {"task_weight": 1.0, "explanation_weight": 0.0, "max_steps": 1}
    trainer = distiller(student, OwnNetwork(OwnConfig(num_labels=CLASSES)), tmp_path, settings, train_dataset=data)
    trainer.train()
    assert logged(trainer, "loss_task") == pytest.approx([F.cross_entropy(logits, labels).item()], rel=1e-5)
    student.loss_function = lambda labels, logits, config: logits.sum() * 0 + 7
    assert classification_loss(student, logits, labels) == 7
