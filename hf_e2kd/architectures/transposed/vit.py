"""ViT, DeiT and DINOv2 of transformers, opened for a transposed pass."""

from collections.abc import Mapping
from typing import Any

import torch

from ..base import require_inputs
from ..grids import Grid, config_patches
from .attention import Attention
from .blocks import (
    Layer,
    by_activation,
    by_both,
    by_factor,
    by_gate,
    by_linear,
    by_mean,
    by_norm,
    by_token,
    chain,
    followed,
    in_turn,
    pre_norm_block,
)
from .families import Embedded, Family, Move, register_family
from .images import patch_pullback
from .operations import Step, affine
from .rules import Rules


class ViT(Family):
    """ViT: norms in front, a class token."""

    prefix = 1

    @property
    def blocks(self) -> dict[str, Any]:
        prefix = self.model.base_model_prefix
        return {f"{prefix}.layers.{number}": layer for number, layer in enumerate(self.model.base_model.layers)}

    def embed(self, inputs: Mapping[str, Any], rules: Rules, move: Move) -> Embedded:
        pixels = move(require_inputs(inputs, "interpolate_pos_encoding"))
        embeddings = self.model.base_model.embeddings
        projection = embeddings.patch_embeddings.projection
        hidden = embeddings(**{**inputs, "pixel_values": pixels.to(projection.weight.dtype)})
        patches = config_patches(self.model, *pixels.shape[-2:])
        assert patches is not None
        grid = Grid(*patches, "tokens", self.prefix)
        return Embedded(hidden, pixels, patch_pullback(projection, pixels, grid, embeddings.dropout), grid=grid)

    def run(self, block: Any, hidden: torch.Tensor, context: Any) -> torch.Tensor:
        return block(hidden)

    def open(self, block: Any, hidden: torch.Tensor, context: Any, read: int | None, rules: Rules) -> Step:
        attend = followed(opened_attention(block.attention), by_factor(block.dropout))
        feed_forward = in_turn(opened_mlp(block.mlp), by_factor(block.dropout))
        return pre_norm_block(hidden, read, rules, block.layernorm_before, attend, block.layernorm_after, feed_forward)

    def classify(self, tokens: torch.Tensor, context: Any, rules: Rules) -> Step:
        return chain(tokens, rules, [by_norm(self.model.base_model.layernorm), *self.head()])

    def head(self) -> list[Layer]:
        """List the classifier's layers behind the last norm."""
        return [by_token(0), by_linear(self.model.classifier)]


def opened_attention(own: Any) -> Attention:
    """Open the attention of transformers' vision models."""
    return Attention(
        affine(own.q_proj),
        affine(own.k_proj),
        affine(own.v_proj),
        affine(own.o_proj),
        head_dim=own.head_dim,
        scale=own.scaling,
        dropout=own.attention_dropout if own.training else 0.0,
    )


def opened_mlp(mlp: Any) -> Layer:
    """Open the feed-forward part of transformers' vision models, gated or not."""
    if hasattr(mlp, "gate_proj"):
        return in_turn(by_gate(mlp.act_fn, affine(mlp.gate_proj), affine(mlp.up_proj)), by_linear(mlp.down_proj))
    return in_turn(by_linear(mlp.fc1), by_activation(mlp.activation_fn), by_linear(mlp.fc2))


class DeiT(ViT):
    """DeiT: a distillation token beside the class token, which its plain classifier doesn't read."""

    prefix = 2


class DeiTWithTeacher(DeiT):
    """DeiT with both of its classifiers, whose mean it gives."""

    read = 2

    def head(self) -> list[Layer]:
        classes = in_turn(by_token(0), by_linear(self.model.cls_classifier))
        return [by_both(classes, in_turn(by_token(1), by_linear(self.model.distillation_classifier)), share=0.5)]


class Dinov2(ViT):
    """DINOv2: scaled layers; the class token and the patches' mean are read."""

    read = None

    @property
    def blocks(self) -> dict[str, Any]:
        layers = self.model.dinov2.encoder.layer
        return {f"dinov2.encoder.layer.{number}": layer for number, layer in enumerate(layers)}

    def open(self, block: Any, hidden: torch.Tensor, context: Any, read: int | None, rules: Rules) -> Step:
        scaled = by_factor(block.layer_scale1), by_factor(block.drop_path)
        attend = followed(opened_attention(block.attention), *scaled)
        feed_forward = in_turn(opened_mlp(block.mlp), by_factor(block.layer_scale2), by_factor(block.drop_path))
        return pre_norm_block(hidden, read, rules, block.norm1, attend, block.norm2, feed_forward)

    def head(self) -> list[Layer]:
        return [by_both(by_token(0), by_mean(1)), by_linear(self.model.classifier)]


register_family("ViTForImageClassification", ViT)
register_family("DeiTForImageClassification", DeiT)
register_family("DeiTForImageClassificationWithTeacher", DeiTWithTeacher)
register_family("Dinov2ForImageClassification", Dinov2)
