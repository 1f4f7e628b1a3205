"""What the families of image classifiers share: patches of pixels."""

import torch
from torch import nn
from torch.nn import functional as F

from .operations import Pullback, active


def patch_pullback(projection: nn.Module, pixels: torch.Tensor, prefix: int, dropout: nn.Module) -> Pullback:
    """Make the pullback of patch embeddings, behind `prefix` other tokens, to the pixels.

    Args:
        projection: Convolution of the patches.
        pixels: Pixels (B, channels, H, W).
        dropout: What the model drops of the embeddings.
    """

    def pullback(cotangent: torch.Tensor) -> torch.Tensor:
        if active(dropout):
            raise ValueError(
                "Which embeddings of patches were dropped isn't known, so their relevance can't be handed on to the "
                "pixels. Explain the activation behind them by layer=0, or train without this dropout."
            )
        if not isinstance(projection, nn.Conv2d):
            raise ValueError(
                f"Relevance is handed on to pixels through a convolution of patches, and here is a "
                f"{type(projection).__name__}. Explain the activation behind it by layer=0."
            )
        height, width = pixels.shape[-2:]
        rows, columns = (size // step for size, step in zip((height, width), projection.stride, strict=True))
        patches = cotangent[:, prefix:].transpose(1, 2).unflatten(2, (rows, columns))
        back = F.conv_transpose2d(patches, projection.weight, stride=projection.stride)
        return F.pad(back, (0, width - back.shape[-1], 0, height - back.shape[-2]))

    return pullback
