"""How an image's tokens are laid out: the grid of its patches, and the tokens before them."""

import torch
from torch import nn

from ..architectures import grid_of, is_timm
from ..architectures.base import Grid
from ..architectures.timm import token_grid

# Class, distillation and register tokens stand before the patches or words, and are no more than these.
MOST_LEADING_TOKENS = 7


def patch_grid(model: nn.Module, tokens: int, height: int, width: int) -> Grid:
    """How an image's tokens are laid out: as the model says; else with the fewest prefix tokens that leave a grid.

    Raises:
        ValueError: the tokens are no grid of patches.
    """
    if getattr(getattr(model, "config", None), "num_latents", None) == tokens:
        raise ValueError(
            f"{type(model).__name__} attends among {tokens} latents, which have no place in the image. Explain it by "
            "'gradcam' or 'integrated_gradients'."
        )
    bare = next((module for module in model.modules() if is_timm(module)), None)
    prefix = getattr(bare, "num_prefix_tokens", None)
    if prefix is not None:
        return Grid(*token_grid(tokens - prefix, height, width), "tokens", prefix)
    patch = getattr(getattr(model, "config", None), "patch_size", None)
    if patch is not None:
        patch_height, patch_width = (patch, patch) if isinstance(patch, int) else patch
        rows, columns = height // patch_height, width // patch_width
        if 0 <= tokens - rows * columns <= MOST_LEADING_TOKENS:
            return Grid(rows, columns, "tokens", tokens - rows * columns)
    grid = grid_of(torch.empty(1, tokens, tokens, device="meta"), height, width)
    if grid is None:
        raise ValueError(
            f"The {tokens} tokens of {type(model).__name__} are no grid of patches of a {height}×{width} image."
        )
    return grid
