"""Image classifiers of transformers: target layer, grid and head of each family."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from .attention import transformers_attention, vit_block
from .base import Split, register_architecture, require_inputs
from .grids import Grid, config_patches

# --- Families whose head pools the last feature map ---------------------------------------------------------------


def _pooled_split(
    model: nn.Module, inputs: Mapping[str, Any], head: Callable[[nn.Module, torch.Tensor], torch.Tensor]
) -> Split:
    """Run the family's own backbone; `head(model, last_hidden_state)` gives the logits."""
    optional = ("interpolate_pos_encoding",) if model.config.model_type == "swin" else ()
    pixel_values = require_inputs(inputs, *optional)
    activation = model.base_model(**inputs).last_hidden_state
    if activation.ndim == 4:
        grid = Grid(*activation.shape[-2:])
    else:
        grid = Grid(*_swin_grid(model, *pixel_values.shape[-2:]), layout="tokens")
    return Split(activation, partial(head, model), grid)


def _swin_grid(model: nn.Module, height: int, width: int) -> tuple[int, int]:
    """Patches, rounded up as `maybe_pad` does, halved (rounded up) by each patch merging."""
    patch = model.config.patch_size
    rows, columns = -(-height // patch), -(-width // patch)
    for _ in range(len(model.config.depths) - 1):
        rows, columns = -(-rows // 2), -(-columns // 2)
    return rows, columns


def _convnext_head(model: nn.Module, features: torch.Tensor) -> torch.Tensor:
    return model.classifier(model.base_model.layernorm(features.mean([-2, -1])))


def _resnet_head(model: nn.Module, features: torch.Tensor) -> torch.Tensor:
    return model.classifier(model.base_model.pooler(features))


def _mobilenet_head(model: nn.Module, features: torch.Tensor) -> torch.Tensor:
    # The model's own dropout writes in place, into a tensor that the explanation still needs.
    pooled = nn.functional.dropout(features.mean([-2, -1]), model.dropout.p, model.dropout.training)
    return model.classifier(pooled)


def _efficientnet_head(model: nn.Module, features: torch.Tensor) -> torch.Tensor:
    return model.classifier(model.dropout(model.base_model.pooler(features).flatten(1)))


def _swin_head(model: nn.Module, features: torch.Tensor) -> torch.Tensor:
    return model.classifier(features.mean(1))


def _last_stage(model: nn.Module) -> str:
    return f"{model.base_model_prefix}.encoder.stages.{len(model.base_model.encoder.stages) - 1}"


_POOLED: list[tuple[str, str | Callable[[nn.Module], str], Callable[[nn.Module, torch.Tensor], torch.Tensor]]] = [
    ("ConvNextForImageClassification", _last_stage, _convnext_head),
    ("ConvNextV2ForImageClassification", _last_stage, _convnext_head),
    ("ResNetForImageClassification", _last_stage, _resnet_head),
    ("RegNetForImageClassification", _last_stage, _resnet_head),
    ("MobileNetV2ForImageClassification", "mobilenet_v2.conv_1x1", _mobilenet_head),
    ("EfficientNetForImageClassification", "efficientnet.encoder.top_activation", _efficientnet_head),
    ("SwinForImageClassification", "swin.layernorm", _swin_head),
]
for _name, _target, _head in _POOLED:
    register_architecture(_name, _target, partial(_pooled_split, head=_head))

# --- Families of plain vision transformers --------------------------------------------------------------------------
#
# The target is the input norm of the last block: at the final norm the patches' gradient is exactly zero wherever the
# classifier reads the class token alone.


def _patch_grid(model: nn.Module, pixel_values: torch.Tensor, prefix_tokens: int) -> Grid:
    patches = config_patches(model, *pixel_values.shape[-2:])
    assert patches is not None
    return Grid(*patches, "tokens", prefix_tokens)


def _vit_layers(model: nn.Module) -> nn.ModuleList:
    return model.base_model.layers


def _last_block_norm(model: nn.Module) -> str:
    return f"{model.base_model_prefix}.layers.{len(_vit_layers(model)) - 1}.layernorm_before"


def _vit_split(
    model: nn.Module,
    inputs: Mapping[str, Any],
    classify: Callable[[nn.Module, torch.Tensor], torch.Tensor],
    prefix_tokens: int,
) -> Split:
    """ViT and DeiT. `classify(model, tokens)` gives the logits from the first `prefix_tokens` tokens."""
    require_inputs(inputs, "interpolate_pos_encoding")
    backbone = model.base_model
    pixel_values = inputs["pixel_values"].to(backbone.embeddings.patch_embeddings.projection.weight.dtype)
    hidden = backbone.embeddings(**{**inputs, "pixel_values": pixel_values})
    *blocks, last = backbone.layers
    for block in blocks:
        hidden = block(hidden)

    def feed_forward(tokens: torch.Tensor) -> torch.Tensor:
        return last.dropout(last.mlp(last.layernorm_after(tokens)))

    def attention(tokens: torch.Tensor) -> torch.Tensor:
        return last.dropout(transformers_attention(last.attention, tokens, prefix_tokens))

    block = vit_block(hidden, prefix_tokens, attention, feed_forward)
    return Split(
        last.layernorm_before(hidden),
        lambda tokens: classify(model, backbone.layernorm(block(tokens))),
        _patch_grid(model, pixel_values, prefix_tokens),
    )


def _class_token(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return model.classifier(tokens[:, 0])


def _class_and_distillation_token(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return (model.cls_classifier(tokens[:, 0]) + model.distillation_classifier(tokens[:, 1])) / 2


register_architecture(
    "ViTForImageClassification", _last_block_norm, partial(_vit_split, classify=_class_token, prefix_tokens=1)
)
register_architecture(
    "DeiTForImageClassification", _last_block_norm, partial(_vit_split, classify=_class_token, prefix_tokens=2)
)
register_architecture(
    "DeiTForImageClassificationWithTeacher",
    _last_block_norm,
    partial(_vit_split, classify=_class_and_distillation_token, prefix_tokens=2),
)


def _dinov2_target(model: nn.Module) -> str:
    return f"dinov2.encoder.layer.{len(model.dinov2.encoder.layer) - 1}.norm1"


def _dinov2_split(model: nn.Module, inputs: Mapping[str, Any]) -> Split:
    """DINOv2 classifies from the class token and the patches' mean, so its last block is computed for every token."""
    pixel_values = require_inputs(inputs)
    backbone = model.dinov2
    hidden = backbone.embeddings(pixel_values)
    *blocks, last = backbone.encoder.layer
    for block in blocks:
        hidden = block(hidden)

    def attention(tokens: torch.Tensor) -> torch.Tensor:
        return last.drop_path(last.layer_scale1(transformers_attention(last.attention, tokens, None)))

    def feed_forward(tokens: torch.Tensor) -> torch.Tensor:
        return last.drop_path(last.layer_scale2(last.mlp(last.norm2(tokens))))

    block = vit_block(hidden, None, attention, feed_forward)

    def head(tokens: torch.Tensor) -> torch.Tensor:
        features = backbone.layernorm(block(tokens))
        return model.classifier(torch.cat([features[:, 0], features[:, 1:].mean(1)], dim=1))

    return Split(last.norm1(hidden), head, _patch_grid(model, pixel_values, 1))


register_architecture("Dinov2ForImageClassification", _dinov2_target, _dinov2_split)


def _beit_target(model: nn.Module) -> str:
    last = f"beit.layers.{len(model.beit.layers) - 1}"
    return last if model.config.use_mean_pooling else f"{last}.layernorm_before"


def _beit_split(model: nn.Module, inputs: Mapping[str, Any]) -> Split:
    pixel_values = require_inputs(inputs, "interpolate_pos_encoding")
    grid = _patch_grid(model, pixel_values, 1)
    backbone = model.beit
    if model.config.use_mean_pooling:
        features = backbone(**inputs).last_hidden_state
        return Split(features, lambda tokens: model.classifier(backbone.pooler(tokens)), grid)

    hidden = backbone.embeddings(pixel_values)
    interpolate = bool(inputs.get("interpolate_pos_encoding"))
    window = {"interpolate_pos_encoding": interpolate, "dim_size": hidden.shape[1]}
    shared = backbone.shared_position_bias
    bias = None if shared is None else shared((grid.height, grid.width), **window)
    *blocks, last = backbone.layers
    for block in blocks:
        hidden = block(
            hidden, attention_mask=bias, interpolate_pos_encoding=interpolate, resolution=pixel_values.shape[2:]
        )
    if last.relative_position_bias is not None:
        own = last.relative_position_bias((grid.height, grid.width), **window)
        bias = own if bias is None else bias + own

    def attention(tokens: torch.Tensor) -> torch.Tensor:
        return last.drop_path(last.lambda_1 * last.dropout(transformers_attention(last.attention, tokens, 1, bias)))

    def feed_forward(tokens: torch.Tensor) -> torch.Tensor:
        return last.drop_path(last.lambda_2 * last.dropout(last.mlp(last.layernorm_after(tokens))))

    block = vit_block(hidden, 1, attention, feed_forward)
    return Split(
        last.layernorm_before(hidden),
        lambda tokens: model.classifier(backbone.pooler(backbone.layernorm(block(tokens)))),
        grid,
    )


register_architecture("BeitForImageClassification", _beit_target, _beit_split)

# --- Perceivers -----------------------------------------------------------------------------------------------------
#
# Their latents have no place in the image, so the target is the last layer before these.

for _name, _target in (
    ("Learned", "input_preprocessor.convnet_1x1"),
    ("Fourier", "encoder.cross_attention.attention.self.layernorm2"),
    ("ConvProcessing", "input_preprocessor.convnet"),
):
    register_architecture(f"PerceiverForImageClassification{_name}", f"perceiver.{_target}")
