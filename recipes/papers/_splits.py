"""Divisions of a data set by class: few images of each, or some held out."""

from collections.abc import Sequence

import numpy as np


def choose_per_class(labels: Sequence[int] | np.ndarray, count: int, seed: int = 42) -> np.ndarray:
    """Choose `count` images of each class.

    Args:
        labels: Classes (N,).
        count: Number of images a class, at least 1.
        seed: Seed; the images of a smaller count are among those of a larger one with the same seed.

    Returns:
        Their rows, ascending.

    Raises:
        ValueError: a class has fewer images.

    Example:
        >>> choose_per_class([0, 1, 0, 1, 1, 0], 1, seed=0).shape
        (2,)
    """
    classes = np.asarray(labels)
    if count < 1:
        raise ValueError(f"count is {count}. Give the number of images a class, at least 1.")
    known, sizes = np.unique(classes, return_counts=True)
    if sizes.min() < count:
        fewest = sizes.argmin()
        raise ValueError(f"Class {known[fewest]} has {sizes[fewest]} images, and {count} a class are asked for.")
    order = np.random.default_rng(seed).permutation(len(classes))
    by_class = order[np.argsort(classes[order], kind="stable")]
    places = np.arange(len(classes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(by_class[places < count])


def hold_out(labels: Sequence[int] | np.ndarray, count: int, seed: int = 42) -> tuple[np.ndarray, np.ndarray]:
    """Divide images: rows to train on, and rows of `count` images of each class to validate on; both ascending.

    Raises:
        ValueError: a class has no image left to train on.
    """
    held = choose_per_class(labels, count, seed)
    kept = np.setdiff1d(np.arange(len(labels)), held)
    lost = np.setdiff1d(np.asarray(labels), np.asarray(labels)[kept])
    if len(lost):
        raise ValueError(f"With {count} images a class held out, class {lost[0]} has none left to train on.")
    return kept, held
