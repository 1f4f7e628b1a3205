"""What an evaluation takes: forward passes of each model, and memory."""

import gc
import logging

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from hf_e2kd.explainers import build_explainer
from tests.models import CLASSES, build
from tests.text_models import build_text, token_rows
from tests.training import Unregistered, distiller, samples


class Rows:
    """How many samples each of a model's layers was shown; the most of any is the model's forward passes."""

    def __init__(self, model: nn.Module):
        self.seen: dict[nn.Module, int] = {}
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
                module.register_forward_pre_hook(self.count)

    def count(self, module: nn.Module, args: tuple) -> None:
        self.seen[module] = self.seen.get(module, 0) + len(args[0])

    @property
    def most(self) -> int:
        return max(self.seen.values())


def texts(count):
    return token_rows(count)


@pytest.mark.parametrize(
    ("family", "explainer", "options", "passes"),
    [
        ("vit", "gradcam", {}, 1),
        ("resnet", "gradcam", {}, 1),
        ("wrapped_vit", "gradcam", {}, 1),
        ("unregistered", "gradcam", {"target_layer": "features.encoder.stages.1"}, 1),
        ("vit", "attention_gradient", {}, 1),
        ("convnext", "saliency", {}, 1),
        ("bert", "input_x_gradient", {}, 1),
        ("bert", "integrated_gradients", {"n_steps": 6}, 7),
        ("vit", "integrated_gradients", {"n_steps": 5, "internal_batch_size": 2, "completeness": True}, 7),
    ],
)
def test_forward_passes(tmp_path, caplog, family, explainer, options, passes):
    """Logits computed once for the loss and once more for the maps, or once for each metric; a cost not foreseen."""

    def model(seed):
        if family == "unregistered":
            return Unregistered(build("resnet", seed)).eval()
        return build_text("bert", seed) if family == "bert" else build(family, seed)

    data = texts(13) if family == "bert" else samples(13, mask=True)
    student, teacher = model(0), model(1)
    settings = {"explainer": explainer, "explainer_options": options}
    trainer = distiller(student, teacher, tmp_path, settings, train_dataset=data, eval_dataset=data)
    trainer.evaluate(data[:2])  # at a model's first batch, some explainers look at how it is built
    counts = [Rows(each) for each in (student, teacher)]
    with caplog.at_level(logging.INFO, "transformers.hf_e2kd"):
        metrics = trainer.evaluate()
    assert "eval_explanation_similarity" in metrics and "eval_agreement" in metrics
    assert [count.most for count in counts] == [13 * passes] * 2
    assert build_explainer(explainer, **options).forward_passes == passes
    assert f"Each sample takes {passes} forward passes" in caplog.text


class LiveElements(TrainerCallback):
    """Elements of all new tensors that are alive after the third and after the ninth batch."""

    def __init__(self):
        self.number, self.counts = 0, []
        gc.freeze()  # what there was before is passed over, which is much faster

    def on_prediction_step(self, *_, **__):
        self.number += 1
        if self.number in (3, 9):
            gc.collect()
            alive = [each for each in gc.get_objects() if type(each) in (torch.Tensor, nn.Parameter)]
            self.counts.append(sum(tensor.numel() for tensor in alive))


def own_metrics(prediction, compute_result=True):
    return {"mine": 1.0}


@pytest.mark.parametrize(
    ("settings", "keywords", "kept"),
    [
        ({}, {}, 1),
        ({"prediction_loss_only": True}, {"compute_metrics": own_metrics}, 1),
        ({"batch_eval_metrics": True}, {"compute_metrics": own_metrics}, 1),
        # The parent's own collection, which the documentation says.
        ({}, {"compute_metrics": own_metrics}, 1 + CLASSES + 1),
    ],
    ids=["plain", "loss_only", "batch_eval_metrics", "compute_metrics"],
)
def test_memory_does_not_grow_with_the_data(tiny, tmp_path, settings, keywords, kept):
    """Maps or logits collected to be averaged at the end: no memory would do for a large data set."""
    data, memory = samples(4, mask=True) * 10, LiveElements()
    trainer = distiller(
        tiny("vit"), build("vit", seed=1), tmp_path, settings, eval_dataset=data, callbacks=[memory], **keywords
    )
    trainer.evaluate()
    gc.unfreeze()
    early, late = memory.counts
    # Of each sample the stock `Trainer` keeps its batch's loss.
    assert late - early == kept * 4 * 6
