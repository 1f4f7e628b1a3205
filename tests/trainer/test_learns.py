"""Matching explanations in training makes a student's explanations alike on data that it has not seen."""

from copy import deepcopy

import pytest
import torch

from hf_e2kd import ExplanationDistillTrainer, TextCollator
from tests.bcos.networks import network, pixels
from tests.models import build
from tests.tokenizers import STUDENT, data, text_model, without_dropout
from tests.training import arguments, samples

EVERYWHERE = ["saliency", "input_x_gradient", "integrated_gradients", "attention_rollout", "attention_gradient"]
BY_FAMILY = {
    "vit": [
        "gradcam",
        "saliency",
        "input_x_gradient",
        "integrated_gradients",
        "attention_rollout",
        "attention_gradient",
        "lrp",
    ],
    "bert": ["saliency", "input_x_gradient", "integrated_gradients", "attention_rollout", "attention_gradient", "lrp"],
    "bcos": ["bcos"],
}
EXPLAINED = [(family, explainer) for family, explainers in BY_FAMILY.items() for explainer in explainers]
OPTIONS = {"integrated_gradients": {"n_steps": 8, "internal_batch_size": 8}}


@torch.no_grad()
def smooth(model):
    """Weights so small that a map can be learnt from a few samples, and so large that it differs between them."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(0.5)
    return without_dropout(model)


def model_of(family, seed):
    if family == "bcos":
        return network("resnet", seed)
    return smooth(text_model("bert", seed) if family == "bert" else build("vit", seed))


def data_of(family, count, seed):
    if family == "bert":
        return data(count, seed)
    if family == "bcos":
        return [{"pixel_values": image} for image in pixels(count, seed=seed)]
    return samples(count, seed=seed)


def similarity(family, student, explainer, folder, weight=None):
    """To the teacher's explanations of held-out data, before any training or after one with this λ."""
    settings = {"optim": "adamw_torch", "learning_rate": 0.01, "max_steps": 20, "per_device_train_batch_size": 16}
    settings |= {"per_device_eval_batch_size": 64, "explanation_weight": weight or 0.0, "explainer": explainer}
    trainer = ExplanationDistillTrainer(
        student,
        arguments(folder, **settings, explainer_options=OPTIONS.get(explainer), logging_steps=20),
        teacher_model=model_of(family, 1),
        train_dataset=data_of(family, 192, seed=0),
        eval_dataset=data_of(family, 32, seed=9),
        data_collator=TextCollator(STUDENT) if family == "bert" else None,
    )
    if weight is not None:
        trainer.train()
    return trainer.evaluate()["eval_explanation_similarity"]


@pytest.fixture(scope="module")
def plain_students(tmp_path_factory):
    """Of each family a student that was trained on the teacher's logits alone."""
    students = {}

    def student_of(family):
        if family not in students:
            torch.manual_seed(0)
            students[family] = model_of(family, 0)
            similarity(family, students[family], BY_FAMILY[family][0], tmp_path_factory.mktemp("plain"), weight=0.0)
        return deepcopy(students[family])

    return student_of


@pytest.mark.parametrize(("family", "explainer"), EXPLAINED)
def test_similarity_rises_on_held_out_data(plain_students, tmp_path, family, explainer):
    """Prevents: a loss that falls without the student looking where its teacher looks."""
    untrained = similarity(family, model_of(family, 0), explainer, tmp_path)
    plain = similarity(family, plain_students(family), explainer, tmp_path)

    matched = similarity(family, model_of(family, 0), explainer, tmp_path, weight=5.0)

    # What is missing to equal maps is less than half of what was missing.
    assert 1 - matched < 0.5 * (1 - untrained)
    assert 1 - matched < 0.5 * (1 - plain)
