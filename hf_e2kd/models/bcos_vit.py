"""B-cos vision transformers: a simple ViT (no class token, fixed position embedding, mean over the patches).

Features keep the image's grid, (B, h, w, C). Attention is computed in the open, because fused kernels have no double
backward. Its weights are a scaling like the others: held through the queries and keys that they are made of.
"""

import math
from collections import OrderedDict
from functools import partial

import torch
from torch import nn
from transformers import initialization as init

from ..architectures.attention import attend
from .bcos import BcosConv2d, BcosLinear, BiaslessNorm, holdable
from .bcos_base import BcosConfig, BcosPreTrainedModel


class BcosViTConfig(BcosConfig):
    """Sizes of a B-cos ViT; ViT-Ti/16 by default.

    Args:
        hidden_size: Channels, a multiple of 4 and of the heads.
        num_hidden_layers, num_attention_heads, intermediate_size: Sizes with the meaning of transformers' ViT.
        image_size: Pixels of the images that the model is meant for. It takes others: the position embedding is a
            function of the grid.
        patch_size: Pixels of a patch's side; behind a convolutional stem, places of the stem's grid.
        conv_stem: Channels of the stem's 3×3 convolutions, each of which halves the grid where channels grow; None
            cuts the image itself in patches.
    """

    model_type = "bcos_vit"

    hidden_size: int = 192
    num_hidden_layers: int = 12
    num_attention_heads: int = 3
    intermediate_size: int = 768
    image_size: int = 224
    patch_size: int = 16
    conv_stem: list[int] | tuple[int, ...] | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.hidden_size % 4 or self.hidden_size < 8 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of 4, at least 8, and of the {self.num_attention_heads} heads, not "
                f"{self.hidden_size}."
            )


class _Patches(nn.Module):
    """Patches of images: (B, C, H, W) → (B, h, w, patch · patch · C), the channels varying fastest."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        height, width = features.shape[-2:]
        if height % self.size or width % self.size:
            raise ValueError(f"{height}×{width} places can't be cut in patches of {self.size}×{self.size}.")
        cut = features.unflatten(3, (-1, self.size)).unflatten(2, (-1, self.size))
        return cut.permute(0, 2, 4, 3, 5, 1).flatten(3)


def _conv_stem(widths: list[int] | tuple[int, ...], max_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 6
    for width in widths:
        convolution = BcosConv2d(channels, width, 3, stride=2 if width > channels else 1, padding=1, max_out=max_out)
        # The identity stands where other networks have an activation, for the names of the parameters.
        layers += [convolution, BiaslessNorm(width, "image"), nn.Identity()]
        channels = width
    return nn.Sequential(*layers)


class PositionEmbedding(nn.Module):
    """Add sines and cosines of the rows and columns to (B, h, w, C). No share of W(x): it doesn't depend on x."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        height, width, channels = features.shape[1:]
        exponents = torch.arange(channels // 4, device=features.device) / (channels // 4 - 1)
        frequencies = 10_000.0**-exponents
        rows = (torch.arange(height, device=features.device)[:, None] * frequencies)[:, None].expand(-1, width, -1)
        columns = (torch.arange(width, device=features.device)[:, None] * frequencies)[None].expand(height, -1, -1)
        embedding = torch.cat([columns.sin(), columns.cos(), rows.sin(), rows.cos()], dim=-1)
        return features + embedding.to(features.dtype)


class _Attention(nn.Module):
    def __init__(self, config: BcosViTConfig):
        super().__init__()
        self.head_size = config.hidden_size // config.num_attention_heads
        self.norm = BiaslessNorm(config.hidden_size)
        self.to_qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.to_out = BcosLinear(config.hidden_size, config.hidden_size, config.max_out)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        projected = self.to_qkv(self.norm(features)).flatten(1, 2).unflatten(-1, (3, -1, self.head_size))
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = attend(holdable(query), holdable(key), value, scale=self.head_size**-0.5)
        return self.to_out(mixed.unflatten(1, features.shape[1:3]))


class _FeedForward(nn.Module):
    def __init__(self, config: BcosViTConfig):
        super().__init__()
        linear = partial(BcosLinear, max_out=config.max_out)
        self.net = nn.Sequential(
            OrderedDict(
                norm=BiaslessNorm(config.hidden_size),
                linear1=linear(config.hidden_size, config.intermediate_size),
                linear2=linear(config.intermediate_size, config.hidden_size),
            )
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.net(features)


class _Encoder(nn.Module):
    def __init__(self, config: BcosViTConfig):
        super().__init__()
        self.attn = _Attention(config)
        self.ff = _FeedForward(config)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        features = features + self.attn(features)
        return features + self.ff(features)


class BcosViTForImageClassification(BcosPreTrainedModel):
    """A B-cos ViT that classifies the mean of its patches."""

    config_class = BcosViTConfig
    _no_split_modules = ["_Encoder"]

    def __init__(self, config: BcosViTConfig):
        super().__init__(config)
        embedding: OrderedDict[str, nn.Module] = OrderedDict()
        if config.conv_stem is not None:
            embedding["conv_stem"] = _conv_stem(config.conv_stem, config.max_out)
        channels = 6 if config.conv_stem is None else config.conv_stem[-1]
        embedding["patches"] = _Patches(config.patch_size)
        embedding["linear"] = BcosLinear(config.patch_size**2 * channels, config.hidden_size, config.max_out)
        self.to_patch_embedding = nn.Sequential(embedding)
        self.positional_embedding = PositionEmbedding()
        encoders = OrderedDict((f"encoder_{n}", _Encoder(config)) for n in range(config.num_hidden_layers))
        self.transformer = nn.Sequential(encoders)
        self.linear_head = nn.Sequential(
            OrderedDict(
                norm=BiaslessNorm(config.hidden_size),
                linear=BcosLinear(config.hidden_size, config.num_labels, config.max_out),
            )
        )
        self.post_init()

    def _features(self, channels: torch.Tensor) -> torch.Tensor:
        return self.transformer(self.positional_embedding(self.to_patch_embedding(channels)))

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        return self.logit_layer(self.linear_head(features.mean((1, 2))))

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Conv2d):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
        elif isinstance(module, BiaslessNorm):
            init.ones_(module.weight)
