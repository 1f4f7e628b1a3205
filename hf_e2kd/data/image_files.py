"""Image files: in folders, and in the cells of a data set."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""Endings of image files' names, in small or capital letters."""


def images_below(folder: Path) -> Iterator[Path]:
    """The image files in a folder and below it, sorted."""
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES):
                yield Path(parent, name)


def png_cell(pixels: np.ndarray) -> dict[str, Any]:
    """Pixels (H, W) or (H, W, 3) of uint8 as a cell of a column of images."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return {"bytes": file.getvalue(), "path": None}
