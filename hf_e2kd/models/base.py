"""The base of the image classifiers that this room adds to transformers."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils.generic import can_return_tuple

from ..architectures.base import Split, require_inputs
from ..architectures.grids import Grid


class ImageClassifier(PreTrainedModel):
    """An image classifier in two parts: `forward_features`, then `forward_head`."""

    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def forward_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The last feature map (B, C, h, w) of images (B, 3, H, W)."""
        raise NotImplementedError

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        """The logits (B, classes) of the last feature map."""
        raise NotImplementedError

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **loss_kwargs: Any
    ) -> ImageClassifierOutput:
        """Classify images. `loss_kwargs` (`num_items_in_batch`) are passed on to the loss."""
        logits = self.forward_head(self.forward_features(pixel_values))
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **loss_kwargs)
        return ImageClassifierOutput(loss=loss, logits=logits)


def split_at_features(model: nn.Module, inputs: Mapping[str, Any]) -> Split:
    """Cut the forward pass of an `ImageClassifier` at its last feature map (B, C, h, w)."""
    features = model.forward_features(require_inputs(inputs))
    return Split(features, model.forward_head, Grid(features.shape[2], features.shape[3]))
