"""B-cos DenseNets: average instead of max pooling, neither ReLU nor bias."""

from collections import OrderedDict
from functools import partial

import torch
from torch import nn
from transformers import initialization as init

from .bcos import BcosConv2d, UncenteredBatchNorm2d
from .bcos_base import BcosConfig, BcosPreTrainedModel


class BcosDenseNetConfig(BcosConfig):
    """Sizes of a B-cos DenseNet; DenseNet-121 by default.

    Args:
        depths: Layers a dense block.
        growth_rate: Channels that each layer adds.
        embedding_size: Channels of the stem.
        bottleneck_factor: Channels of a layer's 1×1 convolution, in growth rates.
        small_inputs: A 3×3 stem without stride, norm and pooling, for images of some 32 pixels.
    """

    model_type = "bcos_densenet"

    depths: list[int] | tuple[int, ...] = (6, 12, 24, 16)
    growth_rate: int = 32
    embedding_size: int = 64
    bottleneck_factor: int = 4
    small_inputs: bool = False


class _DenseLayer(nn.Module):
    def __init__(self, channels: int, config: BcosDenseNetConfig):
        super().__init__()
        width = config.bottleneck_factor * config.growth_rate
        self.norm1 = UncenteredBatchNorm2d(channels)
        self.conv1 = BcosConv2d(channels, width, 1, max_out=config.max_out)
        self.norm2 = UncenteredBatchNorm2d(width)
        self.conv2 = BcosConv2d(width, config.growth_rate, 3, padding=1, max_out=config.max_out)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        grown = self.conv2(self.norm2(self.conv1(self.norm1(features))))
        return torch.cat([features, grown], dim=1)


class BcosDenseNetForImageClassification(BcosPreTrainedModel):
    """A B-cos DenseNet that classifies every place and averages the places' logits."""

    config_class = BcosDenseNetConfig
    _no_split_modules = ["_DenseLayer"]

    def __init__(self, config: BcosDenseNetConfig):
        super().__init__(config)
        channels = config.embedding_size
        convolution = partial(BcosConv2d, max_out=config.max_out)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if config.small_inputs:
            layers["conv0"] = convolution(6, channels, 3, padding=1)
        else:
            layers["conv0"] = convolution(6, channels, 7, stride=2, padding=3)
            layers["norm0"] = UncenteredBatchNorm2d(channels)
            layers["pool0"] = nn.AvgPool2d(3, stride=2, padding=1)
        for block, depth in enumerate(config.depths, start=1):
            grown = range(channels, channels + depth * config.growth_rate, config.growth_rate)
            dense = OrderedDict((f"denselayer{n}", _DenseLayer(size, config)) for n, size in enumerate(grown, start=1))
            layers[f"denseblock{block}"] = nn.Sequential(dense)
            channels += depth * config.growth_rate
            if block < len(config.depths):
                transition = OrderedDict(
                    norm=UncenteredBatchNorm2d(channels),
                    conv=convolution(channels, channels // 2, 1),
                    pool=nn.AvgPool2d(2, stride=2),
                )
                layers[f"transition{block}"] = nn.Sequential(transition)
                channels //= 2
        layers["norm5"] = UncenteredBatchNorm2d(channels)
        self.features = nn.Sequential(layers)
        self.classifier = convolution(channels, config.num_labels, 1)
        self.post_init()

    def _features(self, channels: torch.Tensor) -> torch.Tensor:
        return self.features(channels)

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        return self.logit_layer(self.classifier(features).mean((2, 3)))

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight)
        elif isinstance(module, UncenteredBatchNorm2d):
            init.ones_(module.weight)
            init.ones_(module.running_var)
