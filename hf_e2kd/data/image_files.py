"""Image files in folders."""

import os
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""Endings of image files' names, in small or capital letters."""


def images_below(folder: Path) -> Iterator[Path]:
    """The image files in a folder and below it, sorted."""
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES):
                yield Path(parent, name)
