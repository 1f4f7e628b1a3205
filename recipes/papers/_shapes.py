"""Small sets of drawn shapes with boxes, in the layouts of PASCAL VOC and MS COCO, to try a recipe without their data.

Each image shows one to three shapes, a disc, a square and a triangle among them at most, in bright colours on a
grating. They bear the names of VOC's first three classes, which its loader knows.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hf_e2kd.data.coco import VOC_NAMES
from hf_e2kd.data.digits import gratings
from hf_e2kd.data.voc import CLASSES

SHAPES = ("disc", "square", "triangle")

SIZES = {"train": 48, "val": 24, "test": 24}
"""Number of images in each split."""


@dataclass
class DrawnImage:
    """Pixels (side, side, 3) uint8, and each shape's class with its box x0, y0, x1, y1."""

    pixels: np.ndarray
    boxes: list[tuple[int, tuple[int, int, int, int]]]


def draw_shapes(count: int, side: int = 64, seed: int = 0) -> list[DrawnImage]:
    """Shapes of a quarter to a half of the image's side, each kind at most once an image; later ones lie on top.

    Example:
        >>> image = draw_shapes(1)[0]
        >>> image.pixels.shape, 1 <= len(image.boxes) <= 3
        ((64, 64, 3), True)
    """
    rng = np.random.default_rng(seed)
    textures = gratings(rng.integers(10, size=count), 10, side, 0.5, (4.0, 8.0), rng)
    down, across = np.mgrid[:side, :side]
    images = []
    for texture in textures:
        boxes = []
        for kind in rng.permutation(len(SHAPES))[: rng.integers(1, len(SHAPES) + 1)].tolist():
            size = int(rng.integers(side // 4, side // 2 + 1))
            left, top = rng.integers(0, side - size, size=2, endpoint=True).tolist()
            texture[_covered(SHAPES[kind], down - top, across - left, size)] = rng.uniform(0.7, 1, 3)
            boxes.append((kind, (left, top, left + size, top + size)))
        noisy = texture + 0.05 * rng.standard_normal(texture.shape)
        images.append(DrawnImage((noisy.clip(0, 1) * 255 + 0.5).astype(np.uint8), boxes))
    return images


def write_voc(folder: str | Path, year: int = 2007, sizes: Mapping[str, int] = SIZES, seed: int = 0) -> None:
    """Write drawn images as `VOCdevkit/VOC<year>` with the lists `sizes` names."""
    root = Path(folder) / "VOCdevkit" / f"VOC{year}"
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for split, images in _splits(sizes, seed).items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{split}_{i}\n" for i in range(len(images))))
        for number, image in enumerate(images):
            Image.fromarray(image.pixels).save(root / "JPEGImages" / f"{split}_{number}.jpg", quality=95)
            height, width, _ = image.pixels.shape
            # Its pixels count from 1, and both corners belong to the box.
            objects = "".join(
                f"<object><name>{CLASSES[kind]}</name><difficult>0</difficult><bndbox><xmin>{x0 + 1}</xmin>"
                f"<ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
                for kind, (x0, y0, x1, y1) in image.boxes
            )
            (root / "Annotations" / f"{split}_{number}.xml").write_text(
                f"<annotation><size><width>{width}</width><height>{height}</height></size>{objects}</annotation>"
            )


def write_coco(folder: str | Path, year: int = 2017, sizes: Mapping[str, int] = SIZES, seed: int = 0) -> None:
    """Write drawn images as `train<year>` and `val<year>` with their instances files; `sizes` names the splits."""
    root = Path(folder)
    (root / "annotations").mkdir(parents=True)
    names = [VOC_NAMES.get(name, name) for name in CLASSES]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    for split, samples in _splits(sizes, seed).items():
        (root / f"{split}{year}").mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, image in enumerate(samples):
            Image.fromarray(image.pixels).save(root / f"{split}{year}" / f"{number}.jpg", quality=95)
            height, width, _ = image.pixels.shape
            images.append({"id": number, "file_name": f"{number}.jpg", "width": width, "height": height})
            for kind, (x0, y0, x1, y1) in image.boxes:
                box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "category_id": kind + 1, "iscrowd": 0}
                annotations.append({"id": len(annotations), "image_id": number, **box})
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}{year}.json").write_text(json.dumps(content))


def _splits(sizes: Mapping[str, int], seed: int) -> dict[str, list[DrawnImage]]:
    return {split: draw_shapes(count, seed=seed + number) for number, (split, count) in enumerate(sizes.items())}


def _covered(shape: str, down: np.ndarray, across: np.ndarray, size: int) -> np.ndarray:
    """The pixels of a shape whose box begins at 0, 0, (H, W) bool."""
    inside = (down >= 0) & (down < size) & (across >= 0) & (across < size)
    if shape == "disc":
        return inside & ((down + 0.5 - size / 2) ** 2 + (across + 0.5 - size / 2) ** 2 <= (size / 2) ** 2)
    if shape == "triangle":
        return inside & (np.abs(across + 0.5 - size / 2) <= (down + 1) / 2)
    return inside
