"""Classifiers that are one linear layer of pooled features, and the layer that is pooled."""

from typing import Any

from torch import nn

from ..alignment.labels import class_count
from .base import registered_architecture
from .taps import default_taps
from .timm import is_timm


def linear_head(model: nn.Module) -> nn.Linear | None:
    """Return the last linear layer with as many outputs as a model has classes; None where there is none."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return next((layer for layer in reversed(layers) if len(layer.weight) == class_count(model)), None)


def pooled_layer(model: nn.Module) -> str:
    """Return the path of the layer whose output a model pools for its classifier, as far as that is known.

    Raises:
        ValueError: the model's layers aren't known.
    """
    bare: Any = getattr(model, "timm_model", model)
    if is_timm(bare):
        prefix = "" if bare is model else "timm_model."
        # A norm behind the last stage: of EfficientNets, and of Swin and others.
        norms = [name for name in ("bn2", "norm") if not isinstance(getattr(bare, name, nn.Identity()), nn.Identity)]
        return f"{prefix}{norms[0]}" if norms else default_taps(model)[-1]
    architecture = registered_architecture(model)
    return default_taps(model)[-1] if architecture is None else architecture.target_path(model)
