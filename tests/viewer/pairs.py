"""Two small models side by side, and samples for them."""

from copy import deepcopy
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import ViTImageProcessor

from hf_e2kd.experiments.sources import Classifier
from hf_e2kd.viewer.comparison import Pair
from tests.models import build
from tests.tokenizers import STUDENT, TEACHER, text_model, without_dropout

SENTENCE = "The film was wonderful; it isn't boring at all."


def processor(side: int = 32, mean: float = 0.5) -> ViTImageProcessor:
    return ViTImageProcessor(size={"height": side, "width": side}, image_mean=[mean] * 3, image_std=[0.5] * 3)


def image_pair(teacher: str = "vit", student: str = "resnet") -> Pair:
    """A teacher that sees images larger and in other intensities than the student."""
    return Pair(
        Classifier(build(teacher, seed=1), processor(), False, "teacher"),
        Classifier(build(student, seed=2), processor(48 if student == "resnet" else 32, 0.4), False, "student"),
        "cpu",
    )


def text_pair() -> Pair:
    """Two models that cut texts differently."""
    return Pair(
        Classifier(text_model("bert", 1, TEACHER), TEACHER, True, "teacher"),
        Classifier(text_model("distilbert", 2, STUDENT), STUDENT, True, "student"),
        "cpu",
    )


def score_pair() -> Pair:
    """Two models of texts with one logit."""

    def model(name: str, seed: int, tokenizer: Any) -> nn.Module:
        classifier = text_model(name, seed, tokenizer)
        classifier.config.num_labels, classifier.config.problem_type = 1, "regression"
        return without_dropout(type(classifier)(classifier.config)).eval()

    return Pair(
        Classifier(model("bert", 1, TEACHER), TEACHER, True, "teacher"),
        Classifier(model("distilbert", 2, STUDENT), STUDENT, True, "student"),
        "cpu",
    )


def photo(height: int = 60, width: int = 40, seed: int = 0) -> Image.Image:
    """Coloured noise with structure over several pixels."""
    noise = np.random.default_rng(seed).integers(0, 255, (6, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@torch.no_grad()
def reordered(model: nn.Module) -> nn.Module:
    """The same classifier with its classes in the opposite order."""
    model = deepcopy(model)
    names = list(model.config.id2label.values())[::-1]
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    for parameter in model.classifier.parameters():
        parameter.copy_(parameter.flip(0))
    return model
