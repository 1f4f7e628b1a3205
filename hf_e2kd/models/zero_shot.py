"""Image classifiers made of a dual encoder of images and texts: prompts' embeddings as a frozen linear head."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils.generic import can_return_tuple

from .base import as_configuration


class ZeroShotConfig(PreTrainedConfig):
    """Configuration of a `ZeroShotForImageClassification`.

    Args:
        vision_config: Configuration of the image encoder, an object or a dictionary.
        projection_dim: Width of the embeddings that images and texts share; None where the encoder's pooled output is
            one already (SigLIP).
    """

    model_type = "zero_shot_image_classifier"
    sub_configs = {"vision_config": AutoConfig}

    def __init__(
        self,
        vision_config: PreTrainedConfig | dict[str, Any] | None = None,
        projection_dim: int | None = None,
        **settings: Any,
    ):
        vision: Any = as_configuration(vision_config, model_type="clip_vision_model")
        self.vision_config = vision
        self.projection_dim = projection_dim
        self.image_size, self.patch_size = vision.image_size, vision.patch_size
        super().__init__(**settings)


class ZeroShotForImageClassification(PreTrainedModel):
    """A classifier whose logits are the scaled cosines of an image's embedding and the classes' prompts (CLIP, SigLIP).

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, Sec. 3.1.2; Zhai
    et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023. `zero_shot_teacher` makes one of a published dual
    encoder.
    """

    config_class = ZeroShotConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _supports_sdpa = True

    def __init__(self, config: ZeroShotConfig):
        super().__init__(config)
        self.vision_model = AutoModel.from_config(config.vision_config)
        width = config.vision_config.hidden_size
        self.visual_projection: nn.Module = (
            nn.Identity() if config.projection_dim is None else nn.Linear(width, config.projection_dim, bias=False)
        )
        self.prompts = nn.Linear(config.projection_dim or width, config.num_labels, bias=False)
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.logit_bias = nn.Parameter(torch.zeros(()))
        self.post_init()

    def classify(self, embedding: torch.Tensor) -> torch.Tensor:
        """The logits (B, classes) of the image encoder's pooled output (B, width)."""
        return self.prompts(F.normalize(self.visual_projection(embedding), dim=-1)) * self.logit_scale.exp() + (
            self.logit_bias
        )

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **loss_kwargs: Any,
    ) -> ImageClassifierOutput:
        """Classify images. `loss_kwargs` (`num_items_in_batch`) are passed on to the loss."""
        seen = self.vision_model(
            pixel_values=pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            output_attentions=output_attentions,
            return_dict=True,
        )
        logits = self.classify(seen.pooler_output)
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **loss_kwargs)
        return ImageClassifierOutput(loss=loss, logits=logits, attentions=seen.attentions)
