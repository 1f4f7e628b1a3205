"""Teachers of a dual encoder (CLIP, SigLIP) and the names of the classes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from ..alignment.labels import name_key
from ..models.zero_shot import ZeroShotConfig, ZeroShotForImageClassification
from .models import load_weights
from .processors import load_processor
from .reaching import loading

TEMPLATE = "This is a photo of {}."
"""Prompt of transformers' zero-shot pipeline."""


def zero_shot_teacher(
    source: str, labels: Sequence[str], template: str | Sequence[str] = TEMPLATE, **options: Any
) -> tuple[ZeroShotForImageClassification, Any]:
    """Make an image classifier of a dual encoder: CLIP, SigLIP or SigLIP2 with a fixed image size.

    Its logits are the encoder's `logits_per_image`, and its probabilities those of transformers' zero-shot pipeline: a
    softmax for CLIP, a sigmoid for SigLIP, which is then a multi-label teacher. Every explainer of images explains it,
    and it is saved and loaded by `AutoModelForImageClassification` after `import hf_e2kd`.

    Args:
        source: Hub id or folder.
        labels: Names of the classes, one prompt each.
        template: Prompt in which `{}` stands for the name; or several, whose embeddings are averaged.
        options: Options of `from_pretrained`, such as `revision`.

    Returns:
        The classifier in evaluation mode, and its image processor.

    Raises:
        ValueError: no labels or one twice, a template without `{}`, or a model that is no such encoder.
        OSError: the model isn't there, or the Hub can't be reached.

    Example:

        teacher, processor = zero_shot_teacher("openai/clip-vit-base-patch32", ["a cat", "a dog"])
        ExplanationDistillTrainer(student, args, teacher_model=teacher, teacher_processing_class=processor, ...)
    """
    names = [str(label) for label in labels]
    if isinstance(labels, str) or len(names) < 2:
        raise ValueError(f"A zero-shot teacher needs the names of its classes, two or more, not {labels!r}.")
    if len({name_key(name) for name in names}) < len(names):
        raise ValueError("Two of the labels are alike. Each class needs a prompt of its own.")
    templates = [template] if isinstance(template, str) else list(template)
    for each in templates or [""]:
        if "{}" not in each:
            raise ValueError(f"The template {each!r} has no place for a label. Write {{}} there: {TEMPLATE!r}.")
    with loading(source, revision=options.get("revision")):
        encoder = load_weights(AutoModel, source, **options).eval()
    is_sigmoid = hasattr(encoder, "logit_bias")
    if not (hasattr(encoder, "logit_scale") and hasattr(encoder, "vision_model") and hasattr(encoder, "text_model")):
        raise ValueError(
            f"'{source}' is a {type(encoder).__name__}, no dual encoder of images and texts. Name a CLIP or SigLIP."
        )
    if getattr(encoder.config.vision_config, "image_size", None) is None:
        raise ValueError(
            f"'{source}' cuts images of any shape into patches (NaFlex), and explainers need a grid. Name one with a "
            "fixed image size, such as google/siglip2-base-patch16-224."
        )
    projection = getattr(encoder, "visual_projection", None)
    config = ZeroShotConfig(
        encoder.config.vision_config,
        None if projection is None else projection.out_features,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        problem_type="multi_label_classification" if is_sigmoid else None,
    )
    model = ZeroShotForImageClassification(config)
    model.vision_model.load_state_dict(encoder.vision_model.state_dict())
    if projection is not None:
        model.visual_projection.load_state_dict(projection.state_dict())
    with torch.no_grad():
        model.prompts.weight.copy_(_embeddings(encoder, source, names, templates, options))
        model.logit_scale.copy_(encoder.logit_scale.squeeze())
        if is_sigmoid:
            model.logit_bias.copy_(encoder.logit_bias.squeeze())
    return model.to(encoder.dtype).eval(), load_processor(source, config, **options)


def _embeddings(
    encoder: Any, source: str, names: Sequence[str], templates: Sequence[str], options: dict[str, Any]
) -> torch.Tensor:
    """Embeddings (classes, width) of the classes' prompts, of length 1."""
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    # SigLIP was trained on texts of this length, padding included.
    is_siglip = "siglip" in encoder.config.model_type
    settings = {"padding": "max_length", "max_length": 64, "truncation": True} if is_siglip else {"padding": True}
    size = encoder.config.vision_config.image_size
    image = torch.zeros(1, 3, size, size, dtype=encoder.dtype)
    means = []
    for name in names:
        tokens = tokenizer([template.format(name) for template in templates], return_tensors="pt", **settings)
        embedded = encoder(**tokens, pixel_values=image).text_embeds
        means.append(F.normalize(embedded, dim=-1).mean(0))
    return F.normalize(torch.stack(means), dim=-1)
