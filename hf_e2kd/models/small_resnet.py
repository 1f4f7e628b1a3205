"""ResNets for small images (He et al., CVPR 2016, Sec. 4.2), the networks of most studies of distillation on CIFAR."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from .base import ImageClassifier
from .residual import Convolution, check_layer_type, residual_stages


class SmallResNetConfig(PreTrainedConfig):
    """Sizes of a ResNet for small images; ResNet-20 by default, with projections where a shortcut changes shape.

    Args:
        depths: Blocks a stage.
        layer_type: `"basic"` (two 3×3 convolutions) or `"bottleneck"` (1×1, 3×3, 1×1).
        embedding_size: Channels of the stem and of the first stage's 3×3 convolutions; each stage doubles them.
        stem_stride: Stride of the 3×3 stem: 1 for images of some 32 pixels, 2 for 64.
    """

    model_type = "small_resnet"

    depths: list[int] | tuple[int, ...] = (3, 3, 3)
    layer_type: str = "basic"
    embedding_size: int = 16
    stem_stride: int = 1

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        check_layer_type(self.layer_type)


class _Block(nn.Module):
    """A residual block of convolutions (channels in, out, kernel, stride), each with a batch norm."""

    def __init__(self, convolutions: list[Convolution]):
        super().__init__()
        self.convolutions = nn.ModuleList(_convolution(*each) for each in convolutions)
        inputs, outputs = convolutions[0][0], convolutions[-1][1]
        stride = max(stride for *_, stride in convolutions)
        changes = stride != 1 or inputs != outputs
        self.downsample = _convolution(inputs, outputs, 1, stride) if changes else nn.Identity()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        branch = features
        for number, convolution in enumerate(self.convolutions):
            branch = convolution(branch if number == 0 else F.relu(branch))
        return F.relu(branch + self.downsample(features))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class SmallResNetForImageClassification(ImageClassifier):
    """A ResNet that classifies small images, `pixel_values` (B, 3, H, W)."""

    config_class = SmallResNetConfig
    _no_split_modules = ["_Block"]

    def __init__(self, config: SmallResNetConfig):
        super().__init__(config)
        self.stem = _convolution(3, config.embedding_size, 3, config.stem_stride)
        stages, channels = residual_stages(config, _Block)
        self.stages = nn.ModuleList(stages)
        self.classifier = nn.Linear(channels, config.num_labels)
        self.post_init()

    def forward_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        features = F.relu(self.stem(pixel_values))
        for stage in self.stages:
            features = stage(features)
        return features

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        return self.classifier(features.mean((2, 3)))
