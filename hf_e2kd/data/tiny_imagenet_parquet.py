"""Tiny ImageNet from Parquet files, which hold its images with labels and boxes."""

import csv
import glob
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from .annotated import check_folder, read_text
from .boxes import box_fault
from .decoding import NamedImage
from .imagenet import class_names

PARQUET_LAYOUT = "the folder with 'classes.csv' (label, wnid), files 'train*.parquet' and 'validation*.parquet'"


def load_tiny_imagenet_parquet(folder: str | Path) -> DatasetDict:
    """Load Tiny ImageNet with its boxes, from Parquet files with the columns `image`, `label` and `box`.

    Args:
        folder: Folder of `classes.csv`, with the columns `label` and `wnid`; of `train*.parquet`, which follow one
            another in the order of their names; and of `validation*.parquet`. A box is its object's first and last
            column and row (x0, y0, x1, y1), as in the original's files.

    Returns:
        The splits and columns of `hf_e2kd.data.load_tiny_imagenet`, the labels in the order of the table.

    Raises:
        FileNotFoundError: a file is missing; the path is named.
        ValueError: a column is missing, the labels aren't numbered from 0 on, a label is none of theirs, or a box is
            faulty; file and row are named.
    """
    root = Path(folder)
    check_folder(root, ["classes.csv"], PARQUET_LAYOUT)
    classes = class_names(_read_wnids(root / "classes.csv"))
    files = {split: sorted(root.glob(f"{split}*.parquet")) for split in ("train", "validation")}
    if missing := [split for split, found in files.items() if not found]:
        raise FileNotFoundError(f"'{root / missing[0]}*.parquet' is missing. Give {PARQUET_LAYOUT}.")
    return DatasetDict({split: _load_split(found, classes) for split, found in files.items()})


def _read_wnids(path: Path) -> list[str]:
    """The WordNet ids in the order of the labels."""
    lines = csv.DictReader(read_text(path).splitlines())
    if not {"label", "wnid"} <= set(lines.fieldnames or ()):
        raise ValueError(
            f"'{path}' has the columns {', '.join(lines.fieldnames or ['(none)'])}. Expected label and wnid among them."
        )
    wnids = {line["label"]: line["wnid"] for line in lines}
    if not wnids or set(wnids) != {str(label) for label in range(len(wnids))}:
        raise ValueError(f"The labels of '{path}' must be 0, 1, 2 … without a gap, and there are {', '.join(wnids)}.")
    return [wnids[str(label)] for label in range(len(wnids))]


def _load_split(files: list[Path], classes: list[str]) -> Dataset:
    data = Dataset.from_parquet([glob.escape(str(file)) for file in files])
    if missing := [name for name in ("image", "label", "box") if name not in data.column_names]:
        raise ValueError(f"'{files[0]}' has no column '{missing[0]}'. Its columns: {', '.join(data.column_names)}.")
    names = ", ".join(file.name for file in files)

    def annotated(labels: list[int], boxes: list[list[float]], images: list[Any], rows: list[int]) -> dict[str, Any]:
        found = []
        for label, (x0, y0, x1, y1), row in zip(labels, boxes, rows, strict=True):
            if not 0 <= label < len(classes):
                raise ValueError(f"{names}, row {row}: the label {label} is none of the {len(classes)} of classes.csv.")
            corners = [x0, y0, x1 + 1, y1 + 1]  # behind the last column and row
            if fault := box_fault(corners):
                raise ValueError(f"{names}, row {row}: the box {[x0, y0, x1, y1]} (x0, y0, x1, y1) {fault}. Mend it.")
            found.append([corners])
        return {
            "id": [Path(image["path"]).stem for image in images],
            "boxes": found,
            "box_labels": [[label] for label in labels],
        }

    label = ClassLabel(names=classes)
    features = Features(
        id=Value("string"),
        image=NamedImage(),
        label=label,
        boxes=List(List(Value("float32"), length=4)),
        box_labels=List(label),
    )
    return (
        data.cast_column("image", NamedImage(decode=False))
        .map(
            annotated,
            batched=True,
            with_indices=True,
            input_columns=["label", "box", "image"],
            remove_columns=["box"],
            features=Features({**features, "image": NamedImage(decode=False)}),
        )
        .cast(features)
        .select_columns(list(features))
    )
