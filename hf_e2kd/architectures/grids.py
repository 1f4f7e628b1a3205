"""Layouts of activations in space: feature maps, and the patch tokens of an image with the tokens before them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
        order: Places of the patches, row by row, among the tokens behind the prefix; empty where they stand so.
    """

    height: int
    width: int
    layout: Literal["nchw", "nhwc", "tokens"] = "nchw"
    prefix_tokens: int = 0
    order: tuple[int, ...] = ()

    def cells(self, activation: torch.Tensor) -> torch.Tensor:
        """Arrange an activation as (B, h, w, C), without its prefix tokens."""
        if self.layout == "nchw":
            return activation.movedim(1, -1)
        if self.layout == "nhwc":
            return activation
        patches = activation[:, self.prefix_tokens :]
        if self.order:
            patches = patches[:, list(self.order)]
        return patches.unflatten(1, (self.height, self.width))


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
    config = getattr(model, "config", None)
    # That of CLIP's and SigLIP's classifiers holds one of texts beside one of images.
    patch = getattr(config, "patch_size", None) or getattr(getattr(config, "vision_config", None), "patch_size", None)
    if patch is None:
        return None
    patch_height, patch_width = (patch, patch) if isinstance(patch, int) else patch
    return height // patch_height, width // patch_width


def layer_grid(model: nn.Module, path: str, activation: torch.Tensor, height: int, width: int) -> Grid | None:
    """The layout of what the layer at a path gives for an image of `height` × `width` pixels, as the model states it.

    Where it states nothing, `grid_of` reads it off the shape, which some sizes leave open.
    """
    inner = _inner(model)
    if activation.ndim == 3 and activation.shape[2] > 1:  # a pooled map (B, C, 1) is no row of tokens
        windows = None if "embed" in path else _windows(inner, activation.shape[1], height, width)
        grid = windows or stated_grid(model, activation.shape[1], height, width)
        if grid is not None:
            return grid
    if activation.ndim == 4 and getattr(inner, "output_fmt", "") == "NHWC":
        rows, columns = activation.shape[1:3]
        if min(rows, columns) > 1 and _fits(rows, columns, height, width):
            return Grid(rows, columns, "nhwc")
    return grid_of(activation, height, width)


def stated_grid(model: nn.Module, tokens: int, height: int, width: int) -> Grid | None:
    """The layout of an image's tokens, by the size of the model's patches; None where that doesn't fit."""
    inner = _inner(model)
    config: Any = getattr(inner, "config", None)
    embed: Any = getattr(inner, "patch_embed", None)
    if hasattr(config, "depths") and isinstance(getattr(config, "patch_size", None), int):
        # Swin and its like pad, and merge two by two.
        rows, columns = -(-height // config.patch_size), -(-width // config.patch_size)
        while rows * columns > tokens and max(rows, columns) > 1:
            rows, columns = -(-rows // 2), -(-columns // 2)
        return Grid(rows, columns, "tokens") if rows * columns == tokens and min(rows, columns) > 1 else None
    if hasattr(embed, "dynamic_feat_size"):
        patches = embed.dynamic_feat_size((height, width))
    else:
        patches = config_patches(inner, height, width)
    if patches is None or min(patches) < 2:
        return None
    rows, columns = patches
    before = tokens - rows * columns
    return Grid(rows, columns, "tokens", before) if 0 <= before <= MOST_PREFIX_TOKENS else None


def _inner(model: nn.Module) -> Any:
    """The part of a composed model that is explained, and of transformers' wrapper timm's model; others as they are."""
    part = getattr(model, "explained_part", None)
    inner = model if part is None else model.get_submodule(part)
    return getattr(inner, "timm_model", inner)


def _windows(inner: Any, tokens: int, height: int, width: int) -> Grid | None:
    """The layout of Hiera's tokens, which stand window by window until the last pooling; None of other models."""
    inner = getattr(inner, "hiera", inner)
    if type(inner).__name__ == "HieraModel":
        stride, poolings = inner.config.patch_stride, inner.unroll_schedule
    elif type(inner).__name__ == "Hiera":
        stride, poolings = inner.patch_stride, inner.unroll.schedule
    else:
        return None
    rows, columns = height // stride[0], width // stride[1]
    # What isn't pooled in the end leaves windows.
    while rows * columns > tokens and poolings:
        (tall, wide), *poolings = poolings
        rows, columns = rows // tall, columns // wide
    if rows * columns != tokens or min(rows, columns) < 2:
        return None
    return Grid(rows, columns, "tokens", order=_window_order(rows, columns, poolings))


def _window_order(rows: int, columns: int, poolings: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Places of the patches, row by row, among tokens that stand as the poolings to come take them together."""
    order = []
    for row in range(rows):
        for column in range(columns):
            window, down, across, height, width = 0, row, column, rows, columns
            for tall, wide in poolings:
                window = (window * tall + down % tall) * wide + across % wide
                down, across, height, width = down // tall, across // wide, height // tall, width // wide
            order.append((window * height + down) * width + across)
    return tuple(order)


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
