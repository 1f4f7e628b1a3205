"""The papers' networks (`hf_e2kd.models`): the last feature map, and the model's own head.

GradCAM of a B-cos network is that of any network: it differentiates the head with its scalings. Its own explanation is
the explainer `bcos`.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from .base import Architecture, Split, register_architecture, require_inputs
from .grids import Grid


def _split(model: nn.Module, inputs: Mapping[str, Any]) -> Split:
    features = model.forward_features(require_inputs(inputs))
    if model.config.model_type == "bcos_vit":
        return Split(features, model.forward_head, Grid(features.shape[1], features.shape[2], "nhwc"))
    return Split(features, model.forward_head, Grid(features.shape[2], features.shape[3]))


def joined_architecture(part: str, inner: Architecture) -> Architecture:
    """The entry of a composed model, of which a part is explained through what lies behind it.

    Args:
        part: Name of the part.
        inner: The part's entry.
    """

    def target(model: nn.Module) -> str:
        return f"{part}.{inner.target_path(model.get_submodule(part))}"

    def split(model: nn.Module, inputs: Mapping[str, Any]) -> Split:
        assert inner.split is not None
        behind = model.behind_part(inputs)
        own = inner.split(model.get_submodule(part), inputs)
        return Split(own.activation, lambda activation: behind(own.head(activation)), own.grid)

    return Architecture(target, None if inner.split is None else split)


def _last_stage(model: nn.Module) -> str:
    return f"layer{len(model.config.depths)}"


def _last_of_stages(model: nn.Module) -> str:
    return f"stages.{len(model.stages) - 1}"


def _last_encoder(model: nn.Module) -> str:
    return f"transformer.encoder_{model.config.num_hidden_layers - 1}"


register_architecture("BcosResNetForImageClassification", _last_stage, _split)
register_architecture("BcosDenseNetForImageClassification", "features", _split)
register_architecture("BcosViTForImageClassification", _last_encoder, _split)
register_architecture("LeNetForImageClassification", _last_of_stages, _split)
register_architecture("ShuffleNetForImageClassification", "network.conv5", _split)
register_architecture("SmallResNetForImageClassification", _last_of_stages, _split)
register_architecture("VGGForImageClassification", _last_of_stages, _split)
register_architecture("XResNetForImageClassification", _last_of_stages, _split)
