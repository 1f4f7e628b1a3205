"""The embedded data set: scanned digits on textured backgrounds, made in seconds without a download.

Each image is a real scan (scikit-learn's `load_digits`, the UCI optical recognition of handwritten digits)
in a random bright colour, over a grating of dark stripes in a random colour. The stripes' orientation
predicts the digit in the student's training data and says nothing about it in `test_ood`. A student can
therefore be right for the wrong reason, and the object's mask shows whether it is.
"""

from collections.abc import Mapping
from functools import cache

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from .checks import all_sizes, check_range, check_whole
from .image_files import png_cell

SIZES = {"teacher_train": 8000, "student_train": 4000, "validation": 1000, "test_id": 1000, "test_ood": 1000}
"""Number of images in each split, unless `sizes` says otherwise."""

CORRELATED = {"student_train", "validation", "test_id"}
"""Splits in which the background predicts the class; in the others it is drawn independently."""

SCANS = {"train": 0.65, "validation": 0.15, "test": 0.20}
"""Share of the scans behind the training, validation and test splits; no scan serves two of them."""

INK = 0.3
"""A pixel belongs to the object where the scan, enlarged and scaled to [0, 1], is above this."""


def digits_on_textures(
    sizes: Mapping[str, int] | None = None,
    *,
    correlation: float = 0.9,
    num_classes: int = 10,
    student_scans: int | None = None,
    image_size: int = 32,
    digit_size: int = 20,
    shift: int | None = None,
    contrast: float = 0.5,
    wavelength: tuple[float, float] = (4.0, 8.0),
    noise: float = 0.05,
    seed: int = 0,
) -> DatasetDict:
    """Scanned digits on gratings whose orientation predicts the digit in some splits and not in others.

    Args:
        sizes: images a split, for any of the splits of `SIZES`; the others keep their default size, and 0
            leaves a split out.
        correlation: in `student_train`, `validation` and `test_id`, the probability that an image gets its own
            class's background. Otherwise the background is drawn uniformly from all classes', the own one
            among them, as it always is in `teacher_train` and `test_ood`. 0 is no relation, 1 a sure one.
        num_classes: the digits 0 … num_classes − 1, from 2 to 10.
        student_scans: number of scans behind `student_train`, the first of those behind `teacher_train`. None
            takes them all.
        image_size: side of the square image, in pixels.
        digit_size: side of the square that holds the digit, in pixels, from 8 to `image_size`.
        shift: largest distance, down and across, of that square from the middle of the image, in pixels. None lets
            it stand anywhere inside.
        contrast: brightness of the stripes, from 0 (no background) to 1 (as bright as the digits).
        wavelength: the stripes' shortest and longest wavelength, in pixels, from 2.
        noise: standard deviation of the pixel noise, on a scale where white is 1.
        seed: the same arguments give the same pixels.

    Returns:
        A `DatasetDict` with the splits `teacher_train`, `student_train`, `validation`, `test_id`, `test_ood`.
        The two test splits show the same digits on different backgrounds. Columns:

        - `image`: RGB, (image_size, image_size, 3) as an array
        - `label`: the digit, a `ClassLabel` named "digit 0", "digit 1", …
        - `mask`: 255 on the object and 0 elsewhere, mode "L", (image_size, image_size) as an array
        - `background`: the class whose orientation the stripes have
        - `scan`: the scan's row in `load_digits`

    Raises:
        ValueError: for an argument outside its range, or a split that isn't in `SIZES`.

    Example:
        >>> splits = digits_on_textures(dict.fromkeys(SIZES, 100), correlation=0.9)
        >>> splits["student_train"].features["label"].names[:2]
        ['digit 0', 'digit 1']
    """
    sizes = all_sizes(sizes, SIZES)
    check_whole("num_classes", num_classes, 2, 10)
    check_whole("image_size", image_size, 8, None)
    check_whole("digit_size", digit_size, 8, image_size)
    if student_scans is not None:
        check_whole("student_scans", student_scans, 1, None)
    if shift is not None:
        check_whole("shift", shift, 0, None)
    check_range("correlation", correlation, 0, 1)
    check_range("contrast", contrast, 0, 1)
    check_range("noise", noise, 0, None)
    if len(wavelength) != 2 or not 2 <= wavelength[0] <= wavelength[1]:
        raise ValueError(f"wavelength is {wavelength}. Give the shortest and the longest, in pixels, both at least 2.")

    scans, digits = _load_scans()
    pools = split_scans(digits, num_classes, np.random.default_rng(seed))
    if student_scans is not None and student_scans > len(pools["train"]):
        raise ValueError(
            f"student_scans is {student_scans}, but {len(pools['train'])} scans of {num_classes} digits are kept for "
            f"training. Give at most {len(pools['train'])}, or None for all."
        )

    splits = {}
    for number, name in enumerate(SIZES):
        if sizes[name] == 0:
            continue
        pool = pools["test" if name.startswith("test") else "validation" if name == "validation" else "train"]
        if name == "student_train":
            pool = pool[:student_scans]
        # One generator for the foreground and one for the background: the test splits share the first.
        front = np.random.default_rng([seed, min(number, list(SIZES).index("test_id"))])
        back = np.random.default_rng([seed, number, 1])

        chosen = np.resize(front.permutation(pool), sizes[name])
        labels = digits[chosen]
        backgrounds = draw_backgrounds(labels, correlation if name in CORRELATED else 0.0, num_classes, back)
        textures = gratings(backgrounds, num_classes, image_size, contrast, wavelength, back)
        images, masks = compose(scans[chosen], textures, digit_size, shift, noise, front)
        splits[name] = _dataset(images, labels, masks, backgrounds, chosen, num_classes)
    return DatasetDict(splits)


@cache
def _load_scans() -> tuple[np.ndarray, np.ndarray]:
    """Read all scans (N, 8, 8) in [0, 1], and the digits (N) that they show."""
    from sklearn.datasets import load_digits

    scans, digits = load_digits(return_X_y=True)
    return scans.reshape(-1, 8, 8) / 16, digits


def split_scans(digits: np.ndarray, num_classes: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Shuffle the scans of the first `num_classes` digits and divide them as `SCANS` says: name → row numbers."""
    rows = rng.permutation(np.flatnonzero(digits < num_classes))
    cuts = np.cumsum([int(share * len(rows)) for share in SCANS.values()])[:-1]
    return dict(zip(SCANS, np.split(rows, cuts), strict=True))


def draw_backgrounds(labels: np.ndarray, correlation: float, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    """The class of each image's background, (N,): its own with probability `correlation`, otherwise any."""
    own = rng.random(len(labels)) < correlation
    return np.where(own, labels, rng.integers(num_classes, size=len(labels)))


def gratings(
    orientations: np.ndarray,
    num_classes: int,
    size: int,
    contrast: float,
    wavelength: tuple[float, float],
    rng: np.random.Generator,
) -> np.ndarray:
    """Sinusoidal stripes in a random colour, (N, size, size, 3) in [0, contrast].

    Class k's stripes run at k · 180° / num_classes, give or take a tenth of the step between two classes. Their
    wavelength and phase are random.
    """
    count = len(orientations)
    angle = np.pi / num_classes * (orientations + rng.uniform(-0.1, 0.1, count))
    wave = 2 * np.pi / rng.uniform(*wavelength, count)
    phase = rng.uniform(0, 2 * np.pi, count)
    colour = rng.uniform(0.3, 1, (count, 1, 1, 3))

    place = np.arange(size)
    across = wave[:, None] * np.cos(angle)[:, None] * place + phase[:, None]
    down = wave[:, None] * np.sin(angle)[:, None] * place
    stripes = 0.5 + 0.5 * np.sin((down[:, :, None] + across[:, None, :]).astype(np.float32))
    return (contrast * colour).astype(np.float32) * stripes[..., None]


def compose(
    scans: np.ndarray,
    textures: np.ndarray,
    digit_size: int,
    shift: int | None,
    noise: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Lay each scan, in a random bright colour, at a random place on its texture.

    Args:
        scans: Scans (N, 8, 8) in [0, 1].
        textures: Backgrounds (N, H, H, 3) in [0, 1].
        digit_size: the side to which the scans are enlarged, at most H.
        shift: largest distance from the middle, or None for anywhere.
        noise: standard deviation of the noise added to every pixel.
        rng: draws the places, the colours and the noise.

    Returns:
        The images, (N, H, H, 3) uint8, and the objects' masks, (N, H, H) bool.
    """
    count, size = textures.shape[:2]
    free = size - digit_size
    low, high = (0, free) if shift is None else (max(0, free // 2 - shift), min(free, free // 2 + shift))
    top, left = rng.integers(low, high, size=(2, count, 1, 1), endpoint=True)
    offsets = np.arange(digit_size)
    ink = np.zeros((count, size, size), dtype=np.float32)
    ink[np.arange(count)[:, None, None], top + offsets[:, None], left + offsets] = enlarge(scans, digit_size)

    colour = rng.uniform(0.7, 1, (count, 1, 1, 3)).astype(np.float32)
    images = ink[..., None] * colour + (1 - ink[..., None]) * textures
    images += noise * rng.standard_normal(images.shape, dtype=np.float32)
    # A half is added because the conversion cuts off.
    return (images.clip(0, 1) * 255 + 0.5).astype(np.uint8), ink > INK


def enlarge(scans: np.ndarray, size: int) -> np.ndarray:
    """Bilinear enlargement of (N, h, h) to (N, size, size), pixel centres aligned, edges repeated."""
    side = scans.shape[-1]
    position = ((np.arange(size) + 0.5) * side / size - 0.5).clip(0, side - 1)
    weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(side)))
    return weights @ scans @ weights.T


def _dataset(
    images: np.ndarray,
    labels: np.ndarray,
    masks: np.ndarray,
    backgrounds: np.ndarray,
    scans: np.ndarray,
    num_classes: int,
) -> Dataset:
    features = Features(
        {
            "image": Image(),
            "label": ClassLabel(names=[f"digit {digit}" for digit in range(num_classes)]),
            "mask": Image(mode="L"),
            "background": Value("int64"),
            "scan": Value("int64"),
        }
    )
    columns = {
        "image": [png_cell(image) for image in images],
        "label": labels,
        "mask": [png_cell(mask.astype(np.uint8) * 255) for mask in masks],
        "background": backgrounds,
        "scan": scans,
    }
    return Dataset.from_dict(columns, features=features)
