"""Maps of different resolutions, on one grid."""

import torch
from torch.nn import functional as F


def resize_maps(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear resampling of maps (..., h, w) to (..., *size); the same maps where the size is theirs already."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    return F.interpolate(flat, size=tuple(size), mode="bilinear", align_corners=False).reshape(*maps.shape[:-2], *size)


def to_common_grid(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Brings maps (..., h, w) and (..., h', w') to the larger of both grids, side by side, bilinear."""
    size = (max(first.shape[-2], second.shape[-2]), max(first.shape[-1], second.shape[-1]))
    return resize_maps(first, size), resize_maps(second, size)
