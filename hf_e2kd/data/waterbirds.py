"""Waterbirds from disk: birds of the water and of the land, before backgrounds that usually are their own."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from .annotated import AnnotatedImage, Box, Faulty, Outside, annotated_dataset, check_apart, check_folder, read_text
from .files import path_inside

CLASSES = ("landbird", "waterbird")
"""The birds: `y` of the metadata."""

PLACES = ("land", "water")
"""The backgrounds: `place` of the metadata."""

SPLITS = ("train", "validation", "test")
"""The splits, in the order of the metadata's numbers."""

IN_DISTRIBUTION = (0, 3)
"""The groups whose background is the bird's own."""

OUT_OF_DISTRIBUTION = (1, 2)
"""The groups whose background is the other bird's."""

FOLDERS = ("waterbirds_v1.0", "waterbird_complete95_forest2water2", "waterbird_1.0_forest2water2")
"""Names of the data's folder, in WILDS and by those who made it."""

LAYOUT = (
    "the folder with 'metadata.csv' and the images in a folder for each species, as WILDS unpacks it ("
    f"{', '.join(FOLDERS)}), or the one that holds it"
)
COLUMNS = ("img_filename", "y", "split", "place")


@dataclass(frozen=True)
class Annotations:
    """Annotations by the Caltech-UCSD Birds: their folders of masks, and their boxes by file name."""

    segmentations: Path | None = None
    boxes: Mapping[str, tuple[float, float, float, float]] | None = None


def load_waterbirds(
    folder: str | Path,
    correlation: float | None = None,
    *,
    segmentations: str | Path | None = None,
    cub: str | Path | None = None,
    outside: Outside = "clip",
    faulty: Faulty = "refuse",
    skip_undecodable: bool = False,
) -> DatasetDict:
    """Load Waterbirds: the bird is the class, and in training the background nearly tells it.

    References:
        Sagawa et al., "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020; the layout is that of
        WILDS (Koh et al., 2021). Waterbirds-100, with which e²KD is evaluated, is `correlation=1.0`.

    Args:
        folder: Folder of `metadata.csv` (with the columns img_filename, y, split and place) and the images.
        correlation: None keeps the training split as it is published (.95); 1.0 leaves out its images before the other
            bird's background. Validation and test split stay as they are.
        segmentations: The folder of the Caltech-UCSD Birds' masks, `<species>/<image>.png`; their annotators' share
            above a half is the bird.
        cub: The folder `CUB_200_2011`, whose `images.txt` and `bounding_boxes.txt` give each bird's box.
        outside, faulty, skip_undecodable: See `hf_e2kd.data.annotated.annotated_dataset`.

    Returns:
        The splits `train`, `validation` and `test`. Columns: `id`, `image`, `label`, `boxes` and `box_labels` (empty
        without `cub`), `mask` (with `segmentations`), as in `hf_e2kd.data.annotated`; `place`, the background; and
        `group`, 2 · label + place: `IN_DISTRIBUTION` and `OUT_OF_DISTRIBUTION` name the groups of either kind.

    Raises:
        FileNotFoundError: a file or an image is missing; the path is named.
        ValueError: `metadata.csv` lacks a column or holds another value, an id occurs twice, an image stands in
            several splits, or an image, mask or box is faulty; file and line are named.
    """
    if correlation not in (None, 1.0):
        raise ValueError(
            f"correlation is {correlation}. Give None for the published training split (.95), or 1.0 for the variant "
            "without birds before the other background."
        )
    root = next((path for path in _roots(Path(folder)) if (path / "metadata.csv").is_file()), Path(folder))
    check_folder(root, ["metadata.csv"], LAYOUT)
    known = Annotations()
    if segmentations is not None:
        check_folder(Path(segmentations), [], "the folder of the Caltech-UCSD Birds' segmentations")
        known = Annotations(Path(segmentations))
    if cub is not None:
        known = Annotations(known.segmentations, read_cub_boxes(Path(cub)))
    rows = _read_metadata(root / "metadata.csv")
    for what, key in (("ids", "id"), ("files", "file")):
        by_split = {name: [row[key] for row in rows if row["split"] == split] for split, name in enumerate(SPLITS)}
        check_apart(by_split, what, root / "metadata.csv")
    return DatasetDict(
        {
            name: _make_split(
                root,
                [row for row in rows if row["split"] == split and _is_kept(row, name, correlation)],
                known,
                outside,
                faulty,
                skip_undecodable,
            )
            for split, name in enumerate(SPLITS)
        }
    )


def select_groups(dataset: Dataset, groups: Sequence[int]) -> Dataset:
    """The rows of some groups, as `select_groups(splits["test"], OUT_OF_DISTRIBUTION)`."""
    return dataset.select([row for row, group in enumerate(dataset["group"]) if group in groups])


def read_cub_boxes(folder: Path) -> dict[str, tuple[float, float, float, float]]:
    """The Caltech-UCSD Birds' boxes by the image's file name, as x0, y0, x1, y1 in pixels.

    Raises:
        FileNotFoundError: `images.txt` or `bounding_boxes.txt` is missing.
        ValueError: a line isn't as expected; it is named.
    """
    check_folder(folder, ["images.txt", "bounding_boxes.txt"], "the folder 'CUB_200_2011'")
    names: dict[str, str] = {}
    boxes = {}
    for file, length in (("images.txt", 2), ("bounding_boxes.txt", 5)):
        for number, line in enumerate(read_text(folder / file).splitlines(), start=1):
            values = line.split()
            try:
                if len(values) != length:
                    raise ValueError(f"{len(values)} values")
                if length == 2:
                    names[values[0]] = values[1]
                else:
                    x, y, width, height = map(float, values[1:])
                    boxes[names[values[0]]] = (x, y, x + width, y + height)
            except (ValueError, KeyError) as error:
                expected = "id and file name" if length == 2 else "id, x, y, width and height of an image of images.txt"
                raise ValueError(f"{folder / file}, line {number}: {line!r}. Expected {expected}.") from error
    return boxes


def _roots(folder: Path) -> list[Path]:
    return [folder, *(folder / name for name in FOLDERS)]


def _read_metadata(path: Path) -> list[dict]:
    """The rows with whole numbers for y, split and place, and with their line."""
    reader = csv.DictReader(read_text(path).splitlines())
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(
            f"{path} has no column {', '.join(missing)}. Its columns: {', '.join(reader.fieldnames or ('none',))}."
        )
    rows = []
    for row in reader:
        path_inside(path.parent, row["img_filename"], f"{path}, line {reader.line_num}")
        checked: dict = {"file": row["img_filename"], "id": row.get("img_id") or row["img_filename"]}
        for name, valid in (("y", CLASSES), ("split", SPLITS), ("place", PLACES)):
            if row[name] not in [str(number) for number in range(len(valid))]:
                raise ValueError(
                    f"{path}, line {reader.line_num}: {name} is {row[name]!r}. Expected "
                    + " or ".join(f"{number} ({meaning})" for number, meaning in enumerate(valid))
                    + "."
                )
            checked[name] = int(row[name])
        rows.append(checked)
    return rows


def _is_kept(row: Mapping, split: str, correlation: float | None) -> bool:
    return correlation is None or split != "train" or row["y"] == row["place"]


def _make_split(
    root: Path, rows: Sequence[Mapping], known: Annotations, outside: Outside, faulty: Faulty, skip_undecodable: bool
) -> Dataset:
    images = []
    for row in rows:
        boxes = []
        if known.boxes is not None:
            if row["file"] not in known.boxes:
                raise ValueError(f"The Caltech-UCSD Birds have no box for {row['file']}. Are both of one version?")
            boxes = [Box(known.boxes[row["file"]], row["y"], f"the box of {row['file']}")]
        images.append(
            AnnotatedImage(
                row["id"],
                root / row["file"],
                [row["y"]],
                boxes,
                mask=known.segmentations and (known.segmentations / row["file"]).with_suffix(".png"),
                source=str(root / "metadata.csv"),
                extra={"place": row["place"], "group": 2 * row["y"] + row["place"]},
            )
        )
    return annotated_dataset(
        images,
        CLASSES,
        multi_label=False,
        masks=known.segmentations is not None,
        extra=Features({"place": ClassLabel(names=list(PLACES)), "group": Value("int64")}),
        outside=outside,
        faulty=faulty,
        skip_undecodable=skip_undecodable,
    )
