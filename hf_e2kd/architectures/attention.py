"""The last block of a vision transformer as a function of its normalised input.

Attention is computed in the open (matrix product, softmax) instead of by a fused kernel, because the fused kernels have
no double backward. Only the tokens that the classifier reads are computed: with the class token alone the block is
cheaper than the model's own, and its output for those tokens is the same.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    dropout: float = 0.0,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Softmax attention with any number of derivatives.

    Args:
        query: (B, heads, read, d). key, value: (B, heads, tokens, d).
        scale: Factor on the products.
        dropout: Probability with which a weight is dropped; 0 outside training.
        bias: Added to the scaled products, broadcast to (B, heads, read, tokens).

    Returns:
        (B, read, heads · d).
    """
    scores = query @ key.transpose(-2, -1) * scale
    if bias is not None:
        scores = scores + bias
    weights = F.dropout(scores.softmax(dim=-1), dropout, training=dropout > 0)
    return (weights @ value).transpose(1, 2).flatten(2)


def transformers_attention(
    attention: nn.Module, tokens: torch.Tensor, read: int | None, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention of transformers' ViT families, output for the first `read` tokens (all where None)."""

    def heads(projected: torch.Tensor) -> torch.Tensor:
        return projected.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

    mixed = attend(
        heads(attention.q_proj(tokens[:, :read])),
        heads(attention.k_proj(tokens)),
        heads(attention.v_proj(tokens)),
        scale=attention.scaling,
        dropout=attention.attention_dropout if attention.training else 0.0,
        bias=None if bias is None else bias[..., :read, :],
    )
    return attention.o_proj(mixed)


def timm_attention(attention: nn.Module, tokens: torch.Tensor, read: int | None) -> torch.Tensor:
    """Attention of timm's `Attention`, output for the first `read` tokens (all where None)."""
    qkv = attention.qkv(tokens).unflatten(-1, (3, attention.num_heads, attention.head_dim)).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)
    mixed = attend(
        attention.q_norm(query[:, :, :read]),
        attention.k_norm(key),
        value,
        scale=attention.scale,
        dropout=attention.attn_drop.p if attention.training else 0.0,
    )
    return attention.proj_drop(attention.proj(attention.norm(mixed)))


def vit_block(
    residual: torch.Tensor,
    read: int | None,
    attention: Callable[[torch.Tensor], torch.Tensor],
    feed_forward: Callable[[torch.Tensor], torch.Tensor],
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A pre-norm block as a function of its normalised input, for the first `read` tokens (all where None).

    Args:
        residual: (B, tokens, C), the block's own input.
        attention: (B, tokens, C) → (B, read, C), what is added to the residual.
        feed_forward: (B, read, C) → (B, read, C), likewise.
    """

    def block(normalised: torch.Tensor) -> torch.Tensor:
        hidden = residual[:, :read] + attention(normalised)
        return hidden + feed_forward(hidden)

    return block
