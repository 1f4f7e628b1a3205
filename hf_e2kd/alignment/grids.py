"""Maps of different resolutions, on one grid."""

import torch
from torch.nn import functional as F


def resize_maps(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear resampling of maps (..., h, w) to (..., *size); the same maps where the size is theirs already."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    return F.interpolate(flat, size=tuple(size), mode="bilinear", align_corners=False).reshape(*maps.shape[:-2], *size)


def sample_maps(maps: torch.Tensor, matrix: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Read maps at the places that the cells of another view have in theirs, bilinear.

    A view that is not moved gets exactly the maps that `resize_maps` gives.

    Args:
        maps: Maps (B, ..., h, w).
        matrix: Matrix (B, 2 + borders, 3), from (x, y, 1) in the view to (x, y) in the maps; −1 to 1 between the
            edges, x to the right and y down. Where |row · (x, y, 1)| of a further row is above 1, the view is empty.
        size: Rows and columns of the view's cells.

    Returns:
        (B, ..., *size), and which cells lie in the maps and aren't empty, (B, *size) bool; outside, a map is continued
        by its edge.

    Example:
        >>> flip = torch.tensor([[[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
        >>> sample_maps(torch.tensor([[[1.0, 2.0]]]), flip, (1, 2))[0]
        tensor([[[2., 1.]]])
    """
    planes = maps.reshape(len(maps), -1, *maps.shape[-2:])
    # In half precision, places would be off by a part of a cell.
    with torch.autocast(maps.device.type, enabled=False):
        matrix = matrix.to(planes)
        unmoved = torch.eye(2, 3).to(planes)
        own = F.affine_grid(unmoved[None], [1, 1, *size], align_corners=False)
        places = F.pad(own, (0, 1), value=1.0) @ matrix[:, None].mT
        sampled = F.grid_sample(planes, places[..., :2], mode="bilinear", padding_mode="border", align_corners=False)
    is_moved = (matrix[:, :2] - unmoved).abs().flatten(1).amax(1) > 1e-6
    sampled = torch.where(is_moved[:, None, None, None], sampled, resize_maps(planes, size))
    return sampled.reshape(*maps.shape[:-2], *size), (places.abs() <= 1).all(-1)


def common_size(first: torch.Tensor, second: torch.Tensor) -> tuple[int, int]:
    """The larger of two maps' grids, side by side."""
    return max(first.shape[-2], second.shape[-2]), max(first.shape[-1], second.shape[-1])


def to_common_grid(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring maps (..., h, w) and (..., h', w') to the larger of both grids, side by side, bilinear."""
    size = common_size(first, second)
    return resize_maps(first, size), resize_maps(second, size)
