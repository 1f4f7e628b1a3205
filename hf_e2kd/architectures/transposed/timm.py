"""timm's plain vision transformers, bare or in transformers' wrapper, opened for a transposed pass."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..base import require_inputs
from ..grids import Grid
from ..timm import has_plain_blocks, is_timm
from .attention import Attention
from .blocks import (
    Layer,
    by_activation,
    by_both,
    by_factor,
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
from .operations import Step, affine, norm, split_affine
from .rules import Rules


class TimmViT(Family):
    """A VisionTransformer of timm whose classifier reads prefix tokens or a mean."""

    def __init__(self, model: Any):
        super().__init__(model)
        self.bare = getattr(model, "timm_model", model)
        if self.bare.global_pool != "token":
            self.read = None
        elif hasattr(self.bare, "head_dist"):
            self.read = 2

    @property
    def blocks(self) -> dict[str, Any]:
        prefix = "" if self.bare is self.model else "timm_model."
        return {f"{prefix}blocks.{number}": block for number, block in enumerate(self.bare.blocks)}

    def embed(self, inputs: Mapping[str, Any], rules: Rules, move: Move) -> Embedded:
        bare, given = self.bare, move(require_inputs(inputs))
        projection = bare.patch_embed.proj
        pixels = given.to(projection.weight.device, projection.weight.dtype)
        hidden = bare._pos_embed(bare.patch_embed(pixels))
        # Norms of the patches, and of all tokens: identities but in CLIP's kin.
        hidden, pull_norm = norm(bare.norm_pre, hidden, rules)
        rows, columns = bare.patch_embed.dynamic_feat_size(pixels.shape[-2:])
        grid = Grid(rows, columns, "tokens", bare.num_prefix_tokens)
        pull_patches = patch_pullback(projection, pixels, grid, bare.pos_drop)
        return Embedded(hidden, pixels, lambda cotangent: pull_patches(pull_norm(cotangent)), grid=grid)

    def run(self, block: Any, hidden: torch.Tensor, context: Any) -> torch.Tensor:
        return block(hidden)

    def open(self, block: Any, hidden: torch.Tensor, context: Any, read: int | None, rules: Rules) -> Step:
        own = block.attn
        query, key, value = split_affine(own.qkv, 3)
        attention = Attention(
            query,
            key,
            value,
            affine(own.proj),
            head_dim=own.head_dim,
            scale=own.scale,
            dropout=own.attn_drop.p if own.training else 0.0,
            turn_query=lambda query: norm(own.q_norm, query, rules),
            turn_key=lambda key: norm(own.k_norm, key, rules),
        )
        mlp = block.mlp
        attend = followed(attention, by_factor(own.proj_drop), by_factor(block.ls1), by_factor(block.drop_path1))
        feed_forward = in_turn(
            by_linear(mlp.fc1),
            by_activation(mlp.act),
            by_factor(mlp.drop1),
            by_norm(mlp.norm),
            by_linear(mlp.fc2),
            by_factor(mlp.drop2),
            by_factor(block.ls2),
            by_factor(block.drop_path2),
        )
        return pre_norm_block(hidden, read, rules, block.norm1, attend, block.norm2, feed_forward)

    def classify(self, tokens: torch.Tensor, context: Any, rules: Rules) -> Step:
        bare = self.bare
        drop = by_factor(bare.head_drop)
        if hasattr(bare, "head_dist"):
            classes = in_turn(by_token(0), drop, by_linear(bare.head))
            head: Layer = by_both(classes, in_turn(by_token(1), drop, by_linear(bare.head_dist)), share=0.5)
            return chain(tokens, rules, [by_norm(bare.norm), head])
        first = 0 if bare.pool_include_prefix else bare.num_prefix_tokens
        pooling = by_token(0) if bare.global_pool == "token" else by_mean(first)
        return chain(tokens, rules, [by_norm(bare.norm), pooling, by_norm(bare.fc_norm), drop, by_linear(bare.head)])


def _open_timm(model: Any) -> TimmViT | None:
    bare = getattr(model, "timm_model", model)
    return TimmViT(model) if _is_plain(bare) else None


def _is_plain(bare: Any) -> bool:
    """Tell whether a model is what `TimmViT` opens, down to the parts that timm lets be exchanged."""
    return (
        is_timm(bare)
        and has_plain_blocks(bare)
        and bare.global_pool in ("token", "avg")
        and all(type(block.mlp).__name__ == "Mlp" for block in bare.blocks)
        and all(isinstance(block.attn.norm, nn.Identity) for block in bare.blocks)
        and isinstance(bare.patch_drop, nn.Identity)
        and isinstance(bare.patch_embed.norm, nn.Identity)
        and not bare.grad_checkpointing
    )


for _name in ("VisionTransformer", "TimmWrapperForImageClassification"):
    register_family(_name, _open_timm)
