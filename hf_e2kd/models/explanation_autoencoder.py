"""Autoencoders that approximate a teacher's explanations (XDistillation, Alharbi et al., IEEE Big Data 2021)."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils.generic import ModelOutput, can_return_tuple

from .base import check_images

_WIDTHS = {"small": (16, 4), "large": (12, 24, 48, 96)}


class ExplanationAutoencoderConfig(PreTrainedConfig):
    """Sizes of an `ExplanationAutoencoder`; the paper's Table I.

    The class names, `id2label`, should be the teacher's: a student of other classes refuses the autoencoder.

    Args:
        size: `"small"`: convolutions of 3×3 with poolings, and transposed convolutions of 2×2 (1,077 parameters of grey
            images). `"large"`: convolutions of 4×4 with strides, and their mirror image; the paper's 198,796
            parameters don't determine its widths, and the default's 194,955 (of RGB images, with three output channels)
            come near.
        widths: Channels of the encoder's layers; the decoder mirrors them.
        image_size: Side of the images, in pixels; a multiple of 2 to the power of the number of widths.
        num_channels: Colours of the images.
        output_channels: Channels of the output, whose sum is the map.
        scale: The number that explanations were divided by to lie in −1 to 1.

    Raises:
        ValueError: unknown size, images that the strides don't divide, or a scale that isn't positive.
    """

    model_type = "explanation_autoencoder"

    size: str = "large"
    widths: list[int] | tuple[int, ...] | None = None
    image_size: int = 32
    num_channels: int = 3
    output_channels: int = 1
    scale: float = 1.0

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.size not in _WIDTHS:
            raise ValueError(f"size must be one of {sorted(_WIDTHS)}, not '{self.size}'.")
        factor = 2 ** len(self.layer_widths)
        if self.image_size % factor:
            raise ValueError(
                f"image_size must be a multiple of {factor}, because the {len(self.layer_widths)} layers halve it, not "
                f"{self.image_size}. Resize the images, or give fewer `widths`."
            )
        if not 0 < self.scale < math.inf:
            raise ValueError(
                f"scale must be a positive number, the largest magnitude of explanations, not {self.scale}."
            )

    @property
    def layer_widths(self) -> tuple[int, ...]:
        """Channels of the encoder's layers."""
        return _WIDTHS[self.size] if self.widths is None else tuple(self.widths)


@dataclass
class ExplanationAutoencoderOutput(ModelOutput):
    """Output of an `ExplanationAutoencoder`.

    Args:
        loss: Half the mean absolute error, where labels were given.
        maps: Explanations over the scale, (B, output_channels, H, W), in −1 to 1.
    """

    loss: torch.Tensor | None = None
    maps: torch.Tensor | None = None


class ExplanationAutoencoder(PreTrainedModel):
    """A convolutional autoencoder from images to the teacher's explanations, with a tanh behind every layer.

    References:
        Alharbi et al., "Learning Interpretation with Explainable Knowledge Distillation", 2021, Eqs. 1, 2 and 4 (with
        the absolute value that Eq. 4 lacks) and Table I. The paper trains it by Adam with a learning rate of 1e-3.

    Example:

        config = ExplanationAutoencoderConfig(scale=scale, id2label=teacher.config.id2label)
        autoencoder = ExplanationAutoencoder(config)
        Trainer(autoencoder, args, train_dataset=train).train()  # columns: pixel_values, and the maps as labels
    """

    config_class = ExplanationAutoencoderConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: ExplanationAutoencoderConfig):
        super().__init__(config)
        widths = [config.num_channels, *config.layer_widths]
        back = [*reversed(widths[1:]), config.output_channels]
        layers: list[nn.Module] = []
        for inputs, outputs in zip(widths, widths[1:], strict=False):
            if config.size == "small":
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2)]
            else:
                layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.Tanh()]
        kernel, padding = (2, 0) if config.size == "small" else (4, 1)
        for inputs, outputs in zip(back, back[1:], strict=False):
            layers += [nn.ConvTranspose2d(inputs, outputs, kernel, stride=2, padding=padding), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.post_init()

    # Without further keywords: the loss is a mean over the batch, which the trainer divides where it accumulates.
    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, return_dict: bool | None = None
    ) -> ExplanationAutoencoderOutput:
        """Approximate explanations.

        Args:
            pixel_values: Images (B, channels, H, W).
            labels: The teacher's explanations over the scale, (B, H, W), or (B, output_channels, H, W).
        """
        check_images(self, pixel_values)
        maps = self.layers(pixel_values)
        return ExplanationAutoencoderOutput(None if labels is None else reconstruction_loss(maps, labels), maps)

    def approximate_explanation(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Approximate the teacher's maps (B, H, W) of images, in the explanations' own unit, by one forward pass."""
        return self(pixel_values).maps.sum(dim=1) * self.config.scale

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)


def reconstruction_loss(maps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Half the mean absolute error, ½·mean |e_CAE − e_T| (Eq. 4, which lacks the absolute value).

    Args:
        maps: Approximated explanations (B, C, H, W).
        labels: The teacher's, of that shape, or (B, H, W) for one channel.

    Raises:
        ValueError: the shapes differ.
    """
    wanted = labels[:, None] if labels.ndim == 3 else labels
    if wanted.shape != maps.shape:
        raise ValueError(
            f"labels must be the explanations of the images' size, {tuple(maps.shape)}, not {tuple(labels.shape)}. "
            "Take superpixel maps of these images, and `output_channels` as their number of channels."
        )
    return 0.5 * (maps - wanted.to(maps.dtype)).abs().mean()
