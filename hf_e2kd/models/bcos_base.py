"""The base of the B-cos networks: their configuration, and the image with its inverse."""

import math
from typing import Any

import torch
from transformers import PreTrainedConfig

from .base import ImageClassifier
from .bcos import AddInverse, LogitLayer


class BcosConfig(PreTrainedConfig):
    """The settings that all B-cos networks have beside their sizes.

    Args:
        max_out: Number of weight vectors of an output, of which the best counts.
        logit_bias: Number added to the logits; −log(classes − 1) where None.
        logit_temperature: Divisor of the logits.
    """

    max_out: int = 1
    logit_bias: float | None = None
    logit_temperature: float = 1.0


class BcosPreTrainedModel(ImageClassifier):
    """A B-cos image classifier: `forward_features`, then `forward_head`, of an image's six channels.

    `pixel_values` (B, 3, H, W) are RGB in [0, 1], **not normalised**: the model adds the inverse itself. A processor
    with `do_normalize=False` gives them. The first batch is checked.

    `labels` (B,) give the cross-entropy, as in transformers' own classifiers. B-cos networks are usually trained with
    the binary one: set `config.problem_type = "multi_label_classification"` and give labels (B, classes) of 0 and 1.
    """

    config_class = BcosConfig

    def __init__(self, config: Any):
        super().__init__(config)
        if config.logit_bias is None and config.num_labels < 2:
            raise ValueError(
                f"The default logit bias −log(classes − 1) needs at least two classes, not {config.num_labels}. Set "
                "`logit_bias` in the configuration."
            )
        bias = -math.log(config.num_labels - 1) if config.logit_bias is None else config.logit_bias
        self.add_inverse = AddInverse()
        self.logit_layer = LogitLayer(config.logit_temperature, bias)
        self._pixels_checked = False

    def forward_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The last feature map, (B, C, h, w), or (B, h, w, C) of a transformer.

        Raises:
            ValueError: the images aren't RGB, or the first batch isn't in [0, 1].
        """
        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
            raise ValueError(
                f"pixel_values must be RGB images (B, 3, H, W), not {tuple(pixel_values.shape)}. "
                f"{type(self).__name__} adds the three inverse channels itself."
            )
        if not self._pixels_checked and not torch.compiler.is_compiling():
            _check_range(pixel_values, type(self).__name__)
            # Once: reading values back would hold up every step. Zeros, with which models are traced, tell nothing.
            self._pixels_checked = bool(pixel_values.any())
        return self._features(self.add_inverse(pixel_values.to(self.dtype)))

    def _features(self, channels: torch.Tensor) -> torch.Tensor:
        """The last feature map of an image and its inverse (B, 6, H, W)."""
        raise NotImplementedError


def _check_range(pixel_values: torch.Tensor, model: str) -> None:
    lowest, highest = pixel_values.min().item(), pixel_values.max().item()
    # Interpolation overshoots a little; normalised images and bytes are far outside.
    if lowest < -0.25 or highest > 1.25:
        raise ValueError(
            f"{model} takes RGB in [0, 1], not normalised, and these pixel_values lie in [{lowest:.2f}, "
            f"{highest:.2f}]. Give the image processor do_normalize=False (and do_rescale=True)."
        )
