"""VGG networks for small images (Simonyan & Zisserman, ICLR 2015), with batch norms and one linear layer at the end."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from .base import ImageClassifier, check_images

_WIDTHS: dict[int, Sequence[Sequence[int]]] = {
    7: ((64,), (64, 128), (256, 256), (256, 256, 256)),
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    16: ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
}


class VGGConfig(PreTrainedConfig):
    """Sizes of a VGG; XDistillation's networks (Alharbi et al., IEEE Big Data 2021) for CIFAR by default.

    Args:
        depth: 16 (14,728,266 parameters for ten classes), 11 (9,231,114) or 7 (2,781,386), as the paper calls them.
        widths: Channels of each stage's convolutions, for another network than these; the stages end in poolings.
        image_size: Side of the images, in pixels.
        num_channels: Colours of the images.

    Raises:
        ValueError: unknown depth, or images too small for the poolings.

    Example:
        >>> VGGConfig(depth=7).stage_widths[-1]
        (256, 256, 256)
    """

    model_type = "vgg"

    depth: int = 16
    widths: list[list[int]] | tuple[tuple[int, ...], ...] | None = None
    image_size: int = 32
    num_channels: int = 3

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.widths is None and self.depth not in _WIDTHS:
            raise ValueError(
                f"depth must be one of {sorted(_WIDTHS)}, not {self.depth!r}. Give another network's `widths`, the "
                "channels of each stage's convolutions."
            )
        if self.last_side < 1:
            raise ValueError(
                f"Images of {self.image_size} pixels are too small for {len(self.stage_widths)} poolings. Enlarge them "
                f"to {2 ** len(self.stage_widths)} pixels or more, or give `widths` of fewer stages."
            )

    @property
    def stage_widths(self) -> Sequence[Sequence[int]]:
        """Channels of each stage's convolutions."""
        return _WIDTHS[self.depth] if self.widths is None else self.widths

    @property
    def last_side(self) -> int:
        """Side of the feature map that the linear layer reads."""
        return self.image_size // 2 ** len(self.stage_widths)


class VGGForImageClassification(ImageClassifier):
    """A VGG that classifies images, `pixel_values` (B, channels, H, W) of the configuration's size.

    Each stage is convolutions of 3×3 with batch norms and ReLUs. The last feature map is that before the last pooling.
    """

    config_class = VGGConfig

    def __init__(self, config: VGGConfig):
        super().__init__(config)
        channels, stages = config.num_channels, []
        for widths in config.stage_widths:
            layers: list[nn.Module] = []
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)
        self.classifier = nn.Linear(channels * config.last_side**2, config.num_labels)
        self.post_init()

    def forward_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        check_images(self, pixel_values)
        features = pixel_values
        for number, stage in enumerate(self.stages):
            features = stage(features if number == 0 else F.max_pool2d(features, 2))
        return features

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        return self.classifier(F.max_pool2d(features, 2).flatten(1))
