"""Tiny models of every supported family, built offline from their configurations."""

from collections.abc import Callable, Hashable
from copy import deepcopy
from functools import partial
from typing import Any

import timm
import torch
import transformers
from torch import nn

from hf_e2kd import wrap_timm
from hf_e2kd.models import BcosResNetConfig

CLASSES = 5
CLASS_NAMES = [f"class {index}" for index in range(CLASSES)]
IMAGE_SIZE = 32

_VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": IMAGE_SIZE,
    "patch_size": 8,
}
_CONVNEXT = {"num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 2], "patch_size": 4}
_RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
# A quarter of the stem's 32 channels and of the top's 1280.
_EFFICIENTNET = {
    "width_coefficient": 0.25,
    "hidden_dim": 320,
    "in_channels": [32, 32],
    "out_channels": [32, 32],
    "kernel_sizes": [3, 3],
    "strides": [1, 2],
    "num_block_repeats": [1, 1],
    "expand_ratios": [1, 2],
}
_SWIN = {"embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 4, "patch_size": 2}
_TIMM_VIT = {"img_size": IMAGE_SIZE, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
_TIMM_SWIN = {**_SWIN, "img_size": IMAGE_SIZE}
# Strides beyond 8 become dilations, which leave small images a grid of 4×4 cells.
_TIMM_CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16), "output_stride": 8}
_TIMM_RESNET = {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16), "output_stride": 8}


def _transformers(family: str, model: str = "ForImageClassification", **settings: Any) -> nn.Module:
    labels = {"id2label": dict(enumerate(CLASS_NAMES)), "label2id": {v: k for k, v in enumerate(CLASS_NAMES)}}
    config = getattr(transformers, f"{family}Config")(**settings, **labels)
    return getattr(transformers, f"{family}{model}")(config)


def _timm(architecture: str, **settings: Any) -> nn.Module:
    return timm.create_model(architecture, num_classes=CLASSES, **settings)


def _wrapped(architecture: str, **settings: Any) -> nn.Module:
    return wrap_timm(_timm(architecture, **settings), dict(enumerate(CLASS_NAMES)), model_args=settings)


TIMM_SETTINGS = {
    "vit": ("vit_tiny_patch16_224", _TIMM_VIT),
    "vit_average": ("vit_tiny_patch16_224", {**_TIMM_VIT, "global_pool": "avg"}),
    "deit_distilled": ("deit_tiny_distilled_patch16_224", _TIMM_VIT),
    "siglip": ("vit_base_patch16_siglip_224", {**_TIMM_VIT, "mlp_ratio": 2}),
    "swin": ("swin_tiny_patch4_window7_224", _TIMM_SWIN),
    "convnext": ("convnext_atto", _TIMM_CONVNEXT),
    "resnet": ("resnet18", _TIMM_RESNET),
    "efficientnet": ("test_efficientnet", {"output_stride": 8}),
}

TRANSFORMERS: dict[str, Callable[[], nn.Module]] = {
    "vit": partial(_transformers, "ViT", **_VIT),
    "deit": partial(_transformers, "DeiT", **_VIT),
    "deit_teacher": partial(_transformers, "DeiT", "ForImageClassificationWithTeacher", **_VIT),
    "beit": partial(_transformers, "Beit", **_VIT, use_relative_position_bias=True),
    "beit_token": partial(_transformers, "Beit", **_VIT, use_relative_position_bias=True, use_mean_pooling=False),
    "beit_shared": partial(
        _transformers, "Beit", **_VIT, use_shared_relative_position_bias=True, use_mean_pooling=False
    ),
    "dinov2": partial(_transformers, "Dinov2", **{k: v for k, v in _VIT.items() if k != "intermediate_size"}),
    "swin": partial(_transformers, "Swin", **_SWIN, image_size=IMAGE_SIZE),
    "convnext": partial(_transformers, "ConvNext", **_CONVNEXT),
    "convnextv2": partial(_transformers, "ConvNextV2", **_CONVNEXT),
    "resnet": partial(_transformers, "ResNet", **_RESNET, layer_type="basic"),
    "regnet": partial(_transformers, "RegNet", **_RESNET, groups_width=4),
    "mobilenet": partial(_transformers, "MobileNetV2", depth_multiplier=0.1, min_depth=4, output_stride=8),
    "efficientnet": partial(_transformers, "EfficientNet", **_EFFICIENTNET),
}
TIMM: dict[str, Callable[[], nn.Module]] = {
    f"timm_{name}": partial(_timm, architecture, **settings) for name, (architecture, settings) in TIMM_SETTINGS.items()
}
WRAPPED: dict[str, Callable[[], nn.Module]] = {
    f"wrapped_{name}": partial(_wrapped, architecture, **settings)
    for name, (architecture, settings) in TIMM_SETTINGS.items()
}
BUILDERS = TRANSFORMERS | TIMM | WRAPPED
"""What builds a tiny model of each family, by the family's name."""


def build(name: str, seed: int = 0, **settings: Any) -> nn.Module:
    """A tiny model of a family, in evaluation mode, its weights large enough for maps that differ between places.

    Args:
        name: One of `BUILDERS`.
        seed: Of the weights. The global generator is left as it was.
        settings: Of the configuration, instead of the family's own.
    """
    return built((name, seed, repr(settings)), partial(BUILDERS[name], **settings), seed)


_built: dict[Hashable, nn.Module] = {}


def built(key: Hashable, make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A copy of the model that `make` builds once, with random weights, in evaluation mode.

    Args:
        key: What tells the model from all others.
        make: Builds it.
        seed: Of the weights. The global generator is left as it was.
    """
    if key not in _built:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = make()
            randomise(model)
        _built[key] = model.eval()
    return deepcopy(_built[key])


def shallow(name: str) -> nn.Module:
    """`build` with a single block, or one a stage: for what takes long by the block, such as tracing."""
    own = BUILDERS[name].keywords  # type: ignore[attr-defined]
    settings = {key: 1 for key in ("num_hidden_layers", "depth") if key in own}
    return build(name, **settings, **({"depths": [1] * len(own["depths"])} if "depths" in own else {}))


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Draws all weights anew. Initial ones hide mistakes: biases and position tables are zero, layer scales tiny."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=1.5 * max(1, parameter[0].numel()) ** -0.5)
        else:
            parameter.copy_(0.5 + torch.rand_like(parameter)) if parameter.mean() > 0 else parameter.normal_(std=0.2)
    for name, statistics in model.named_buffers():
        if name.endswith("running_mean"):
            statistics.normal_(std=0.2)
        elif name.endswith("running_var"):
            statistics.uniform_(0.5, 1.5)


def images(batch: int = 2, height: int = IMAGE_SIZE, width: int | None = None, seed: int = 0) -> torch.Tensor:
    """Random images (batch, 3, height, width), roughly standard normal, with structure over several pixels."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch, 3, height, width or height, generator=generator)
    return noise + 2 * nn.functional.avg_pool2d(noise, 5, stride=1, padding=2)


def build_bcos(names: list[str]) -> nn.Module:
    """Make a tiny B-cos ResNet for the classes `names`, with its first weights."""
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    config = BcosResNetConfig(embedding_size=8, depths=[1, 1], small_inputs=True, **labels)
    return transformers.AutoModelForImageClassification.from_config(config)
