"""LeNet-5 (LeCun et al., 1998) with ReLUs and maximum poolings, of any widths."""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers import initialization as init

from .base import ImageClassifier, check_images


class LeNetConfig(PreTrainedConfig):
    """Sizes of a LeNet; LeNet-5 for MNIST by default, XDistillation's teacher (Alharbi et al., IEEE Big Data 2021).

    It has 61,706 parameters for ten classes. The paper prints 61,701, and 8,297 for its student, whose widths it
    doesn't state.

    Args:
        channels: Channels of the two convolutions of 5×5.
        hidden_sizes: Widths of the linear layers before the last.
        image_size: Side of the images, in pixels, from 12.
        num_channels: Colours of the images.

    Raises:
        ValueError: images too small for the convolutions.
    """

    model_type = "lenet"

    channels: list[int] | tuple[int, int] = (6, 16)
    hidden_sizes: list[int] | tuple[int, ...] = (120, 84)
    image_size: int = 28
    num_channels: int = 1

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if len(self.channels) != 2:
            raise ValueError(f"channels must be two numbers, one of each convolution, not {self.channels!r}.")
        if self.last_side < 1:
            raise ValueError(f"Images of {self.image_size} pixels are too small for a LeNet. Give 12 pixels or more.")

    @property
    def last_side(self) -> int:
        """Side of the feature map that the linear layers read."""
        return (self.image_size // 2 - 4) // 2


class LeNetForImageClassification(ImageClassifier):
    """A LeNet that classifies images, `pixel_values` (B, channels, H, W) of the configuration's size.

    The last feature map is that of the second convolution, before its pooling.
    """

    config_class = LeNetConfig

    def __init__(self, config: LeNetConfig):
        super().__init__(config)
        first, second = config.channels
        self.stages = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(config.num_channels, first, 5, padding=2), nn.ReLU()),
                nn.Sequential(nn.Conv2d(first, second, 5), nn.ReLU()),
            ]
        )
        width, layers = second * config.last_side**2, list[nn.Module]()
        for hidden in config.hidden_sizes:
            layers += [nn.Linear(width, hidden), nn.ReLU()]
            width = hidden
        self.classifier = nn.Sequential(*layers, nn.Linear(width, config.num_labels))
        self.post_init()

    def forward_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        check_images(self, pixel_values)
        return self.stages[1](F.max_pool2d(self.stages[0](pixel_values), 2))

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        return self.classifier(F.max_pool2d(features, 2).flatten(1))

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            init.zeros_(module.bias)
