"""Synthesised shapes whose ground-truth heatmaps are known: where an object is, and what tells its class.

Three families of objects, of three classes each, and one class without an object, before three kinds of backgrounds.
The classes of a family differ in one part alone, which their explanations should show.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

from .checks import all_sizes, check_whole
from .image_files import png_cell

SIZES = {"train": 6400, "test": 1600}
"""Number of images in each split, unless `sizes` says otherwise."""

CLASSES = (
    *("ring", "ring with a bar", "ring with a cross"),
    *("red border", "green border", "blue border"),
    *("one tail", "three tails", "eight tails"),
    "empty",
)
"""The classes; the last has no object."""

EMPTY = len(CLASSES) - 1
"""The class without an object, which comparisons of pixels leave out."""

BACKGROUNDS = ("dark", "blurred", "noisy")
"""The kinds of backgrounds."""

TRUTH = ("background", "localisation", "discriminative")
"""The values 0, 1 and 2 of the ground truth."""

SIDE = 512
"""Side of the image, in pixels, for which the lengths below are stated."""

RADIUS, BORDER, STRETCH, SIDES = (90, 110), (10, 30), (0.5, 1.5), (100, 200)
TURN, OFFSET = np.pi / 3, 0.33  # largest rotation, and distance of the object from the middle over the image's side
TAILS = {6: 1, 7: 3, 8: 8}
# Ours, where the source says nothing.
TAIL_LENGTH, ROUGHNESS, PIXEL_NOISE = (50, 90), 8.0, 0.03

_DRAWING = 1
"""Raised whenever other pixels are drawn, as `datasets` keeps what was drawn before."""


def synthesised_shapes(
    sizes: Mapping[str, int] | None = None,
    *,
    image_size: int = SIDE,
    seed: int = 0,
    num_proc: int | None = None,
    cache_dir: str | Path | None = None,
) -> DatasetDict:
    """Draw shapes with their ground-truth heatmaps, of any size and number.

    Drawn once into the cache of `datasets`, and read from there afterwards. A row depends on the seed, its split and
    its number alone: a smaller data set is the beginning of a larger one, and processes draw what one would.

    References:
        Tjoa and Guan, "Quantifying Explainability of Saliency Methods in Deep Neural Networks With a Synthetic
        Dataset", 2020, as Han et al. (ICML 2023) use it: 6,400 images to train on and 1,600 to test, of 512 pixels.
        Colours, the tails' length and the edges' roughness, which aren't stated there, are our own.

    Args:
        sizes: Number of images in each of the splits of `SIZES`; the others keep their default, and 0 leaves one out.
        image_size: Side of the square image in pixels, from 16; all lengths are scaled with it.
        seed: The same arguments give the same pixels.
        num_proc: Number of processes that draw.
        cache_dir: Folder of the cache; None takes that of `datasets`.

    Returns:
        The splits `train` and `test`. Row i shows class i modulo 10. Columns:

        - `image`: RGB
        - `label`: one of `CLASSES`
        - `truth`: grey image of 0 (background), 1 (localisation: the object) and 2 (discriminative: the part that tells
          its class from the others of its family), all 0 where there is no object
        - `background`: one of `BACKGROUNDS`

    Raises:
        ValueError: an argument is outside its range, or a split isn't in `SIZES`.
    """
    sizes = all_sizes(sizes, SIZES)
    check_whole("image_size", image_size, 16, None)
    check_whole("seed", seed, 0, None)
    drawn = {}
    for number, (split, count) in enumerate(sizes.items()):
        if count:
            # Processes share the list between them.
            rows = list(range(count))
            drawn[split] = Dataset.from_generator(
                _draw_rows,
                features=_features(),
                cache_dir=None if cache_dir is None else str(cache_dir),
                gen_kwargs={"rows": rows, "keys": (seed, number), "image_size": image_size, "drawing": _DRAWING},
                num_proc=num_proc,
                split=split,
            )
    return DatasetDict(drawn)


def draw_shape(label: int, image_size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """Draw one image.

    Args:
        label: Class, an index of `CLASSES`.
        image_size: Side of the square image in pixels; the same `rng` draws the same object at each size.
        rng: Draws everything that is random.

    Returns:
        The image (H, W, 3) and its ground truth (H, W) of 0, 1, 2, both uint8, and the background, an index of
        `BACKGROUNDS`.

    Example:
        >>> image, truth, background = draw_shape(1, 64, np.random.default_rng(0))
        >>> image.shape, sorted(set(truth.flat))
        ((64, 64, 3), [np.uint8(0), np.uint8(1), np.uint8(2)])
    """
    background = int(rng.integers(len(BACKGROUNDS)))
    # The object before the noise, so that an image of another size shows the same one.
    shape = None if label == EMPTY else _draw_object(label, image_size, rng)
    pixels = _BACKGROUNDS[background](image_size, rng)
    truth = np.zeros((image_size, image_size), dtype=np.uint8)
    if shape is not None:
        for mask, colour in shape.paint:
            pixels[mask] = colour
        truth[shape.whole], truth[shape.discriminative] = 1, 2
    pixels += PIXEL_NOISE * rng.standard_normal(pixels.shape, dtype=np.float32)
    # A half is added because the conversion cuts off.
    return (pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8), truth, background


@dataclass
class _Shape:
    """An object's masks (H, W), and its colours in the order in which they are laid on."""

    whole: np.ndarray
    discriminative: np.ndarray
    paint: list[tuple[np.ndarray, np.ndarray]]


def _draw_object(label: int, size: int, rng: np.random.Generator) -> _Shape:
    across, down = _own_coordinates(size, rng)
    angle = np.arctan2(down, across)
    edge = _rough_edge(angle, rng)
    border = rng.uniform(*BORDER)
    fill, line = rng.uniform(0.2, 0.6, 3), rng.uniform(0.6, 1.0, 3)
    if label in (3, 4, 5):
        width, height = rng.uniform(*SIDES, 2)
        depth = np.minimum(width / 2 - np.abs(across), height / 2 - np.abs(down)) + edge
        line = np.full(3, 0.1)
        line[label - 3] = 0.9
        whole, rim = depth >= 0, (depth >= 0) & (depth < border)
        return _Shape(whole, rim, [(whole, fill), (rim, line)])
    radius = rng.uniform(*RADIUS)
    depth = radius + edge - np.hypot(across, down)
    disc = depth >= 0
    if label in TAILS:
        body = depth >= radius / 2
        tails = ~body & _tails(across, down, TAILS[label], radius / 2, border, rng)
        return _Shape(body | tails, tails, [(body, fill), (tails, line)])
    rim = disc & (depth < border)
    if label == 0:
        return _Shape(disc, rim, [(disc, fill), (rim, line)])
    bars = np.abs(down) < border / 2
    if label == 2:
        bars |= np.abs(across) < border / 2
    bars &= disc & ~rim
    return _Shape(disc, bars, [(disc, fill), (rim | bars, line)])


def _own_coordinates(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Each pixel's place (H, W) in the object's own axes: shifted, turned and stretched, in pixels of `SIDE`."""
    centre = SIDE * (0.5 + rng.uniform(-OFFSET, OFFSET, 2))
    turn, stretch = rng.uniform(-TURN, TURN), rng.uniform(*STRETCH)
    places = (np.arange(size) + 0.5) * SIDE / size
    across, down = places[None, :] - centre[0], places[:, None] - centre[1]
    return (np.cos(turn) * across + np.sin(turn) * down) / stretch, np.cos(turn) * down - np.sin(turn) * across


def _rough_edge(angle: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise along the edge: waves around the object, of random phases."""
    waves = np.arange(3, 9)
    phases = rng.uniform(0, 2 * np.pi, len(waves))
    around = np.linspace(-np.pi, np.pi, 721)
    return np.interp(angle, around, ROUGHNESS * np.sin(around[:, None] * waves + phases).mean(axis=1))


def _tails(
    across: np.ndarray, down: np.ndarray, count: int, radius: float, width: float, rng: np.random.Generator
) -> np.ndarray:
    """Straight tails in all directions, evenly, that grow thinner outwards."""
    length = rng.uniform(*TAIL_LENGTH)
    found = np.zeros(across.shape, dtype=bool)
    for direction in rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(count) / count:
        along = np.cos(direction) * across + np.sin(direction) * down
        aside = np.cos(direction) * down - np.sin(direction) * across
        left = 1 - (along - radius) / length
        found |= (along > 0) & (left > 0) & (np.abs(aside) < width / 4 * (1 + left))
    return found


def _dark(size: int, rng: np.random.Generator) -> np.ndarray:
    return np.zeros((size, size, 3), dtype=np.float32)


def _blurred(size: int, rng: np.random.Generator) -> np.ndarray:
    """Coarse noise of 8×8 cells, enlarged bilinearly."""
    cells = rng.uniform(0.2, 0.7, (8, 8, 3))
    position = ((np.arange(size) + 0.5) * 8 / size - 0.5).clip(0, 7)
    weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(8)))
    return np.einsum("yi,ixc->yxc", weights, np.einsum("xj,ijc->ixc", weights, cells)).astype(np.float32)


def _noisy(size: int, rng: np.random.Generator) -> np.ndarray:
    """Sinusoidal rings around a random place, with noise."""
    centre, wavelength, phase = rng.uniform(0, SIDE, 2), rng.uniform(30, 80), rng.uniform(0, 2 * np.pi)
    places = (np.arange(size) + 0.5) * SIDE / size
    distance = np.hypot(places[None, :] - centre[0], places[:, None] - centre[1])
    rings = 0.35 + 0.2 * np.sin(2 * np.pi * distance / wavelength + phase)
    pixels = (rings[..., None] * rng.uniform(0.6, 1.0, 3)).astype(np.float32)
    return pixels + np.float32(0.1) * rng.standard_normal(pixels.shape, dtype=np.float32)


_BACKGROUNDS: tuple[Callable[[int, np.random.Generator], np.ndarray], ...] = (_dark, _blurred, _noisy)


def _draw_rows(rows: list[int], keys: tuple[int, int], image_size: int, drawing: int) -> Iterator[dict[str, Any]]:
    """The rows of those numbers. `drawing` is read by `datasets` alone, as a part of what names its cache."""
    for row in rows:
        label = row % len(CLASSES)
        image, truth, background = draw_shape(label, image_size, np.random.default_rng([*keys, row]))
        yield {"image": png_cell(image), "label": label, "truth": png_cell(truth), "background": background}


def _features() -> Features:
    return Features(
        {
            "image": Image(),
            "label": ClassLabel(names=list(CLASSES)),
            "truth": Image(mode="L"),
            "background": ClassLabel(names=list(BACKGROUNDS)),
        }
    )
