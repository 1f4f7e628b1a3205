"""Maps of different resolutions, on one grid."""

from functools import lru_cache

import torch
from torch.nn import functional as F

from .precision import at_least_float32


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
    if matrix.device.type == "cpu":  # a GPU computes unused borders faster than it tells which are
        used = matrix.any(-1).any(0)
        used[:2] = True
        matrix = matrix[:, used]
    # In half precision, places would be off by a part of a cell.
    with torch.autocast(maps.device.type, enabled=False):
        matrix = matrix.to(planes)
        unmoved = torch.eye(2, 3).to(planes)
        own = F.affine_grid(unmoved[None], [1, 1, *size], align_corners=False)
        places = F.pad(own, (0, 1), value=1.0) @ matrix[:, None].mT
        sampled = F.grid_sample(planes, places[..., :2], mode="bilinear", padding_mode="border", align_corners=False)
    is_moved = (matrix[:, :2] - unmoved).abs().flatten(1).amax(1) > 1e-6
    sampled = torch.where(is_moved[:, None, None, None], sampled, resize_maps(planes, size))
    return sampled.reshape(*maps.shape[:-2], *size), places.abs().amax(-1) <= 1


def common_size(first: torch.Tensor, second: torch.Tensor) -> tuple[int, int]:
    """The larger of two maps' grids, side by side."""
    return max(first.shape[-2], second.shape[-2]), max(first.shape[-1], second.shape[-1])


def to_common_grid(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring maps (..., h, w) and (..., h', w') to the larger of both grids, side by side, bilinear."""
    size = common_size(first, second)
    return resize_maps(first, size), resize_maps(second, size)


@lru_cache(maxsize=64)
def enlargement_matrix(
    cells: int, pixels: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> torch.Tensor:
    """Matrix U of the bilinear enlargement along one side.

    `U_h @ maps @ U_w.T` is `resize_maps(maps, (H, W))`, with U_h of (h, H) and U_w of (w, W).

    Args:
        cells, pixels: Number of cells before and after.

    Returns:
        (pixels, cells).

    Example:
        >>> enlargement_matrix(1, 2)
        tensor([[1.],
                [1.]])
    """
    # Cached tensors must serve a training too, if the first call is made in inference mode.
    with torch.inference_mode(False):
        unit = torch.eye(cells, dtype=torch.float64, device="cpu")
        rows = F.interpolate(unit[None], size=pixels, mode="linear", align_corners=False)[0]
        return rows.mT.contiguous().to(device, dtype)


def enlarged_coordinates(
    first: torch.Tensor, second: torch.Tensor, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates of two enlarged maps in one orthonormal basis of the enlargements, without enlarging them.

    The enlarged maps U_h x U_wᵀ and V_h y V_wᵀ lie in a small space: that of the columns of U_h and V_h times that of
    U_w and V_w. An orthonormal basis Q of such columns (a QR decomposition) keeps inner products and norms, so that
    cosines and mean squares of the coordinates (QᵀU_h) x (QᵀU_w)ᵀ are those of the enlarged maps: exact, as by the Gram
    matrices UᵀU and VᵀU, and without the cancellation of 2 − 2 cos for maps that are almost equal. The basis begins
    with the constant map, so that the coordinate [0, 0] alone holds a map's mean.

    Args:
        first, second: Maps (..., h, w) and (..., h', w').
        size: Rows and columns of the enlarged maps.

    Returns:
        (..., m, n) of each in at least float32, with m at most the smaller of h + h' + 1 and the size's rows, and n
        likewise.

    Example:
        >>> maps = torch.tensor([[[2.0, 2.0]]])
        >>> first, second = enlarged_coordinates(maps, maps, (1, 8))
        >>> first.square().sum().round()  # eight pixels of 2
        tensor(32.)
    """
    first, second = at_least_float32(first), at_least_float32(second)
    (rows, rows_second), (columns, columns_second) = (
        _coordinates(first.shape[axis], second.shape[axis], pixels, first.dtype, first.device)
        for axis, pixels in zip((-2, -1), size, strict=True)
    )
    with torch.autocast(first.device.type, enabled=False):
        return rows @ first @ columns.mT, rows_second @ second.to(first.dtype) @ columns_second.mT


@lru_cache(maxsize=64)
def _coordinates(
    cells: int, other_cells: int, pixels: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrices from the cells of two maps' sides to the coordinates of the enlarged sides in one orthonormal basis."""
    with torch.inference_mode(False):
        sides = [enlargement_matrix(count, pixels, torch.float64) for count in (cells, other_cells)]
        columns = sides[:1] if cells == other_cells else sides
        constant = torch.ones(pixels, 1, dtype=torch.float64, device="cpu")
        basis = torch.linalg.qr(torch.cat([constant, *columns], dim=1)).Q
        first, second = ((basis.mT @ side).to(device, dtype) for side in sides)
    return first, second
