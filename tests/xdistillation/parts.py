"""Tiny autoencoders and students of XDistillation."""

import torch
from torch import nn

from hf_e2kd.models import ExplanationAutoencoder, ExplanationAutoencoderConfig, XDistillationForImageClassification
from tests.models import CLASS_NAMES, build, randomise

ID2LABEL = dict(enumerate(CLASS_NAMES))


def autoencoder(**settings) -> ExplanationAutoencoder:
    """An autoencoder of random weights, the same each time, for the tests' images and classes."""
    config = {"widths": (3, 4), "id2label": ID2LABEL, "scale": 2.0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ExplanationAutoencoder(ExplanationAutoencoderConfig(**{**config, **settings}))
        randomise(model)
    return model.eval()


def student(name: str = "resnet", backbone: nn.Module | None = None) -> XDistillationForImageClassification:
    """A student of random weights, the same each time, in evaluation mode."""
    made = XDistillationForImageClassification.from_parts(backbone or build(name), autoencoder())
    with torch.random.fork_rng():
        torch.manual_seed(2)
        for layer in (made.explanation_classifier, made.classifier):
            randomise(layer)
    return made.eval()
