"""Images with labelled concepts, as network dissection reads them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from .opening import open_image


@dataclass(frozen=True)
class Concept:
    """A labelled concept.

    Args:
        name: Name, as "dog".
        category: Its category, as "object", "part" or "scene".
    """

    name: str
    category: str


@dataclass(frozen=True)
class ConceptLabels:
    """The concepts of one image.

    Args:
        planes: Numbers of the concepts by pixel (n, H, W), in n layers, as a wheel lies on a car; 0 is unlabelled.
        whole: Numbers of concepts of the whole image, such as a scene.
    """

    planes: np.ndarray
    whole: tuple[int, ...] = ()


class ConceptImages(Protocol):
    """Protocol of images with labelled concepts.

    Attributes:
        concepts: Concepts by their numbers, which are above 0.
    """

    @property
    def concepts(self) -> Mapping[int, Concept]: ...

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """Name an image, for messages."""
        ...

    def image(self, row: int) -> Image.Image:
        """Open an image in RGB."""
        ...

    def labels(self, row: int) -> ConceptLabels:
        """Read an image's labels."""
        ...


class LabelledImages:
    """Images of a data set whose columns hold label masks, a column a category.

    Args:
        dataset: Data set with rows as dictionaries, such as a `datasets.Dataset`.
        columns: By category, its column and the names of its numbers, as `{"object": ("mask", {1: "cat", 2: "dog"})}`,
            or a list of names by number. A cell is a mask, an image of one channel or an array (H, W) of numbers; or
            one number, of a label of the whole image.
        image_column: Column of the images, of PIL or file paths.
        unlabelled: Numbers in masks that say nothing, such as 255 for a border.

    Raises:
        ValueError: there are no rows or columns, or a column is missing. On reading: a mask has several channels, or a
            number without a name.
    """

    def __init__(
        self,
        dataset: Any,
        columns: Mapping[str, tuple[str, Mapping[int, str] | Sequence[str]]],
        image_column: str = "image",
        unlabelled: Collection[int] = (0,),
    ):
        if not len(dataset):
            raise ValueError("The data set has no rows. Give one with images and masks.")
        there = list(getattr(dataset, "column_names", None) or dataset[0])
        missing = [name for name in (image_column, *(column for column, _ in columns.values())) if name not in there]
        if missing or not columns:
            raise ValueError(
                f"The data set has no column {', '.join(missing)}. Its columns: {', '.join(there)}."
                if missing
                else 'columns is empty. Name a column of masks, as {"object": ("mask", ["unlabelled", "cat"])}.'
            )
        # In the data set's own types, not as tensors.
        self.dataset = dataset.with_format(None) if hasattr(dataset, "with_format") else dataset
        self.image_column = image_column
        self._concepts: dict[int, Concept] = {}
        # By category, its column and the number of the concept for each number in it; −1 where it has no name.
        self.tables: dict[str, tuple[str, np.ndarray]] = {}
        # Others are in the tables.
        self.unlabelled = [number for number in unlabelled if number < 0]
        for category, (column, names) in columns.items():
            named = dict(names) if isinstance(names, Mapping) else dict(enumerate(names))
            if min(named, default=0) < 0:
                raise ValueError(f"'{category}' names the number {min(named)}. Number concepts from 0 on.")
            table = np.full(max([*named, *unlabelled, 0]) + 1, -1, dtype=np.int32)
            for number, name in named.items():
                table[number] = len(self._concepts) + 1
                if number not in unlabelled:
                    self._concepts[len(self._concepts) + 1] = Concept(name, category)
            table[[number for number in unlabelled if number >= 0]] = 0
            self.tables[category] = column, table

    @property
    def concepts(self) -> Mapping[int, Concept]:
        return self._concepts

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, row: int) -> str:
        return f"row {row}"

    def image(self, row: int) -> Image.Image:
        return open_image(self._cell(row, self.image_column))

    def labels(self, row: int) -> ConceptLabels:
        planes, whole = [], []
        for category, (column, table) in self.tables.items():
            numbers = self._numbers(self._cell(row, column), row, column)
            skipped, inside = np.isin(numbers, self.unlabelled), (numbers >= 0) & (numbers < len(table))
            concepts = np.where(skipped, 0, np.where(inside, table[np.where(inside, numbers, 0)], -1))
            if (concepts < 0).any():
                raise ValueError(
                    f"Row {row} has the number {int(numbers[concepts < 0].flat[0])} in '{column}', for which the "
                    f"category '{category}' has no name. Name it in `columns`, or add it to `unlabelled`."
                )
            if numbers.ndim == 2:
                planes.append(concepts)
            elif concepts:
                whole.append(int(concepts))
        return ConceptLabels(stack_planes(planes), tuple(whole))

    def _cell(self, row: int, column: str) -> Any:
        # A data set that reads a column alone doesn't decode the images of the others.
        return self.dataset[column][row] if hasattr(self.dataset, "column_names") else self.dataset[row][column]

    def _numbers(self, cell: Any, row: int, column: str) -> np.ndarray:
        if isinstance(cell, str | Path):
            cell = Image.open(cell)
        numbers = np.asarray(cell)
        if numbers.ndim not in (0, 2) or numbers.dtype.kind not in "iub":
            raise ValueError(
                f"The mask of row {row} in '{column}' has the shape {numbers.shape} of {numbers.dtype}. Give an image "
                "of one channel or whole numbers (H, W), each the number of a concept, or one number for the image."
            )
        return numbers.astype(np.int64)


def stack_planes(planes: Sequence[np.ndarray]) -> np.ndarray:
    """Stack planes (H, W) to (n, H, W), each enlarged to the largest by its nearest pixels; (0, 1, 1) of none."""
    if not planes:
        return np.zeros((0, 1, 1), dtype=np.int32)
    size = max(plane.shape[0] for plane in planes), max(plane.shape[1] for plane in planes)
    return np.stack([nearest(plane, (0, 0, *plane.shape), size) for plane in planes])


def nearest(planes: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """Cut a part of numbers (..., H, W) and resize it by the nearest pixels, which mixes no numbers.

    Args:
        planes: Numbers.
        box: The part: top, left, height and width in pixels, fractions allowed.
        size: Rows and columns of the result.

    Example:
        >>> nearest(np.array([[1, 2], [3, 4]]), (0, 0, 2, 2), (2, 4)).tolist()
        [[1, 1, 2, 2], [3, 3, 4, 4]]
    """
    top, left, height, width = box
    rows = np.floor(top + (np.arange(size[0]) + 0.5) * height / size[0]).astype(int).clip(0, planes.shape[-2] - 1)
    columns = np.floor(left + (np.arange(size[1]) + 0.5) * width / size[1]).astype(int).clip(0, planes.shape[-1] - 1)
    return planes[..., rows[:, None], columns]
