"""MS COCO, and other data in the form of its instances files: images with their objects' classes and boxes."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from .annotated import AnnotatedImage, Box, Faulty, Outside, annotated_dataset, check_folder
from .files import path_inside

VOC_NAMES = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}
"""COCO's names of the classes that VOC names otherwise; the other 14 have the same name."""

SPLITS = {"val": "validation"}
"""Splits under another name than COCO's."""

NEEDED = {
    "images": ("id", "file_name"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
"""The lists of an instances file, and what each of their entries must state."""

OPTIONAL = {"images": ("width", "height", "split")}
"""Further entries that are read where they are stated."""

KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(("id", "image_id", "category_id"), ((int, str), "a whole number or a text")),
    **dict.fromkeys(("file_name", "name", "split"), ((str,), "a text")),
    **dict.fromkeys(("width", "height"), ((int, float), "a number of pixels")),
    "bbox": ((list,), "x, y, width and height in pixels"),
}
"""Types of the values, and their names in messages."""

ONCE = {"images": ("id", "file_name"), "annotations": ("id",), "categories": ("id", "name")}
"""Whose values occur once in a list."""


@dataclass(frozen=True)
class Selection:
    """The selection of a file's annotations, and its strictness; the arguments of `load_coco`."""

    classes: Sequence[str] | None = None
    difficult: bool = True
    unannotated: bool = True
    outside: Outside = "clip"
    faulty: Faulty = "refuse"
    skip_undecodable: bool = False


def load_coco(
    folder: str | Path,
    year: int = 2017,
    *,
    classes: Sequence[str] | None = None,
    difficult: bool = True,
    unannotated: bool = True,
    outside: Outside = "clip",
    faulty: Faulty = "refuse",
    skip_undecodable: bool = False,
) -> DatasetDict:
    """Load COCO's images, classes and boxes.

    References:
        Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; https://cocodataset.org.

    Args:
        folder: Folder of `annotations/instances_train<year>.json`, `annotations/instances_val<year>.json` and the
            images in `train<year>` and `val<year>`; or one `instances.json`, whose images name their file by its path
            in the folder, and may each state a "split" ("train" otherwise).
        year: 2014 or 2017.
        classes: The classes to keep, in the order of their labels; None keeps all, in the file's order. VOC's names
            are understood: `hf_e2kd.data.voc.CLASSES` selects VOC's 20 classes, under these names.
        difficult: Keep regions of a crowd, one box around many objects, flagged in the column `difficult`.
            Without them, a class that an image shows in a crowd alone counts as a negative of it.
        unannotated: Keep images without an object of the classes, with empty lists.
        outside, skip_undecodable: See `hf_e2kd.data.annotated.annotated_dataset`. Boxes up to half a pixel outside are
            taken as rounded.
        faulty: The same. COCO's own training split has a few boxes without an area: pass "drop" there.

    Returns:
        The splits `train` and `validation`, or those that the images state. Columns: `id`, `image`, `labels`, `boxes`,
        `box_labels`, `difficult`; see `hf_e2kd.data.annotated`.

    Raises:
        FileNotFoundError: a file or an image is missing; the path is named.
        ValueError: a file isn't COCO's JSON or has no images, an id or an image's file occurs twice, a class doesn't
            exist, or an image or a box is faulty; file and annotation are named.
    """
    folder = Path(folder)
    selection = Selection(classes, difficult, unannotated, outside, faulty, skip_undecodable)
    if (folder / "instances.json").is_file():
        content = read_instances(folder / "instances.json")
        splits = list(dict.fromkeys(image.get("split", "train") for image in content["images"]))
        parts = {split: (folder / "instances.json", folder, content, split) for split in splits}
    else:
        files = {split: f"annotations/instances_{split}{year}.json" for split in ("train", "val")}
        layout = (
            f"the folder with 'annotations/instances_train{year}.json', 'annotations/instances_val{year}.json', "
            f"'train{year}' and 'val{year}', or one with an 'instances.json'"
        )
        check_folder(folder, [*files.values(), *(f"{split}{year}" for split in files)], layout)
        parts = {
            split: (folder / file, folder / f"{split}{year}", read_instances(folder / file), "")
            for split, file in files.items()
        }
    return DatasetDict(
        {SPLITS.get(split, split): _make_split(*part, selection=selection) for split, part in parts.items()}
    )


def read_instances(path: str | Path) -> dict[str, list[dict[str, Any]]]:
    """An instances file: its `images`, `annotations` and `categories`.

    Raises:
        ValueError: the file isn't JSON, lacks one of the three or what they must state, has no images, or an id or an
            image's file occurs twice; the entry is named.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}). Download it anew.") from error
    for name, keys in NEEDED.items():
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise ValueError(f"{path} has no list '{name}'. Expected COCO's lists {', '.join(NEEDED)}.")
        for number, entry in enumerate(content[name]):
            missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if missing:
                raise ValueError(f"{path}, entry {number} of '{name}' has no {', '.join(missing)}.")
            for key in (*keys, *OPTIONAL.get(name, ())):
                if key in entry and not isinstance(entry[key], KINDS[key][0]):
                    raise ValueError(
                        f"{path}, entry {number} of '{name}': {key} is {entry[key]!r}. Expected {KINDS[key][1]}."
                    )
        for key in ONCE[name]:
            counts = Counter(entry[key] for entry in content[name])
            twice = [value for value, count in counts.items() if count > 1]
            if twice:
                raise ValueError(
                    f"{path}: {len(twice)} values of '{key}' occur more than once in '{name}', such as {twice[0]!r}. "
                    "Leave the repeated entries out."
                )
    if not content["images"]:
        raise ValueError(f"{path} has no images: its list 'images' is empty. Download it anew.")
    return content


def select_categories(
    categories: Sequence[Mapping[str, Any]], classes: Sequence[str] | None
) -> tuple[list[str], dict[int, int]]:
    """The names of the classes, and the label of each category that is kept, by its id.

    Args:
        categories: COCO's, each with `id` and `name`.
        classes: The classes to keep, by COCO's names or VOC's; None for all.

    Raises:
        ValueError: a class doesn't exist or occurs twice; those that exist are listed.

    Example:
        >>> select_categories([{"id": 1, "name": "person"}, {"id": 5, "name": "airplane"}], ["aeroplane"])
        (['aeroplane'], {5: 0})
    """
    ids = {category["name"]: category["id"] for category in categories}
    names = list(ids) if classes is None else list(classes)
    own = [name if name in ids else VOC_NAMES.get(name, name) for name in names]
    unknown = [name for name, called in zip(names, own, strict=True) if called not in ids]
    if unknown:
        raise ValueError(f"There are no classes {', '.join(unknown)}. Choose from: {', '.join(ids)}.")
    if len(set(own)) < len(own):
        raise ValueError(f"classes names one class more than once: {', '.join(names)}.")
    return names, {ids[called]: label for label, called in enumerate(own)}


def _make_split(path: Path, folder: Path, content: Mapping[str, list], split: str, selection: Selection) -> Dataset:
    """One split of an instances file: the images that state it, or all where `split` is empty."""
    names, labels = select_categories(content["categories"], selection.classes)
    known = {image["id"] for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    objects: dict[Any, list[Box]] = defaultdict(list)
    for entry in content["annotations"]:
        for key, ids in (("image_id", known), ("category_id", categories)):
            if entry[key] not in ids:
                raise ValueError(f"{path}, annotation {entry['id']}: the {key} {entry[key]!r} is not in the file.")
        crowd = bool(entry.get("iscrowd", 0))
        if entry["category_id"] in labels and (selection.difficult or not crowd):
            objects[entry["image_id"]].append(_read_box(path, entry, labels, names, crowd))
    images = []
    for image in content["images"]:
        boxes = objects[image["id"]]
        if (split and image.get("split", "train") != split) or not (boxes or selection.unannotated):
            continue
        size = (image["width"], image["height"]) if "width" in image and "height" in image else None
        images.append(
            AnnotatedImage(
                str(image["id"]),
                path_inside(folder, image["file_name"], f"{path}, image {image['id']}"),
                [box.label for box in boxes],
                boxes,
                size=size,
                source=str(path),
            )
        )
    return annotated_dataset(
        images,
        names,
        difficult=True,
        outside=selection.outside,
        faulty=selection.faulty,
        skip_undecodable=selection.skip_undecodable,
    )


def _read_box(path: Path, entry: Mapping[str, Any], labels: Mapping, names: Sequence[str], crowd: bool) -> Box:
    """An annotation's box: x, y, width, height become x0, y0, x1, y1."""
    label = labels[entry["category_id"]]
    called = f"annotation {entry['id']} ({names[label]})"
    try:
        x, y, width, height = (float(value) for value in entry["bbox"])
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path}, {called}: the bbox is {entry['bbox']!r}. Expected x, y, width and height in pixels."
        ) from error
    return Box((x, y, x + width, y + height), label, called, crowd)
