"""Pictures of maps over images."""

import base64
from io import BytesIO

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image

from ..alignment.grids import resize_maps
from ..cards.plots import COLORMAP

# Neither the colours of words for and against a class, nor of classes that differ. They are told apart by colour-blind
# people too, by their brightness alone.
STUDENT = (127, 191, 123)  # green, where the student looks more
TEACHER = (118, 42, 131)  # purple, where the teacher does


def draw_map(image: Image.Image, strength: torch.Tensor) -> Image.Image:
    """Draw a map in viridis as a layer over its image, more transparent the weaker it is, and wholly so at 0.

    Args:
        strength: Map (h, w) from 0 to 1, enlarged bilinearly to the image.
    """
    values = _enlarged(strength, image)
    return _layer(colormaps[COLORMAP](values)[..., :3], opacity_of(values))


def opacity_of(strength: np.ndarray) -> np.ndarray:
    """Return the opacity of a map's parts, from 0 to 1: none at 0, and all where it is strongest."""
    # The square root, or what is half as strong would hardly be seen.
    return np.sqrt(strength)


def draw_difference(image: Image.Image, difference: torch.Tensor) -> Image.Image:
    """Draw two maps' difference as a layer over their image: green above 0, purple below, transparent at 0.

    Args:
        difference: Difference (h, w) from −1 to 1, enlarged bilinearly to the image.
    """
    values = _enlarged(difference, image)
    colours = np.where(values[..., None] > 0, np.array(STUDENT) / 255, np.array(TEACHER) / 255)
    return _layer(colours, np.abs(values))


def place_of(map: torch.Tensor) -> str:
    """Describe in words the place in an image where a map (h, w) is largest.

    Example:
        >>> place_of(torch.tensor([[0.0, 0.0, 0.1], [0.0, 0.0, 0.0], [0.0, 0.0, 0.9]]))
        'at the bottom right'
    """
    row, column = divmod(int(map.argmax()), map.shape[1])
    vertical = ("top", "middle", "bottom")[int(3 * (row + 0.5) / map.shape[0])]
    horizontal = ("left", "centre", "right")[int(3 * (column + 0.5) / map.shape[1])]
    return "in the centre" if (vertical, horizontal) == ("middle", "centre") else f"at the {vertical} {horizontal}"


def data_uri(image: Image.Image) -> str:
    """Encode an image as a data URI; a layer as WebP, which keeps what is transparent."""
    content = BytesIO()
    kind = "webp" if image.mode == "RGBA" else "jpeg"
    image.save(content, kind, quality=88)
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


def _enlarged(map: torch.Tensor, image: Image.Image) -> np.ndarray:
    return resize_maps(map[None], (image.height, image.width))[0].numpy()


def _layer(colours: np.ndarray, alpha: np.ndarray) -> Image.Image:
    """Join colours (H, W, 3) and their opacity (H, W), both from 0 to 1."""
    return Image.fromarray(np.rint(255 * np.dstack([colours, alpha])).clip(0, 255).astype(np.uint8))
