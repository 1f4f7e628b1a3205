"""X-DNN ResNets (Hesse et al., NeurIPS 2021): no bias anywhere, so that Input×Gradient equals Integrated Gradients.

Without biases a network of ReLUs is positively homogeneous, f(αx) = α·f(x) for α > 0: along the path from zero to the
image the gradient stays the same, and Input×Gradient sums to the logit. A batch norm has a bias in its mean. In its
place stand Fixup's initialisation and a scalar a block (Zhang et al., ICLR 2019), without Fixup's biases.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers import initialization as init

from .base import ImageClassifier
from .residual import Convolution, check_layer_type, residual_stages


class XResNetConfig(PreTrainedConfig):
    """Sizes of an X-DNN ResNet; ResNet-50 by default, the backbone of model guidance (Rao et al., ICCV 2023).

    Args:
        depths: Blocks a stage.
        layer_type: `"basic"` (two 3×3 convolutions) or `"bottleneck"` (1×1, 3×3, 1×1).
        embedding_size: Channels of the stem and of the first stage's 3×3 convolutions; each stage doubles them.
        small_inputs: A 3×3 stem without stride and pooling, for images of some 32 pixels.
    """

    model_type = "x_resnet"

    depths: list[int] | tuple[int, ...] = (3, 4, 6, 3)
    layer_type: str = "bottleneck"
    embedding_size: int = 64
    small_inputs: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        check_layer_type(self.layer_type)


class _Block(nn.Module):
    """A residual block of convolutions (channels in, out, kernel, stride); its branch is multiplied by `scale`."""

    def __init__(self, convolutions: list[Convolution]):
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
            for inputs, outputs, kernel, stride in convolutions
        )
        self.scale = nn.Parameter(torch.ones(1))
        inputs, outputs = convolutions[0][0], convolutions[-1][1]
        stride = max(stride for *_, stride in convolutions)
        changes = stride != 1 or inputs != outputs
        self.downsample = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else nn.Identity()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        branch = features
        for number, convolution in enumerate(self.convolutions):
            branch = convolution(branch if number == 0 else F.relu(branch))
        return F.relu(self.scale * branch + self.downsample(features))


class XResNetForImageClassification(ImageClassifier):
    """An X-DNN ResNet that classifies images, `pixel_values` (B, 3, H, W)."""

    config_class = XResNetConfig
    _no_split_modules = ["_Block"]

    def __init__(self, config: XResNetConfig):
        super().__init__(config)
        channels = config.embedding_size
        kernel, stride = (3, 1) if config.small_inputs else (7, 2)
        self.stem = nn.Conv2d(3, channels, kernel, stride, padding=kernel // 2, bias=False)
        self.pool = nn.Identity() if config.small_inputs else nn.MaxPool2d(3, stride=2, padding=1)
        stages, channels = residual_stages(config, _Block)
        self.stages = nn.ModuleList(stages)
        self.classifier = nn.Linear(channels, config.num_labels, bias=False)
        self.post_init()

    def forward_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        features = self.pool(F.relu(self.stem(pixel_values)))
        for stage in self.stages:
            features = stage(features)
        return features

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        return self.classifier(features.mean((2, 3)))

    def _init_weights(self, module: nn.Module) -> None:
        """Fixup: each branch begins at zero, and its other convolutions smaller by L^(−1/(2m−2)), m being their number.

        A classifier that began at zero too, as Fixup's does, would have no explanation to learn from in its first step.
        """
        if isinstance(module, _Block):
            count = len(module.convolutions)
            for convolution in module.convolutions[:-1]:
                init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
                with torch.no_grad():
                    convolution.weight.mul_(sum(self.config.depths) ** (-1 / (2 * count - 2)))
            init.zeros_(module.convolutions[-1].weight)
            init.ones_(module.scale)
            if isinstance(module.downsample, nn.Conv2d):
                init.normal_(module.downsample.weight, std=math.sqrt(2 / module.downsample.out_channels))
        elif module is self.stem:
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=0.01)
