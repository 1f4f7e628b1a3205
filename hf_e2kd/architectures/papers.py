"""The papers' networks (`hf_e2kd.models`): the last feature map, and the model's own head.

GradCAM of a B-cos network is that of any network: it differentiates the head with its scalings. Its own explanation is
the explainer `bcos`.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from .base import Split, register_architecture, require_inputs
from .grids import Grid


def _split(model: nn.Module, inputs: Mapping[str, Any]) -> Split:
    features = model.forward_features(require_inputs(inputs))
    if model.config.model_type == "bcos_vit":
        return Split(features, model.forward_head, Grid(features.shape[1], features.shape[2], "nhwc"))
    return Split(features, model.forward_head, Grid(features.shape[2], features.shape[3]))


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
register_architecture("VGGForImageClassification", _last_of_stages, _split)
register_architecture("XResNetForImageClassification", _last_of_stages, _split)
