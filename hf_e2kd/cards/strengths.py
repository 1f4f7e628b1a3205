"""Attribution maps as they are drawn: enlarged, scaled and coloured."""

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from ..alignment.grids import resize_maps

if TYPE_CHECKING:
    from matplotlib.colors import ListedColormap

COLORMAP = "viridis"  # ordered in brightness and readable by colour-blind people
DIFFERENCES = "PuOr_r"  # orange where the student is stronger, purple where the teacher is
OPACITY = (0.2, 0.75)  # of the colours over the grey image, from strength 0 to 1: the strongest cells hide most
GREY = (0.299, 0.587, 0.114)  # luma of red, green and blue, ITU-R BT.601

FINE = 56
"""Rows or columns from which a map is fine: its single pixels are too small to be seen, and a few outshine the rest."""
SMOOTHING = 1 / 56
"""Standard deviation of a fine map's smoothing, as a fraction of its longer side: 4 pixels of 224."""
PERCENTILE = 99
"""Percentile of a fine map's positive values, after smoothing, that is drawn as 1."""


def is_fine(maps: Tensor) -> bool:
    """Tell whether maps (..., h, w) are smoothed and clipped for drawing."""
    return max(maps.shape[-2:]) >= FINE


def drawn_strengths(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Strengths from 0 to 1 of maps, at the size of the image.

    A coarse map is enlarged bilinearly, and its positive part divided by its maximum. A fine one, such as saliency at
    each pixel, is smoothed by a Gaussian first, and its positive part divided by its 99th percentile and clipped at 1.

    Args:
        maps: Maps (B, h, w), finite.
        size: Height and width of the image.

    Returns:
        (B, *size); 0 everywhere where nothing is positive.
    """
    maps = maps.detach().cpu().float()
    fine = is_fine(maps)
    if fine:
        maps = smoothed(maps)
    positive = resize_maps(maps, size).clamp(min=0)
    peaks = [_peak(map_, PERCENTILE if fine else 100) for map_ in positive]
    return (positive / torch.tensor(peaks).view(-1, 1, 1)).clamp(max=1)


def smoothed(maps: Tensor) -> Tensor:
    """Smooth maps (B, h, w) by a Gaussian of `SMOOTHING` of their longer side."""
    height, width = maps.shape[-2:]
    deviation = SMOOTHING * max(height, width)
    # Three deviations to each side, as far as the padding by reflection reaches.
    sides = [2 * min(round(3 * deviation), side - 1) + 1 for side in (width, height)]
    return gaussian_blur(maps, sides, [deviation, deviation])


def _peak(positive: Tensor, percentile: float) -> float:
    values = positive[positive > 0].numpy()
    return float(np.percentile(values, percentile)) if len(values) else 1.0


def to_grey(pixels: Tensor) -> Tensor:
    """Turn images (B, 1 or 3, H, W) into (B, H, W)."""
    if pixels.shape[1] == 1:
        return pixels[:, 0]
    return torch.einsum("bchw,c->bhw", pixels, torch.tensor(GREY))


@lru_cache
def overlay_colours() -> "ListedColormap":
    """Return the colour map with an opacity that rises with the strength."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    colours = colormaps[COLORMAP](np.linspace(0, 1, 256))
    colours[:, 3] = np.linspace(*OPACITY, 256)
    return ListedColormap(colours)


@lru_cache
def difference_colours() -> "ListedColormap":
    """Return the colours of differences from −1 to 1, with an opacity that rises with the size of the difference."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    colours = colormaps[DIFFERENCES](np.linspace(0, 1, 256))
    colours[:, 3] = np.sqrt(np.abs(np.linspace(-1, 1, 256)))
    return ListedColormap(colours)


def overlay(grey: Tensor, strength: Tensor) -> Tensor:
    """Lay a map's colours over a grey image, both (H, W) from 0 to 1: (3, H, W). An empty map adds no colour."""
    return _laid_over(grey, overlay_colours(), strength) if strength.any() else grey.expand(3, -1, -1)


def overlay_difference(grey: Tensor, difference: Tensor) -> Tensor:
    """Lay the colours of a difference of strengths, (H, W) from −1 to 1, over a pale grey image: (3, H, W)."""
    return _laid_over(0.5 + grey / 2, difference_colours(), (difference + 1) / 2)


def _laid_over(grey: Tensor, colormap: "ListedColormap", values: Tensor) -> Tensor:
    colours = torch.from_numpy(colormap(values.numpy())).permute(2, 0, 1)
    return torch.lerp(grey.expand(3, -1, -1).double(), colours[:3], colours[3])
