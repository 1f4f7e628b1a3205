"""What the families of image classifiers share: patches of pixels."""

import torch
from torch import nn
from torch.nn import functional as F

from ..grids import Grid
from .operations import Pullback, active
from .refusals import TransposeError


def patch_pullback(projection: nn.Module, pixels: torch.Tensor, grid: Grid, dropout: nn.Module) -> Pullback:
    """Make the pullback of patch embeddings to the pixels.

    Args:
        projection: Convolution of the patches.
        pixels: Pixels (B, channels, H, W).
        grid: Layout of the tokens. Its patches may leave out the last pixels, or reach beyond them into padding.
        dropout: What the model drops of the embeddings.
    """

    def pullback(cotangent: torch.Tensor) -> torch.Tensor:
        if active(dropout):
            raise TransposeError(
                "Which embeddings of patches were dropped isn't known, so their relevance can't be handed on to the "
                "pixels. Explain the activation behind them by layer=0, or train without this dropout."
            )
        if not isinstance(projection, nn.Conv2d):
            raise TransposeError(
                f"Relevance is handed on to pixels through a convolution of patches, and here is a "
                f"{type(projection).__name__}. Explain the activation behind it by layer=0."
            )
        height, width = pixels.shape[-2:]
        patches = grid.cells(cotangent).permute(0, 3, 1, 2)
        back = F.conv_transpose2d(patches, projection.weight, stride=projection.stride)
        return F.pad(back, (0, width - back.shape[-1], 0, height - back.shape[-2]))

    return pullback
