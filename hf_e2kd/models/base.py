"""The base of the image classifiers that this room adds to transformers, and their registration."""

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils.generic import can_return_tuple


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

    def _init_weights(self, module: nn.Module) -> None:
        """Draw convolutions from He's normal distribution and linear layers from a narrow one, as torchvision's VGG."""
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=0.01)
            init.zeros_(module.bias)


def check_images(model: PreTrainedModel, pixel_values: torch.Tensor) -> None:
    """Refuse images of another shape than a model's configuration states.

    Raises:
        ValueError: naming both shapes.
    """
    config = model.config
    expected = (config.num_channels, config.image_size, config.image_size)
    if pixel_values.shape[1:] != expected:
        raise ValueError(
            f"{type(model).__name__} takes images (B, {', '.join(map(str, expected))}), not of the shape "
            f"{tuple(pixel_values.shape)}. Convert the images by the processor (colours, size), or build the model "
            "with their num_channels and image_size."
        )


def as_configuration(settings: PreTrainedConfig | dict[str, Any] | None, **default: Any) -> PreTrainedConfig:
    """Make a part's configuration of its dictionary, which names its `model_type`; of the default where it is None."""
    if isinstance(settings, PreTrainedConfig):
        return settings
    own = dict(settings or default)
    return AutoConfig.for_model(own.pop("model_type"), **own)


def register(model: type[PreTrainedModel], auto_class: Any = AutoModelForImageClassification) -> None:
    """Make the Auto classes know a classifier, unless they know its kind: a copy of it may lie beside weights.

    Args:
        model: Class whose `config_class` has a `model_type` of its own.
        auto_class: Auto class of its task.
    """
    config: Any = model.config_class
    if config.model_type not in CONFIG_MAPPING:
        AutoConfig.register(config.model_type, config)
        auto_class.register(config, model)
