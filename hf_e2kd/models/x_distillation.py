"""The student of XDistillation (Alharbi et al., IEEE Big Data 2021): it reads explanations too.

This file and those that it imports have no imports of other rooms: `register_for_auto_class` copies them beside the
weights, where they run without this package.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils.generic import can_return_tuple

from .base import as_configuration, register
from .explanation_autoencoder import ExplanationAutoencoder, ExplanationAutoencoderConfig
from .lenet import LeNetForImageClassification
from .shufflenet import ShuffleNetForImageClassification
from .small_resnet import SmallResNetForImageClassification
from .vgg import VGGForImageClassification
from .x_resnet import XResNetForImageClassification

# Backbones that a copy of this file has to know.
for _backbone in (
    LeNetForImageClassification,
    ShuffleNetForImageClassification,
    SmallResNetForImageClassification,
    VGGForImageClassification,
    XResNetForImageClassification,
):
    register(_backbone)


class XDistillationConfig(PreTrainedConfig):
    """Configuration of an `XDistillationForImageClassification`, which `from_parts` makes.

    Args:
        backbone_config: Configuration of the image classifier whose features are read, an object or a dictionary.
        autoencoder_config: Configuration of the autoencoder, an object or a dictionary.
    """

    model_type = "x_distillation"
    sub_configs = {"backbone_config": AutoConfig, "autoencoder_config": ExplanationAutoencoderConfig}

    def __init__(
        self,
        backbone_config: PreTrainedConfig | dict[str, Any] | None = None,
        autoencoder_config: ExplanationAutoencoderConfig | dict[str, Any] | None = None,
        **settings: Any,
    ):
        if isinstance(autoencoder_config, dict):
            autoencoder_config = ExplanationAutoencoderConfig(**autoencoder_config)
        self.backbone_config: Any = as_configuration(backbone_config, model_type="vgg", depth=7)
        self.autoencoder_config = autoencoder_config or ExplanationAutoencoderConfig()
        self.image_size = self.autoencoder_config.image_size
        self.num_channels = self.autoencoder_config.num_channels
        super().__init__(**settings)


class XDistillationForImageClassification(PreTrainedModel):
    """A classifier whose linear head reads an autoencoder's explanation and a backbone's features, side by side.

    The head is kept in two blocks of columns: `explanation_classifier` reads the explanation, `classifier` (with the
    bias) the features, which are what the backbone's own last linear layer read. The autoencoder is frozen; gradients
    pass through it to the images. GradCAM explains the backbone's target layer through the joint head.

    References:
        Alharbi et al., "Learning Interpretation with Explainable Knowledge Distillation", 2021, Sec. III-B and Fig. 2.

    Example:

        student = XDistillationForImageClassification.from_parts(backbone, autoencoder)
        args = ExplanationDistillArguments(
            "outputs/student", task_weight=1.0, logits_weight=0.1, explanation_weight=0.0,
            terms={"feature_reduction": {"weight": 5e-4}},
        )  # cross-entropy + (1 − α)·KD + λ‖c‖²: Eq. 6 with α = .9, τ = 1
        # To be loaded without this package, by trust_remote_code=True: code is saved beside the weights.
        XDistillationConfig.register_for_auto_class()
        XDistillationForImageClassification.register_for_auto_class("AutoModelForImageClassification")
    """

    config_class = XDistillationConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _supports_sdpa = True
    # Submodule whose target layer and stages are the model's; see `hf_e2kd.architectures.base.explained_part`.
    explained_part = "backbone"

    def __init__(self, config: XDistillationConfig):
        super().__init__(config)
        self.autoencoder = ExplanationAutoencoder(config.autoencoder_config).requires_grad_(False)
        self.backbone = AutoModelForImageClassification.from_config(config.backbone_config)
        classifier = find_classifier(self.backbone)
        width = self.backbone.get_submodule(classifier).in_features
        self.backbone.set_submodule(classifier, nn.Identity())
        pixels = config.autoencoder_config.output_channels * config.image_size**2
        self.explanation_classifier = nn.Linear(pixels, config.num_labels, bias=False)
        self.classifier = nn.Linear(width, config.num_labels)
        self.post_init()

    @classmethod
    def from_parts(
        cls, backbone: nn.Module, autoencoder: ExplanationAutoencoder
    ) -> "XDistillationForImageClassification":
        """Build a student of copies of a classifier's layers below its last and of a trained autoencoder.

        Args:
            backbone: Image classifier of transformers, or timm's in `wrap_timm`, trained or not, with the classes to
                learn.
            autoencoder: Autoencoder, trained on the teacher's explanations of that data.

        Raises:
            ValueError: the two are of other classes, image sizes or colours, or the backbone doesn't end in one linear
                layer.
        """
        if not isinstance(backbone, PreTrainedModel):
            raise ValueError(
                f"The backbone must be a model of transformers, not a bare {type(backbone).__name__}, which couldn't "
                "be loaded again. Give timm's models as hf_e2kd.wrap_timm(model)."
            )
        training, backbone = backbone.training, copy.deepcopy(backbone).eval()
        _refuse_other_channels(backbone, autoencoder.config.num_channels)
        own, others = backbone.config.id2label, autoencoder.config.id2label
        if own != others:
            raise ValueError(
                f"The autoencoder is of the classes {list(others.values())[:4]} and the backbone of "
                f"{list(own.values())[:4]}, {len(others)} and {len(own)}: it explains another teacher, or another data "
                "set. Train one for this data, or give both configurations the teacher's `id2label`."
            )
        backbone_config = copy.deepcopy(backbone.config)
        # Of a configuration that several classes share (DeiT's), this one.
        backbone_config.architectures = [type(backbone).__name__]
        config = XDistillationConfig(
            backbone_config,
            copy.deepcopy(autoencoder.config),
            id2label=own,
            label2id=backbone.config.label2id,
            problem_type=backbone.config.problem_type,
        )
        classifier, seen = find_classifier(backbone), list[torch.Tensor]()
        layer = backbone.get_submodule(classifier)
        weight = next(backbone.parameters())
        size = (autoencoder.config.num_channels, config.image_size, config.image_size)
        handle = layer.register_forward_hook(lambda _module, _args, output: seen.append(output))
        try:
            with torch.no_grad():
                logits = backbone(pixel_values=torch.rand(2, *size).to(weight), return_dict=True).logits
        finally:
            handle.remove()
        if len(seen) != 1 or not torch.equal(seen[0], logits):
            raise ValueError(
                f"The logits of {type(backbone).__name__} aren't those of one linear layer ('{classifier}'), whose "
                "input would be its features. Take a classifier that ends in one."
            )
        backbone.set_submodule(classifier, nn.Identity())
        student = cls(config).to(weight.device, weight.dtype)
        student.backbone.load_state_dict(backbone.state_dict())
        student.autoencoder.load_state_dict(autoencoder.state_dict())
        return student.train(training)

    @classmethod
    def from_pretrained(cls, *arguments: Any, **keywords: Any) -> Any:
        loaded = super().from_pretrained(*arguments, **keywords)
        # Loaded weights are trainable again.
        (loaded[0] if isinstance(loaded, tuple) else loaded).autoencoder.requires_grad_(False)
        return loaded

    def approximate_explanation(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Approximate the teacher's explanations (B, H, W), in their own unit, by the autoencoder alone."""
        return self.autoencoder.approximate_explanation(pixel_values)

    def classify(self, explanation: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """The logits (B, classes) of the autoencoder's output (B, channels, H, W) and of features (B, width)."""
        return self.explanation_classifier(explanation.flatten(1)) + self.classifier(features)

    def behind_part(self, inputs: Mapping[str, Any]) -> Callable[[torch.Tensor], torch.Tensor]:
        """The function from the backbone's features of a batch to the logits, for explanations of the backbone."""
        explanation = self.autoencoder(inputs["pixel_values"], return_dict=True).maps
        # Autocast may have made the explanation, and explanations run the head in full precision.
        return lambda features: self.classify(explanation.to(features), features)

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **loss_kwargs: Any
    ) -> ImageClassifierOutput:
        """Classify images. `loss_kwargs` (`num_items_in_batch`) are passed on to the loss."""
        # First the explanation: what traces the layers takes the last one called, which is then the backbone's.
        explanation = self.autoencoder(pixel_values, return_dict=True).maps
        logits = self.classify(explanation, self.backbone(pixel_values=pixel_values, return_dict=True).logits)
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **loss_kwargs)
        return ImageClassifierOutput(loss=loss, logits=logits)

    def _init_weights(self, module: nn.Module) -> None:
        """Draw the head's two blocks as one linear layer over both inputs would be drawn."""
        if module in (self.explanation_classifier, self.classifier):
            bound = (self.explanation_classifier.in_features + self.classifier.in_features) ** -0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.zeros_(module.bias)


def find_classifier(backbone: nn.Module) -> str:
    """Path of the last linear layer of a classifier's classes.

    Raises:
        ValueError: it has none.
    """
    classes = backbone.config.num_labels
    for name, module in reversed(list(backbone.named_modules())):
        if isinstance(module, nn.Linear) and module.out_features == classes:
            return name
    raise ValueError(
        f"{type(backbone).__name__} has no linear layer of its {classes} classes, whose input would be its features. "
        "Take a classifier that ends in one."
    )


def _refuse_other_channels(backbone: nn.Module, channels: int) -> None:
    own = next((module.in_channels for module in backbone.modules() if isinstance(module, nn.Conv2d)), channels)
    if own != channels:
        raise ValueError(
            f"The autoencoder reads images of {channels} channels and the backbone of {own}. Convert the images to "
            "grey or to RGB for both, and build both for them."
        )
