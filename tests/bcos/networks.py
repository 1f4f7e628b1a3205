"""Tiny B-cos networks, and the same ones as the `bcos` package builds them."""

import copy
import math
import warnings

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageClassification

from hf_e2kd.models import BcosDenseNetConfig, BcosResNetConfig, BcosViTConfig
from hf_e2kd.models.bcos import UncenteredBatchNorm2d
from hf_e2kd.models.bcos_base import BcosPreTrainedModel
from tests.models import CLASS_NAMES, CLASSES, randomise

LABELS = {"id2label": dict(enumerate(CLASS_NAMES)), "label2id": {v: k for k, v in enumerate(CLASS_NAMES)}}
_VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
_DENSENET = {"depths": (2, 1), "growth_rate": 4, "embedding_size": 8, "bottleneck_factor": 2}
CONFIGS = {
    "resnet": BcosResNetConfig(depths=(1, 2), embedding_size=8, small_inputs=True, **LABELS),
    "resnet_four_stages": BcosResNetConfig(depths=(1, 1, 1, 1), embedding_size=4, max_out=2, **LABELS),
    "resnet_bottleneck": BcosResNetConfig(
        depths=(1, 2, 1), layer_type="bottleneck", embedding_size=4, logit_bias=-2.0, logit_temperature=3.0, **LABELS
    ),
    "densenet": BcosDenseNetConfig(**_DENSENET, **LABELS),
    "densenet_small": BcosDenseNetConfig(**_DENSENET, small_inputs=True, **LABELS),
    "vit": BcosViTConfig(**_VIT, image_size=32, patch_size=8, **LABELS),
    "vit_stem": BcosViTConfig(**_VIT, image_size=32, patch_size=2, conv_stem=(8, 8, 12), max_out=2, **LABELS),
}
FAMILIES = ("resnet", "densenet", "vit")


def network(name: str, seed: int = 0) -> BcosPreTrainedModel:
    """One of `CONFIGS` in evaluation mode, with random weights, and variances that fit its features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # A copy: a model writes into its configuration what kind of labels it was given.
        model = AutoModelForImageClassification.from_config(copy.deepcopy(CONFIGS[name]))
        randomise(model)
    norms = [module for module in model.modules() if isinstance(module, UncenteredBatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(pixels(8, seed=9))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def pixels(batch: int = 2, size: int = 32, seed: int = 0) -> torch.Tensor:
    """Random images (batch, 3, size, size) in [0, 1], with structure over several pixels."""
    noise = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return (noise + 3 * nn.functional.avg_pool2d(noise, 5, stride=1, padding=2)) / 4


def six_channels(pixel_values: torch.Tensor) -> torch.Tensor:
    return torch.cat([pixel_values, 1 - pixel_values], 1)


def oracle(model: BcosPreTrainedModel) -> nn.Module:
    """The `bcos` package's network of the same sizes and weights, in the same mode. It takes six channels."""
    from bcos.modules import BcosConv2d, norms

    config = model.config
    settings = {
        "num_classes": CLASSES,
        "norm_layer": norms.NoBias(norms.BatchNormUncentered2d),
        "conv_layer": lambda *args, **kwargs: BcosConv2d(*args, max_out=config.max_out, **kwargs),
        "logit_bias": config.logit_bias,
        "logit_temperature": config.logit_temperature,
    }
    if config.model_type == "bcos_vit":
        theirs = _oracle_vit(config)
    elif config.model_type == "bcos_densenet":
        from bcos.models.densenet import BcosDenseNet

        sizes = (config.growth_rate, config.depths, config.embedding_size, config.bottleneck_factor)
        theirs = BcosDenseNet(*sizes, small_inputs=config.small_inputs, **settings)
    else:
        from bcos.models.resnet import BasicBlock, BcosResNet, Bottleneck

        block = BasicBlock if config.layer_type == "basic" else Bottleneck
        # The package knows three and four stages; what it has beyond ours is left out.
        depths = [*config.depths, 1][: max(3, len(config.depths))]
        theirs = BcosResNet(block, depths, inplanes=config.embedding_size, small_inputs=config.small_inputs, **settings)
        if len(config.depths) == 2:
            theirs.layer3 = nn.Identity()
            theirs.fc = settings["conv_layer"](config.embedding_size * 2 * block.expansion, CLASSES)
    prefix = "0." if config.model_type == "bcos_vit" else ""
    missing = theirs.load_state_dict({prefix + key: value for key, value in model.state_dict().items()}, strict=False)
    assert not missing.unexpected_keys
    assert all(key.endswith(("running_mean", "num_batches_tracked")) for key in missing.missing_keys)
    return theirs.train(model.training)


def _oracle_vit(config: BcosViTConfig) -> nn.Module:
    pytest.importorskip("einops", reason="bcos.models.vit imports it")
    from bcos.models.vit import SimpleViT
    from bcos.modules import BcosConv2d, BcosLinear, BcosSequential, LogitLayer, norms

    def b_cos(layer):
        return lambda *args, **kwargs: layer(*args, max_out=config.max_out, **kwargs)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it wants to be built by its own entry points, which download weights
        vit = SimpleViT(
            image_size=config.image_size // (1 if config.conv_stem is None else 4),
            patch_size=config.patch_size,
            num_classes=CLASSES,
            dim=config.hidden_size,
            depth=config.num_hidden_layers,
            heads=config.num_attention_heads,
            mlp_dim=config.intermediate_size,
            conv_stem=config.conv_stem,
            linear_layer=b_cos(BcosLinear),
            conv2d_layer=b_cos(BcosConv2d),
            norm_layer=norms.NoBias(norms.DetachableLayerNorm),
            norm2d_layer=norms.NoBias(norms.DetachableGNLayerNorm2d),
            act_layer=nn.Identity,
        )
    return BcosSequential(vit, LogitLayer(logit_bias=-math.log(CLASSES - 1)))
