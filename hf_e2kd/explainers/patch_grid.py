"""Layout of an image's tokens in a model: the grid of its patches, and the prefix tokens."""

import torch
from torch import nn

from ..architectures import is_timm
from ..architectures.grids import Grid, grid_of, stated_grid, token_grid


def patch_grid(model: nn.Module, tokens: int, height: int, width: int) -> Grid:
    """Find the layout of an image's tokens: as the model states it, or with the fewest prefix tokens that leave a grid.

    Args:
        model: Model whose attention is followed.
        tokens: Number of its tokens.
        height, width: Size of the image in pixels.

    Raises:
        ValueError: the tokens are no grid of patches.
    """
    if getattr(getattr(model, "config", None), "num_latents", None) == tokens:
        raise ValueError(
            f"{type(model).__name__} attends among {tokens} latents, which have no place in the image. Explain it by "
            "'gradcam' or 'integrated_gradients'."
        )
    bare = next((module for module in model.modules() if is_timm(module)), None)
    stated = stated_grid(model if bare is None else bare, tokens, height, width)
    if stated is not None:
        return stated
    prefix = getattr(bare, "num_prefix_tokens", None)
    if prefix is not None:
        return Grid(*token_grid(tokens - prefix, height, width), "tokens", prefix)
    grid = grid_of(torch.empty(1, tokens, tokens, device="meta"), height, width)
    if grid is None:
        raise ValueError(
            f"The {tokens} tokens of {type(model).__name__} are no grid of patches of a {height}×{width} image."
        )
    return grid
