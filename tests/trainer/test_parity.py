"""The objective against what it must equal: the stock `Trainer`, its own formula, and itself cut into micro-batches."""

import pytest
import torch
from torch.nn import functional as F
from transformers import Trainer

from hf_e2kd import explain
from tests.models import build
from tests.training import (
    Gradients,
    distiller,
    flat,
    logged,
    relative_error,
    samples,
    stock_arguments,
    weights,
)

TASK_ONLY = {"task_weight": 1.0, "logits_weight": 0.0, "explanation_weight": 0.0}


def summed_cross_entropy(outputs, labels, num_items_in_batch=None):
    """A loss of the user's own, written as `Trainer` documents it."""
    return F.cross_entropy(outputs["logits"], labels, label_smoothing=0.3, reduction="sum") / num_items_in_batch


@pytest.mark.parametrize("family", ["vit", "convnext"])
@pytest.mark.parametrize(
    ("settings", "keywords"),
    [
        ({}, {}),
        ({"label_smoothing_factor": 0.2}, {}),
        ({"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}, {}),
        ({"gradient_accumulation_steps": 2}, {"compute_loss_func": summed_cross_entropy}),
        ({"label_smoothing_factor": 0.2, "gradient_accumulation_steps": 2}, {}),
    ],
    ids=["plain", "smoothing", "accumulation", "compute_loss_func", "smoothing-accumulation"],
)
def test_task_alone_is_the_stock_trainer(tiny, tmp_path, family, settings, keywords):
    """A user who swaps the class and turns distillation off would silently get another loss or another scale of it."""
    settings = {"max_steps": 3, **settings}
    stock = Trainer(tiny(family), stock_arguments(tmp_path, **settings), train_dataset=samples(16), **keywords)
    stock.train()
    ours = distiller(tiny(family), build(family, seed=1), tmp_path, {**settings, **TASK_ONLY}, **keywords)
    ours.train()
    torch.testing.assert_close(logged(ours, "loss"), logged(stock, "loss"), rtol=1e-6, atol=0)
    assert relative_error(weights(ours.model), weights(stock.model)) < 1e-7


def test_task_alone_evaluates_as_the_stock_trainer(tiny, tmp_path):
    """`eval_loss`, by which the best checkpoint is chosen, would mean something else than in the stock `Trainer`."""
    data = {"eval_dataset": samples(13, seed=7)}
    stock = Trainer(tiny("vit"), stock_arguments(tmp_path), **data).evaluate()
    ours = distiller(tiny("vit"), build("resnet"), tmp_path, TASK_ONLY, **data).evaluate()
    assert ours["eval_loss"] == pytest.approx(stock["eval_loss"], rel=1e-6)
    assert stock.keys() <= ours.keys()


def test_without_teacher_it_is_a_trainer(tiny, tmp_path):
    """With both distillation weights at 0, a missing teacher is no mistake and must not be refused."""
    trainer = distiller(tiny("vit"), None, tmp_path, TASK_ONLY)
    trainer.train()
    assert trainer.evaluate().keys() >= {"eval_loss", "eval_accuracy"}


@pytest.mark.parametrize("family", ["vit", "convnext", "wrapped_vit"])
def test_accumulation_changes_nothing(tiny, tmp_path, family):
    """The classic accumulation bug: micro-batch means summed instead of averaged, or λ applied once a micro-batch."""
    found = []
    for size, steps in [(8, 1), (2, 4)]:
        gradients = Gradients()
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "task_weight": 0.5}
        trainer = distiller(tiny(family), build(family, seed=1), tmp_path, settings, callbacks=[gradients])
        trainer.train()
        found.append((gradients.steps, weights(trainer.model), logged(trainer, "loss")))
    (whole, whole_weights, whole_loss), (cut, cut_weights, cut_loss) = found
    assert len(whole) == len(cut) == 2
    assert all(gradient.norm() > 1e-3 for gradient in whole)
    assert max(map(relative_error, cut, whole)) < 1e-5
    assert relative_error(cut_weights, whole_weights) < 1e-6
    assert cut_loss == pytest.approx(whole_loss, rel=1e-5)


def test_objective_is_the_papers(tiny, tmp_path):
    """A wrong sign, temperature or reduction trains without an error: the first step is compared with the formula."""
    student, teacher, gradients = tiny("resnet"), build("vit", seed=1), Gradients()
    expected = tiny("resnet").train()
    batch = samples(4)
    settings = {"max_steps": 1, "temperature": 2.0, "logits_weight": 0.7, "explanation_weight": 3.0}
    trainer = distiller(student, teacher, tmp_path, settings, train_dataset=batch, callbacks=[gradients])
    trainer.train()

    pixels = torch.stack([sample["pixel_values"] for sample in batch])
    taught = explain(teacher, pixels)
    features = expected.resnet(pixels).last_hidden_state
    logits = expected.classifier(expected.resnet.pooler(features))
    chosen = logits.gather(1, taught.logits.argmax(1, keepdim=True)).sum()
    importance = torch.autograd.grad(chosen, features, create_graph=True)[0].mean((2, 3), keepdim=True)
    maps = (importance * features).sum(1).relu()
    size = pixels.shape[2:]
    resized = [F.interpolate(m[:, None], size, mode="bilinear").flatten(1) for m in (maps, taught.maps)]
    # A student's map that is all-zero costs 1, a teacher's nothing.
    kept = (resized[1] != 0).any(1)
    assert kept.sum() >= 3
    explanation = ((1 - F.cosine_similarity(*resized)) * kept).mean()
    divergence = F.kl_div((logits / 2).log_softmax(1), (taught.logits / 2).softmax(1), reduction="batchmean") * 4
    loss = 0.7 * divergence + 3.0 * explanation
    loss.backward()

    assert logged(trainer, "loss_logits") == pytest.approx([divergence.item()], rel=1e-5)
    assert logged(trainer, "loss_explanation") == pytest.approx([explanation.item()], rel=1e-5)
    assert logged(trainer, "loss") == pytest.approx([loss.item()], rel=1e-5)
    assert relative_error(gradients.steps[0], flat(p.grad for p in expected.parameters())) < 1e-5
