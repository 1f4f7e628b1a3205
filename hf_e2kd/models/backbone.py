"""Image classifiers made of a backbone for which transformers has none: its pooled output under one linear layer."""

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils.generic import can_return_tuple

from .base import as_configuration


class BackboneConfig(PreTrainedConfig):
    """Configuration of a `BackboneForImageClassification`.

    Args:
        backbone_config: Configuration of the backbone, an object or a dictionary; of DINOv3 by default.
    """

    model_type = "backbone_image_classifier"
    sub_configs = {"backbone_config": AutoConfig}

    def __init__(self, backbone_config: PreTrainedConfig | dict[str, Any] | None = None, **settings: Any):
        backbone: Any = as_configuration(backbone_config, model_type="dinov3_vit")
        self.backbone_config = backbone
        for name in ("image_size", "patch_size"):  # where the map's grid is read
            if hasattr(backbone, name):
                setattr(self, name, getattr(backbone, name))
        super().__init__(**settings)


class BackboneForImageClassification(PreTrainedModel):
    """A classifier that is one linear layer on a backbone's `pooler_output` (DINOv3).

    `fit_head` makes one of a published backbone.

    Raises:
        ValueError: the backbone states no width, sees no images, or gives no pooled output.
    """

    config_class = BackboneConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _supports_sdpa = True

    def __init__(self, config: BackboneConfig):
        super().__init__(config)
        kind = config.backbone_config
        width = getattr(kind, "hidden_size", None) or next(iter(reversed(getattr(kind, "hidden_sizes", ()))), None)
        self.backbone = AutoModel.from_config(kind)
        if width is None or self.backbone.main_input_name != "pixel_values":
            raise ValueError(_unpooled(self.backbone))
        self.classifier = nn.Linear(width, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        **loss_kwargs: Any,
    ) -> ImageClassifierOutput:
        """Classify images. `loss_kwargs` (`num_items_in_batch`) are passed on to the loss."""
        attentions = {} if output_attentions is None else {"output_attentions": output_attentions}
        seen = self.backbone(pixel_values=pixel_values, return_dict=True, **attentions)
        pooled = seen.get("pooler_output")
        if pooled is None:
            raise ValueError(_unpooled(self.backbone))
        logits = self.classifier(pooled.flatten(1))
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **loss_kwargs)
        return ImageClassifierOutput(loss=loss, logits=logits, attentions=seen.get("attentions"))


def _unpooled(backbone: PreTrainedModel) -> str:
    return (
        f"{type(backbone).__name__} gives no pooled feature of an image (`pooler_output`) that a linear layer could "
        "read. Name another backbone, such as facebook/dinov2-small."
    )
