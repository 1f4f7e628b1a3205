"""A tiny student in training, and ways to compare it with what came back."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageClassification, ViTImageProcessor

from hf_e2kd import ExplanationDistillTrainer
from tests.models import IMAGE_SIZE, build, images
from tests.training import distiller

PROCESSOR = ViTImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_mean=[0.4, 0.5, 0.6])
SAVED = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "training_args.bin"}
MEASURED = {"fidelity.json", "explanations.png"}


def distillation(folder: Path, **settings: Any) -> ExplanationDistillTrainer:
    """A trainer of a ViT whose output goes to `folder`, and on the Hub to a repository of the same name.

    It has nothing to measure on, unless it is given an `eval_dataset`.
    """
    data = {"eval_dataset": settings.pop("eval_dataset", None)}
    return distiller(build("vit"), build("vit", seed=1), folder, settings, processing_class=PROCESSOR, **data)


def assert_same(loaded: nn.Module, student: nn.Module) -> None:
    pixels = images(2)
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(pixels).logits, student.eval()(pixels).logits)


def assert_saved(folder: Path, student: nn.Module) -> None:
    """Whether a folder holds all that is published, and weights that can be read."""
    assert {path.name for path in folder.iterdir()} >= SAVED
    assert_same(AutoModelForImageClassification.from_pretrained(folder), student)
