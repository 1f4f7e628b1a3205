"""B-cos ResNets: v1.5 bottlenecks, average instead of max pooling, neither ReLU nor bias."""

from functools import partial

import torch
from torch import nn
from transformers import initialization as init

from .bcos import BcosConv2d, UncenteredBatchNorm2d
from .bcos_base import BcosConfig, BcosPreTrainedModel
from .residual import Convolution, check_layer_type, residual_stages


class BcosResNetConfig(BcosConfig):
    """Sizes of a B-cos ResNet; ResNet-18 by default.

    Args:
        depths: Blocks a stage.
        layer_type: `"basic"` (two 3×3 convolutions, ResNet-18 and -34) or `"bottleneck"` (1×1, 3×3, 1×1).
        embedding_size: Channels of the stem and of the first stage's 3×3 convolutions; each stage doubles them.
        small_inputs: A 3×3 stem without stride and pooling, for images of some 32 pixels.
    """

    model_type = "bcos_resnet"

    depths: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    layer_type: str = "basic"
    embedding_size: int = 64
    small_inputs: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        check_layer_type(self.layer_type)


class _Block(nn.Module):
    """A residual block: each of `convolutions` (channels in, out, kernel, stride) with its norm.

    Its children are called `conv1`, `bn1`, `conv2`, … and `downsample`.
    """

    def __init__(self, convolutions: list[Convolution], max_out: int):
        super().__init__()
        self.length = len(convolutions)
        for number, (inputs, outputs, kernel, stride) in enumerate(convolutions, start=1):
            convolution = BcosConv2d(inputs, outputs, kernel, stride, padding=kernel // 2, max_out=max_out)
            self.add_module(f"conv{number}", convolution)
            self.add_module(f"bn{number}", UncenteredBatchNorm2d(outputs))
        inputs, outputs = convolutions[0][0], convolutions[-1][1]
        stride = max(stride for *_, stride in convolutions)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                BcosConv2d(inputs, outputs, 1, stride, max_out=max_out), UncenteredBatchNorm2d(outputs)
            )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        residual = features if self.downsample is None else self.downsample(features)
        for number in range(1, self.length + 1):
            features = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(features))
        return features + residual


class BcosResNetForImageClassification(BcosPreTrainedModel):
    """A B-cos ResNet that classifies every place and averages the places' logits."""

    config_class = BcosResNetConfig
    _no_split_modules = ["_Block"]

    def __init__(self, config: BcosResNetConfig):
        super().__init__(config)
        channels = config.embedding_size
        convolution = partial(BcosConv2d, max_out=config.max_out)
        if config.small_inputs:
            self.conv1 = convolution(6, channels, 3, padding=1)
            self.pool = nn.Identity()
        else:
            self.conv1 = convolution(6, channels, 7, stride=2, padding=3)
            self.pool = nn.AvgPool2d(3, stride=2, padding=1)
        self.bn1 = UncenteredBatchNorm2d(channels)
        self.stages = len(config.depths)
        stages, channels = residual_stages(config, partial(_Block, max_out=config.max_out))
        for number, stage in enumerate(stages, start=1):
            self.add_module(f"layer{number}", stage)
        self.fc = convolution(channels, config.num_labels, 1)
        self.post_init()

    def _features(self, channels: torch.Tensor) -> torch.Tensor:
        features = self.pool(self.bn1(self.conv1(channels)))
        for stage in range(self.stages):
            features = self.get_submodule(f"layer{stage + 1}")(features)
        return features

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        return self.logit_layer(self.fc(features).mean((2, 3)))

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, UncenteredBatchNorm2d):
            init.ones_(module.weight)
            init.ones_(module.running_var)
