"""Configurations and weights of the published B-cos networks (github.com/B-cos/B-cos-v2)."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from .bcos_base import BcosConfig, BcosPreTrainedModel
from .bcos_densenet import BcosDenseNetConfig
from .bcos_resnet import BcosResNetConfig
from .bcos_vit import BcosViTConfig

_RESNETS = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
    "resnet152": ("bottleneck", (3, 8, 36, 3)),
}
_DENSENETS = {
    "densenet121": (32, (6, 12, 24, 16), 64),
    "densenet161": (48, (6, 12, 36, 24), 96),
    "densenet169": (32, (6, 12, 32, 32), 64),
    "densenet201": (32, (6, 12, 48, 32), 64),
}
# Hidden size, layers, heads, intermediate size, stem (which takes the place of one layer).
_VITS: dict[str, tuple[int, int, int, int, tuple[int, ...] | None]] = {
    "simple_vit_ti_patch16_224": (192, 12, 3, 768, None),
    "simple_vit_s_patch16_224": (384, 12, 6, 1536, None),
    "simple_vit_b_patch16_224": (768, 12, 12, 3072, None),
    "simple_vit_l_patch16_224": (1024, 14, 16, 4096, None),
    "vitc_ti_patch1_14": (192, 11, 3, 768, (24, 48, 96, 192)),
    "vitc_s_patch1_14": (384, 11, 6, 1536, (48, 96, 192, 384)),
    "vitc_b_patch1_14": (768, 11, 12, 3072, (64, 128, 128, 256, 256, 512)),
    "vitc_l_patch1_14": (1024, 13, 16, 4096, (64, 128, 128, 256, 256, 512)),
}


def bcos_config(name: str, **settings: Any) -> BcosConfig:
    """The configuration of a B-cos network by the name that the `bcos` package gives it.

    Args:
        name: Name of the `bcos` package, such as `"resnet34"`, `"densenet169"` or `"simple_vit_ti_patch16_224"`.
        settings: Settings of the configuration that differ, such as `id2label`. The published weights have
            `num_labels=1000`.

    Raises:
        ValueError: unknown name; the message lists the known ones.

    Example:

        >>> from transformers import AutoModelForImageClassification
        >>> from hf_e2kd.models import bcos_config
        >>> student = AutoModelForImageClassification.from_config(bcos_config("resnet18", num_labels=10))
        >>> sum(parameter.numel() for parameter in student.parameters())
        11186240
    """
    if name in _RESNETS:
        layer_type, depths = _RESNETS[name]
        return BcosResNetConfig(**{"layer_type": layer_type, "depths": depths, **settings})
    if name in _DENSENETS:
        growth_rate, depths, embedding_size = _DENSENETS[name]
        sizes = {"growth_rate": growth_rate, "depths": depths, "embedding_size": embedding_size}
        return BcosDenseNetConfig(**{**sizes, **settings})
    if name in _VITS:
        keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "conv_stem")
        sizes = dict(zip(keys, _VITS[name], strict=True))
        return BcosViTConfig(**{**sizes, "patch_size": 16 if sizes["conv_stem"] is None else 1, **settings})
    raise ValueError(f"Unknown B-cos network '{name}'. Known: {', '.join([*_RESNETS, *_DENSENETS, *_VITS])}.")


def load_bcos_weights(
    model: BcosPreTrainedModel, weights: Mapping[str, torch.Tensor] | str | PathLike[str]
) -> BcosPreTrainedModel:
    """Copy weights in the format of the `bcos` package (github.com/B-cos/B-cos-v2) into a model of the same sizes.

    Args:
        model: Model of a configuration by `bcos_config`.
        weights: A state dict, or a file of one: `.safetensors`, or what `torch.save` wrote (read with
            `weights_only=True`, so that nothing in it is executed).

    Returns:
        The model.

    Raises:
        ValueError: the weights are of another network, or its batch norm subtracts a mean.
    """
    if not isinstance(weights, Mapping):
        path = Path(weights)
        is_safe = path.suffix == ".safetensors"
        weights = load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True)
    centred = sorted(name for name, value in weights.items() if name.endswith("running_mean") and value.any())
    if centred:
        raise ValueError(
            f"These weights are of batch norms that subtract a mean, as B-cos models don't: {centred[:3]}."
        )
    # The package's transformers are the first part of a sequence, whose second is the logit layer.
    state = {
        name.removeprefix("0."): value
        for name, value in weights.items()
        if not name.endswith(("running_mean", "num_batches_tracked"))
    }
    theirs = {name: tuple(value.shape) for name, value in state.items()}
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    misfits = [
        f"{name} {own.get(name)} ← {theirs.get(name)}"
        for name in sorted(own.keys() | theirs.keys())
        if own.get(name) != theirs.get(name)
    ]
    if misfits:
        raise ValueError(
            f"The weights don't fit this {type(model).__name__} in {len(misfits)} places (its own shape ← theirs): "
            f"{'; '.join(misfits[:4])}. `bcos_config` gives the configurations of the published weights."
        )
    model.load_state_dict(state)
    return model
