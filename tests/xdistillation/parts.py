"""Tiny autoencoders and students of XDistillation."""

import sys
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForImageClassification, dynamic_module_utils
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

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


def load_without_the_package(folder: Path, wanted: Path) -> None:
    """Load a student by the code beside its weights where hf_e2kd can't be imported, and compare what it computes.

    For a process of its own, whose imported modules and Auto classes it changes.
    """
    for name in [name for name in sys.modules if name.split(".")[0] in ("hf_e2kd", "tests")]:
        del sys.modules[name]
    sys.modules["hf_e2kd"] = None  # type: ignore[assignment]
    for mapping in (CONFIG_MAPPING, AutoModelForImageClassification._model_mapping):
        mapping._extra_content.clear()
    dynamic_module_utils.HF_MODULES_CACHE = str(folder / "modules")
    loaded = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    assert type(loaded).__module__.startswith("transformers_modules.")
    assert not any(parameter.requires_grad for parameter in loaded.autoencoder.parameters())
    pixels, logits, explanation = torch.load(wanted)
    assert torch.equal(loaded(pixels).logits, logits)
    assert torch.equal(loaded.approximate_explanation(pixels), explanation)
