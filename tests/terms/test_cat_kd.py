"""Class attention transfer."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification

from hf_e2kd import TeacherReference
from hf_e2kd.terms.features.cat_kd import ClassAttentionTransfer, class_attention_loss, class_maps
from tests.models import build, images
from tests.terms.features import waves
from tests.training import distiller, logged, samples

CAT = {"terms": {"cat_kd": {"cells": 4}}, "explanation_weight": 0.0, "evaluate_explanations": False, "max_steps": 1}


@pytest.mark.parametrize(("normalize", "expected"), [(False, 0.5905997361867578), (True, 0.49050173444343087)])
def test_equals_the_authors_code(normalize, expected):
    """Prevents: another pooling, norm or mean than in the authors' `CAT_loss`, which gave these values."""
    student = class_maps(waves(2, 4, 4, 5, step=0.9), waves(6, 5, step=0.3), cells=2)
    teacher = class_maps(waves(2, 4, 4, 3, step=1.7), waves(6, 3, step=0.4), cells=2)
    assert class_attention_loss(student, teacher, normalize).mean().item() == pytest.approx(expected)


def test_the_mean_of_a_map_is_its_logit():
    """Prevents: maps of other classes, or of another layer than that which the classifier pools."""
    model = build("resnet")
    features = model.resnet(images(2)).last_hidden_state.movedim(1, -1)
    maps = class_maps(features, model.classifier[1].weight, cells=4)
    assert maps.shape == (2, 5, 4, 4)
    logits = model(images(2)).logits
    torch.testing.assert_close(maps.mean((2, 3)) + model.classifier[1].bias, logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("normalize", [False, True])
def test_gradient(normalize):
    """Prevents: a classifier that isn't trained, or a wrong derivative."""
    teacher = waves(2, 3, 2, 2, step=0.7)
    leaves = waves(2, 4, 4, 5).requires_grad_(), waves(3, 5, step=0.3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: class_attention_loss(class_maps(x, w, 2), teacher, normalize), leaves)


def resnet(names, seed):
    torch.manual_seed(seed)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}}
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **labels)
    return ResNetForImageClassification(config).eval()


def test_a_step_compares_the_shared_classes(tmp_path):
    """Prevents: maps of classes that stand elsewhere in the teacher, or a classifier without its gradient."""
    student, teacher = resnet(["cat", "dog", "fox"], 0), resnet(["emu", "fox", "cat", "elk"], 1)
    pixels = torch.stack([sample["pixel_values"] for sample in samples(4)])
    model = resnet(["cat", "dog", "fox"], 0).train()
    features = model.resnet(pixels).last_hidden_state.movedim(1, -1)
    taught = teacher.resnet(pixels).last_hidden_state.movedim(1, -1).detach()
    own = torch.einsum("bhwc,kc->bkhw", features, model.classifier[1].weight[[0, 2]])
    theirs = torch.einsum("bhwc,kc->bkhw", taught, teacher.classifier[1].weight[[2, 1]].detach())
    expected = F.mse_loss(own, theirs)
    expected.backward()
    before = student.classifier[1].weight.detach().clone()
    data = {"train_dataset": samples(4, labels=False), "eval_dataset": None}
    trainer = distiller(student, teacher, tmp_path, {**CAT, "logits_weight": 0.0}, **data)
    trainer.train()
    assert logged(trainer, "loss_cat_kd") == pytest.approx([expected.item()], rel=1e-5)
    moved = before - student.classifier[1].weight
    torch.testing.assert_close(
        moved, trainer.args.learning_rate * model.classifier[1].weight.grad, atol=1e-6, rtol=1e-3
    )


@pytest.mark.parametrize(
    "name", ["regnet", "mobilenet", "efficientnet", "swin", "wrapped_resnet", "wrapped_efficientnet"]
)
def test_families_with_a_pooled_linear_classifier(tmp_path, name):
    """Prevents: a family whose pooled layer must be named, or is another one."""
    trainer = distiller(build(name), build("resnet", seed=1), tmp_path, CAT)
    trainer.set_up_terms()
    assert trainer.terms["cat_kd"].taps


@pytest.mark.parametrize(
    ("student", "teacher", "side"),
    [
        ("vit", "resnet", "student, a ViTForImageClassification"),
        ("resnet", "dinov2", "teacher, a Dinov2ForImageClassification"),
        ("convnext", "resnet", "student, a ConvNextForImageClassification"),
        ("wrapped_vit_average", "resnet", "student, a TimmWrapperForImageClassification"),
    ],
)
def test_other_classifiers_are_refused(tmp_path, student, teacher, side):
    """Prevents: maps that don't make the logits, of a classifier that reads a token or a norm."""
    trainer = distiller(build(student), build(teacher, seed=1), tmp_path, CAT)
    with pytest.raises(
        ValueError, match=f"'cat_kd' needs a classifier.*the logits of the {side}, are no such function"
    ):
        trainer.train()


def test_models_without_a_linear_classifier_are_refused():
    """Prevents: a missing layer noticed at the first step, as an AttributeError."""
    student = build("resnet")
    student.classifier = nn.Flatten()
    with pytest.raises(ValueError, match="the student, a ResNet.*, has no linear classifier.*'attention_transfer'"):
        ClassAttentionTransfer().attach(student, TeacherReference(build("resnet")))


def test_an_unfit_layer_is_refused(tmp_path):
    """Prevents: maps of a layer that isn't pooled, whose channels happen to fit or not."""
    layers = {"resnet.encoder.stages.0": "resnet.encoder.stages.1"}
    settings = {**CAT, "terms": {"cat_kd": {"layers": layers}}}
    trainer = distiller(build("resnet"), build("resnet", seed=1), tmp_path, settings)
    with pytest.raises(ValueError, match="no such function of its layer 'resnet.encoder.stages.0'.*name it: layers="):
        trainer.train()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": {"a": "b", "c": "d"}}, "must name the one layer of each side.*not 2"),
        ({"cells": 0}, "cells must be"),
        ({"normalize": "maybe"}, "normalize must be true or false"),
    ],
)
def test_options_are_checked(options, message):
    """Prevents: the second layer left out without a word."""
    with pytest.raises(ValueError, match=message):
        ClassAttentionTransfer(**options)


def test_it_owns_nothing():
    """Prevents: models that become parts of the term, saved with its checkpoints."""
    term = ClassAttentionTransfer()
    term.attach(build("resnet"), TeacherReference(build("resnet")))
    assert not list(term.parameters()) and not [each for each in term.modules() if isinstance(each, nn.Linear)]
