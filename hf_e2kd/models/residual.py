"""Residual stages, as ResNets of several kinds build them."""

from collections.abc import Callable
from typing import Any

from torch import nn

Convolution = tuple[int, int, int, int]
"""Channels in, channels out, kernel size and stride."""


def _basic(inputs: int, width: int, stride: int) -> list[Convolution]:
    return [(inputs, width, 3, stride), (width, width, 3, 1)]


def _bottleneck(inputs: int, width: int, stride: int) -> list[Convolution]:
    return [(inputs, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1)]


RESIDUAL_BLOCKS = {"basic": _basic, "bottleneck": _bottleneck}
"""A block's convolutions by channels in, width and stride."""


def check_layer_type(layer_type: str) -> None:
    """Refuse an unknown kind of block.

    Raises:
        ValueError: listing the known ones.
    """
    if layer_type not in RESIDUAL_BLOCKS:
        raise ValueError(f"layer_type must be one of {sorted(RESIDUAL_BLOCKS)}, not '{layer_type}'.")


def residual_stages(
    config: Any, make_block: Callable[[list[Convolution]], nn.Module]
) -> tuple[list[nn.Sequential], int]:
    """The stages of a ResNet, each after the first at half the resolution and twice the width, and their last channels.

    Args:
        config: Configuration with `depths`, `layer_type` and `embedding_size`.
        make_block: Function that makes a block of its convolutions.
    """
    channels, stages = config.embedding_size, []
    for stage, depth in enumerate(config.depths):
        blocks = []
        for number in range(depth):
            stride = 2 if stage > 0 and number == 0 else 1
            convolutions = RESIDUAL_BLOCKS[config.layer_type](channels, config.embedding_size * 2**stage, stride)
            channels = convolutions[-1][1]
            blocks.append(make_block(convolutions))
        stages.append(nn.Sequential(*blocks))
    return stages, channels
