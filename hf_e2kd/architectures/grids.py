"""Layouts of activations in space: feature maps, and the patch tokens of an image with the tokens before them."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

MOST_PREFIX_TOKENS = 7
"""Class, distillation and register tokens stand before the patches or words, and are no more than these."""


@dataclass(frozen=True)
class Grid:
    """The layout of an activation in space.

    Args:
        height, width: Numbers of the grid's rows and columns.
        layout: `"nchw"` (B, C, h, w), `"nhwc"` (B, h, w, C) or `"tokens"` (B, prefix + h·w, C).
        prefix_tokens: Tokens before the patches (class, distillation and register tokens).
    """

    height: int
    width: int
    layout: Literal["nchw", "nhwc", "tokens"] = "nchw"
    prefix_tokens: int = 0

    def cells(self, activation: torch.Tensor) -> torch.Tensor:
        """Arrange an activation as (B, h, w, C), without its prefix tokens."""
        if self.layout == "nchw":
            return activation.movedim(1, -1)
        if self.layout == "nhwc":
            return activation
        return activation[:, self.prefix_tokens :].unflatten(1, (self.height, self.width))


def token_grid(tokens: int, height: int, width: int) -> tuple[int, int]:
    """The grid (h, w) of `tokens` patches of a `height` × `width` image whose patches are square.

    Raises:
        ValueError: no such grid exists.
    """
    rows = round((tokens * height / width) ** 0.5)
    if rows == 0 or tokens % rows or abs(tokens // rows * height - rows * width) > max(height, width):
        raise ValueError(f"{tokens} tokens can't be laid out as the grid of an image of {height}×{width} pixels.")
    return rows, tokens // rows


def config_patches(model: nn.Module, height: int, width: int) -> tuple[int, int] | None:
    """The whole patches (h, w) of an image, by the configuration's `patch_size`; None where it states none.

    Args:
        model: A model of transformers.
        height, width: Size of the image in pixels.
    """
    patch = getattr(getattr(model, "config", None), "patch_size", None)
    if patch is None:
        return None
    patch_height, patch_width = (patch, patch) if isinstance(patch, int) else patch
    return height // patch_height, width // patch_width


def grid_of(activation: torch.Tensor, height: int, width: int) -> Grid | None:
    """The layout of an activation of an image of `height` × `width` pixels; None where it has no spatial grid.

    Tokens are taken to be (B, prefix + h·w, C) with the h:w nearest to the image's shape, and the fewest prefix tokens.
    """
    if activation.ndim == 4:
        _, first, second, last = activation.shape
        # Where both fit, as with 96 channels of 128×170 places, channels come first, as in most models.
        channels_last = _fits(first, second, height, width) and not _fits(second, last, height, width)
        grid = Grid(first, second, "nhwc") if channels_last else Grid(second, last)
        return grid if min(grid.height, grid.width) > 1 else None
    if activation.ndim != 3 or activation.shape[2] == 1:  # a pooled map (B, C, 1) is no row of tokens
        return None
    grids = []
    for prefix in range(min(MOST_PREFIX_TOKENS, activation.shape[1] - 4) + 1):
        try:
            rows, columns = token_grid(activation.shape[1] - prefix, height, width)
        except ValueError:
            continue
        # What keeps no place in the image, a Perceiver's latents, say, mostly has no count that makes a square.
        if min(rows, columns) > 1 and (height != width or rows == columns):
            grids.append(Grid(rows, columns, "tokens", prefix))
    return min(grids, key=lambda grid: abs(grid.height * width - grid.width * height), default=None)


def _fits(rows: int, columns: int, height: int, width: int) -> bool:
    """Tell whether a grid has an image's shape, up to a rounded row or column."""
    return abs(rows * width - columns * height) <= max(height, width)
