"""ShuffleNet V2 (Ma et al., ECCV 2018): torchvision's network as a model of transformers."""

import math
from typing import Any

import torch
from torch import nn
from torchvision.models import ShuffleNetV2
from transformers import PreTrainedConfig
from transformers import initialization as init

from .base import ImageClassifier

_CHANNELS = {
    "shufflenet_v2_x0_5": (24, 48, 96, 192, 1024),
    "shufflenet_v2_x1_0": (24, 116, 232, 464, 1024),
    "shufflenet_v2_x1_5": (24, 176, 352, 704, 1024),
    "shufflenet_v2_x2_0": (24, 244, 488, 976, 2048),
}


class ShuffleNetConfig(PreTrainedConfig):
    """Sizes of a ShuffleNet V2; ×0.5 by default, the student of e²KD's Waterbirds table.

    Args:
        depths: Number of units of each of the three stages.
        channels: Channels of the stem, the three stages (even numbers) and the last convolution.
    """

    model_type = "shufflenet_v2"

    depths: list[int] | tuple[int, ...] = (4, 8, 4)
    channels: list[int] | tuple[int, ...] = _CHANNELS["shufflenet_v2_x0_5"]


def shufflenet_config(name: str, **settings: Any) -> ShuffleNetConfig:
    """The configuration of a ShuffleNet by torchvision's name.

    Raises:
        ValueError: unknown name; the message lists the known ones.

    Example:
        >>> shufflenet_config("shufflenet_v2_x1_0", num_labels=2).channels
        (24, 116, 232, 464, 1024)
    """
    if name not in _CHANNELS:
        raise ValueError(f"Unknown network '{name}' of torchvision. Known here: {', '.join(_CHANNELS)}.")
    return ShuffleNetConfig(channels=_CHANNELS[name], **settings)


class ShuffleNetForImageClassification(ImageClassifier):
    """A ShuffleNet V2 that classifies images, `pixel_values` (B, 3, H, W)."""

    config_class = ShuffleNetConfig

    def __init__(self, config: ShuffleNetConfig):
        super().__init__(config)
        self.network = ShuffleNetV2(list(config.depths), list(config.channels), num_classes=config.num_labels)
        self.post_init()

    def forward_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        network = self.network
        features = network.maxpool(network.conv1(pixel_values))
        return network.conv5(network.stage4(network.stage3(network.stage2(features))))

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        return self.network.fc(features.mean((2, 3)))

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)
