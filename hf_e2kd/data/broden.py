"""Broden, the broadly and densely labelled images of network dissection, from disk."""

import csv
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .annotated import check_folder
from .concepts import Concept, ConceptLabels, stack_planes
from .files import path_inside
from .opening import open_image

LAYOUT = (
    "the folder 'broden1_224' (or another resolution), with 'index.csv', 'label.csv', 'category.csv', a "
    "'c_<category>.csv' for each category, and 'images'"
)

NOT_CATEGORIES = ("image", "split", "ih", "iw", "sh", "sw")
"""Columns of the index that are no category."""


@dataclass(frozen=True)
class BrodenRow:
    """An image of the index.

    Args:
        image: Its file.
        planes: Its label masks: files, or a concept's number for a mask full of it.
        whole: Numbers of its concepts that are labelled for the whole image.
        size: Rows and columns of its masks.
    """

    image: Path
    planes: tuple[Path | int, ...]
    whole: tuple[int, ...]
    size: tuple[int, int]


class Broden:
    """Broden's images with their concepts; see `load_broden`."""

    def __init__(self, concepts: Mapping[int, Concept], rows: list[BrodenRow]):
        self.concepts, self.rows = concepts, rows

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, row: int) -> str:
        return f"'{self.rows[row].image}'"

    def image(self, row: int) -> Image.Image:
        return open_image(self.rows[row].image)

    def labels(self, row: int) -> ConceptLabels:
        own = self.rows[row]
        planes = [
            np.full(own.size, plane, dtype=np.int32) if isinstance(plane, int) else _read_mask(plane, own.size)
            for plane in own.planes
        ]
        return ConceptLabels(stack_planes(planes), own.whole)


def load_broden(folder: str | Path, split: str | None = None, categories: Collection[str] | None = None) -> Broden:
    """Load Broden 1.0 in its own layout.

    `index.csv` names an image a row, the sizes of image and masks, and by category a list, parted by ";", of mask files
    or of numbers of concepts; a category whose list has numbers alone labels the whole image. A mask's pixel is the
    concept's number: red + 256 · green, 0 for unlabelled. A concept that has labels of several categories belongs to
    the one whose `c_<category>.csv` states the largest coverage. Images without a label of the categories are left out.

    References:
        Bau et al., "Network Dissection", CVPR 2017; https://github.com/CSAILVision/NetDissect.

    Args:
        folder: Folder of one resolution.
        split: "train" or "val"; None takes all images, as the paper does.
        categories: Categories to read; None reads all. Others' masks are not opened.

    Returns:
        Images for `network_dissection`.

    Raises:
        FileNotFoundError: a file is missing; the path is named.
        ValueError: a file lacks a column, a number isn't one, a category doesn't exist, or no image is left.
    """
    root = Path(folder)
    check_folder(root, ["index.csv", "label.csv", "category.csv", "images"], LAYOUT)
    known = [row["name"] for row in _read(root / "category.csv", ("name",))]
    wanted = known if categories is None else [name for name in known if name in categories]
    unknown = sorted(set(categories or ()) - set(known))
    if unknown:
        raise ValueError(f"{root / 'category.csv'} has no category {', '.join(unknown)}. It has: {', '.join(known)}.")
    for name in wanted:
        path_inside(root, f"c_{name}.csv", f"{root / 'category.csv'}")
    check_folder(root, [f"c_{name}.csv" for name in wanted], LAYOUT)
    concepts = _read_concepts(root, wanted)
    rows = []
    for line, entry in enumerate(_read(root / "index.csv", (*NOT_CATEGORIES, *wanted)), start=2):
        where = f"{root / 'index.csv'}, line {line}"
        if split is not None and entry["split"] != split:
            continue
        planes: list[Path | int] = []
        whole: list[int] = []
        for category in wanted:
            parts = [part for part in entry[category].split(";") if part]
            numbers = [_number(part, concepts, where) if part.isdecimal() else None for part in parts]
            if None not in numbers:
                whole += [number for number in numbers if number]
                continue
            for part, number in zip(parts, numbers, strict=True):
                planes.append(path_inside(root / "images", part, where) if number is None else number)
        if planes or whole:
            size = _whole(entry["sh"], "sh", where), _whole(entry["sw"], "sw", where)
            image = path_inside(root / "images", entry["image"], where)
            rows.append(BrodenRow(image, tuple(planes), tuple(whole), size))
    if not rows:
        raise ValueError(f"{root / 'index.csv'} has no image of the split {split!r} with labels of {wanted}.")
    _check_files(rows)
    return Broden(concepts, rows)


def _read_concepts(root: Path, categories: list[str]) -> dict[int, Concept]:
    """The concepts that have labels of the categories, by number."""
    coverage: dict[int, tuple[float, int]] = {}
    for place, category in enumerate(categories):
        path = root / f"c_{category}.csv"
        for line, entry in enumerate(_read(path, ("number", "coverage")), start=2):
            number = _whole(entry["number"], "number", f"{path}, line {line}")
            try:
                covered = float(entry["coverage"])
            except ValueError as error:
                raise ValueError(f"{path}, line {line}: coverage is {entry['coverage']!r}, no number.") from error
            coverage[number] = max(coverage.get(number, (-1.0, 0)), (covered, place))
    path = root / "label.csv"
    names = {
        _whole(entry["number"], "number", f"{path}, line {line}"): entry["name"]
        for line, entry in enumerate(_read(path, ("number", "name")), start=2)
    }
    unnamed = sorted(coverage.keys() - names.keys() - {0})
    if unnamed:
        raise ValueError(f"{path} names no label {unnamed[0]}, which a c_*.csv has. Get the data anew.")
    return {number: Concept(names[number], categories[place]) for number, (_, place) in coverage.items() if number}


def _read(path: Path, columns: Collection[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with these columns."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(
                f"{path} has no column {', '.join(missing)}. It has: {', '.join(reader.fieldnames or ())}."
            )
        return [{name: value or "" for name, value in row.items() if name} for row in reader]


def _whole(text: str, column: str, where: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{where}: {column} is {text!r}. Expected a whole number.")
    return int(text)


def _number(text: str, concepts: Mapping[int, Concept], where: str) -> int:
    number = int(text)
    if number and number not in concepts:
        raise ValueError(f"{where} names the concept {number}, which no c_*.csv has. Get the data anew.")
    return number


def _check_files(rows: list[BrodenRow]) -> None:
    paths = [path for row in rows for path in (row.image, *row.planes) if isinstance(path, Path)]
    missing = [str(path) for path in dict.fromkeys(paths) if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} images and masks are missing: {'; '.join(missing[:5])}. Complete the "
            "download."
        )


def _read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A mask's numbers (H, W).

    Raises:
        ValueError: it isn't in colours, or of another size than the index states.
    """
    with Image.open(path) as image:
        if image.mode not in ("RGB", "RGBA"):
            raise ValueError(f"The mask '{path}' is of mode {image.mode}. Expected RGB, a number as red + 256 · green.")
        channels = np.asarray(image).astype(np.int32)
    if channels.shape[:2] != size:
        raise ValueError(
            f"The mask '{path}' has {channels.shape[0]}×{channels.shape[1]} pixels, and the index states "
            f"{size[0]}×{size[1]}. Get the data anew."
        )
    return channels[..., 0] + 256 * channels[..., 1]
