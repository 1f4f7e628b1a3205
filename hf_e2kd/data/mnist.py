"""MNIST and what comes in its format (Fashion-MNIST): idx files from disk, packed by gzip or not."""

import gzip
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

from .annotated import check_folder
from .image_files import png_cell

DIGITS = tuple("0123456789")
"""MNIST's classes."""

CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
"""Fashion-MNIST's classes."""

FILES = {"train": "train", "test": "t10k"}
"""Beginnings of the files' names, by split."""

MNIST_LAYOUT = (
    "the folder of the idx files: 'train-images-idx3-ubyte', 'train-labels-idx1-ubyte', 't10k-images-idx3-ubyte' and "
    "'t10k-labels-idx1-ubyte', each with or without '.gz'"
)

_BYTE = 8
"""The type of unsigned bytes in an idx file's head."""

_PART = 2**24
"""Number of bytes that are read at once."""


def load_mnist(folder: str | Path, classes: Sequence[str] = DIGITS) -> DatasetDict:
    """Load MNIST, or another data set of images in its four idx files.

    References:
        LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998.

    Args:
        folder: Folder of the four files, with or without ".gz"; "idx3" and "idx1" may follow a dot or a hyphen.
        classes: Names of the classes, in the labels' order.

    Returns:
        The splits `train` and `test`. Columns: `image` (grey, mode L) and `label`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file isn't one of idx, is cut off or too long, or its labels don't belong to the images or the
            classes; the file is named.
    """
    root = Path(folder)
    check_folder(root, [], MNIST_LAYOUT)
    return DatasetDict(
        {
            split: _make_split(_find(root, f"{start}-images", 3), _find(root, f"{start}-labels", 1), classes)
            for split, start in FILES.items()
        }
    )


def load_fashion_mnist(folder: str | Path) -> DatasetDict:
    """Load Fashion-MNIST; see `load_mnist`.

    References:
        Xiao et al., "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms", 2017.
    """
    return load_mnist(folder, CLOTHES)


def read_idx(path: str | Path) -> np.ndarray:
    """Read an idx file of unsigned bytes, packed by gzip where its name ends in ".gz".

    No more than its head states is unpacked.

    Raises:
        ValueError: it is another kind of file, of other numbers than bytes, cut off or too long.
    """
    path = Path(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or not head[3]:
                raise ValueError(
                    f"'{path}' begins with the bytes {head.hex(' ') or '(none)'}, which no idx file does. Is it "
                    f"{'' if path.suffix == '.gz' else 'packed (then its name must end in .gz), or '}another file?"
                )
            if head[2] != _BYTE:
                raise ValueError(f"'{path}' holds numbers of the type {head[2]:#04x}. Expected bytes, 0x08.")
            shape = file.read(4 * head[3])
            if len(shape) < 4 * head[3]:
                raise ValueError(f"'{path}' is cut off within its head. Download it anew.")
            sizes = struct.unpack(f">{head[3]}I", shape)
            # A byte more shows whether there are too many. In parts, as a damaged head may state any number.
            values, wanted = bytearray(), math.prod(sizes) + 1
            while part := file.read(min(wanted - len(values), _PART)):
                values += part
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"'{path}' can't be unpacked ({error}). Download it anew.") from error
    if len(values) != math.prod(sizes):
        raise ValueError(
            f"'{path}' states {'×'.join(map(str, sizes))} bytes, and holds "
            f"{'more' if len(values) > math.prod(sizes) else f'{len(values)}'}. Download it anew."
        )
    return np.frombuffer(values, dtype=np.uint8).reshape(sizes)


def _find(root: Path, start: str, axes: int) -> Path:
    names = [f"{start}{mark}idx{axes}-ubyte{packed}" for mark in "-." for packed in ("", ".gz")]
    for name in names:
        if (root / name).is_file():
            return root / name
    raise FileNotFoundError(f"In '{root}' there is none of {', '.join(names)}. Give {MNIST_LAYOUT}.")


def _make_split(images: Path, labels: Path, classes: Sequence[str]) -> Dataset:
    pixels, numbers = read_idx(images), read_idx(labels)
    for path, values, axes in ((images, pixels, 3), (labels, numbers, 1)):
        if values.ndim != axes:
            raise ValueError(f"'{path}' has {values.ndim} axes. Expected {axes}: do images and labels stand swapped?")
    if len(pixels) != len(numbers):
        raise ValueError(f"'{images}' holds {len(pixels)} images, and '{labels}' {len(numbers)} labels.")
    check_labels(numbers, classes, labels)
    return pixel_dataset(pixels, {"label": (numbers, classes)})


def check_labels(labels: np.ndarray, classes: Sequence[str], source: Path) -> None:
    """Refuse labels of which there is no class.

    Raises:
        ValueError: a label is out of range; the file and the label are named.
    """
    if len(labels) and labels.max() >= len(classes):
        raise ValueError(
            f"'{source}' holds the label {labels.max()}, but there are only the classes 0 to {len(classes) - 1}. Give "
            "all classes' names, or the right file."
        )


def pixel_dataset(pixels: np.ndarray, labels: Mapping[str, tuple[np.ndarray, Sequence[str]]]) -> Dataset:
    """A data set of images given as pixels.

    Args:
        pixels: Images (N, H, W) or (N, H, W, 3) of uint8.
        labels: Labels (N,) and their classes' names, by column.
    """
    features = {"image": Image(), **{name: ClassLabel(names=list(names)) for name, (_, names) in labels.items()}}
    columns = {"image": [png_cell(image) for image in pixels], **{name: own for name, (own, _) in labels.items()}}
    return Dataset.from_dict(columns, features=Features(features))
