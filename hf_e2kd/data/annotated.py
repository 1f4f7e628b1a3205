"""One schema for annotated images, and the checks that every loader makes.

A loader reads its layout into `AnnotatedImage`s, and `annotated_dataset` makes the data set of them:

- `id`: what the source calls the image, a string, once each
- `image`: the file, decoded when a row is read
- `labels`: the image's classes, a list of `ClassLabel`, ascending; or `label`, where each image has one
- `boxes`: a list of [x0, y0, x1, y1] in pixels of the image, x to the right, y down; the pixel in column 0 spans x from
  0 to 1, so that [0, 0, width, height] is the whole image, as `hf_e2kd.metrics.boxes_to_masks` takes it
- `box_labels`: the class of each box
- `difficult` (where the source has it): whether a box is one that the source's own scoring leaves out
- `mask` (where the source has it): a grey image of the image's size; above 127 is the object
"""

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from datasets import ClassLabel, Dataset, Features, List, Value

from .boxes import box_fault, choose_annotated, clip_box
from .decoding import NamedImage, image_size, workers

Outside = Literal["clip", "refuse"]
"""The treatment of a box that leaves its image."""

Faulty = Literal["refuse", "drop"]
"""The treatment of a box that has no area or isn't finite."""

ROUNDING = 0.5
"""A box that leaves its image by no more, in pixels, was rounded: it is cut without a word."""

SHOWN = 5
"""Number of files that a message names."""

Sizes = tuple[tuple[int, int], tuple[int, int] | None]
"""(width, height) of an image and of its mask, in pixels."""


@dataclass(frozen=True)
class Box:
    """One annotated object.

    Args:
        corners: x0, y0, x1, y1 in pixels.
        label: Class of the object.
        name: Name in messages, such as "object 2 (dog)".
        difficult: True where the source's own scoring leaves it out.
    """

    corners: tuple[float, float, float, float]
    label: int
    name: str
    difficult: bool = False


@dataclass
class AnnotatedImage:
    """One image with what is known of it.

    Args:
        id: Name that is unique in the data set.
        path: File of the image.
        labels: Classes; exactly one where the data set isn't multi-label.
        boxes: Objects; none where nothing is annotated.
        mask: File of its mask.
        size: Size (width, height) that the annotation states, in pixels; None where it states none.
        source: The file that annotates it, for messages.
        extra: Further columns.
    """

    id: str
    path: Path
    labels: Sequence[int]
    boxes: Sequence[Box] = ()
    mask: Path | None = None
    size: tuple[int, int] | None = None
    source: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


def annotated_dataset(
    images: Iterable[AnnotatedImage],
    classes: Sequence[str],
    *,
    multi_label: bool = True,
    difficult: bool = False,
    masks: bool = False,
    extra: Features | None = None,
    outside: Outside = "clip",
    faulty: Faulty = "refuse",
    skip_undecodable: bool = False,
    open_images: bool = True,
) -> Dataset:
    """Check annotated images and make the data set of them, in their order.

    Args:
        images: Images as a loader read them.
        classes: The names of the classes.
        multi_label: True where an image may have several or no classes (`labels`); False where it has one (`label`).
        difficult, masks: Add these columns.
        extra: The further columns.
        outside: "clip" cuts a box that leaves its image, and says how many; "refuse" names it.
        faulty: "refuse" names a box that has no area or isn't finite; "drop" leaves it out, and says how many.
        skip_undecodable: Leave out images that can't be decoded, with a warning that names them. Every image
            and mask is decoded once for that, in threads, at each loading: 1 to 3 ms of a core for a photograph of
            640×480 pixels. Otherwise only a JPEG's header and end are read now, in .1 ms, while other formats are
            decoded, and a file that is no image, or is cut off, is an error. One that is damaged in between is named as
            it is decoded in the training, and found before by `undecodable_images`.
        open_images: Open the files; False trusts the annotations.

    Raises:
        FileNotFoundError: an image or a mask is missing.
        ValueError: an id occurs twice, an image can't be decoded, it or its mask is of another size than stated, or a
            box is faulty; the file is named.
    """
    _check_choice("outside", outside, ("clip", "refuse"))
    _check_choice("faulty", faulty, ("refuse", "drop"))
    found = list(images)
    _check_ids(found)
    if open_images or skip_undecodable:
        _check_files(found)
        found, sizes = _sizes(found, skip_undecodable)
        _check_sizes(found, sizes)
        found = _check_boxes(found, sizes, outside, faulty)

    label = ClassLabel(names=list(classes))
    features: dict[str, Any] = {"id": Value("string"), "image": NamedImage()}
    columns: dict[str, list] = {"id": [x.id for x in found], "image": [_file(x.path) for x in found]}
    if multi_label:
        features["labels"], columns["labels"] = List(label), [sorted(set(x.labels)) for x in found]
    else:
        features["label"], columns["label"] = label, [x.labels[0] for x in found]
    features["boxes"] = List(List(Value("float32"), length=4))
    columns["boxes"] = [[list(box.corners) for box in x.boxes] for x in found]
    features["box_labels"], columns["box_labels"] = List(label), [[box.label for box in x.boxes] for x in found]
    if difficult:
        features["difficult"] = List(Value("bool"))
        columns["difficult"] = [[box.difficult for box in x.boxes] for x in found]
    if masks:
        features["mask"], columns["mask"] = NamedImage(mode="L"), [_file(x.mask) for x in found]
    for name, feature in (extra or {}).items():
        features[name], columns[name] = feature, [x.extra[name] for x in found]
    return Dataset.from_dict(columns, features=Features(features))


def keep_annotations(dataset: Dataset, fraction: float, seed: int = 0) -> Dataset:
    """The same images, of which only a fraction keep their boxes; labels stay, as they are cheap.

    Rao et al. (ICCV 2023) guide with 1, 10 and 100 %. The images of a smaller fraction are among those of a larger one.

    Args:
        dataset: Data set with a column `boxes`.
        fraction: Share of the images with boxes that keep them, from 0 to 1; above 0 at least one image.
        seed: The same seed chooses the same images.

    Raises:
        ValueError: the fraction is outside 0 to 1, or the data set has masks too.
    """
    if "mask" in dataset.column_names:
        raise ValueError(
            "The data set has masks beside its boxes, which would go on saying where all objects are. Remove one of "
            "the two: dataset.remove_columns('mask')."
        )
    plain = dataset.with_format(None)
    annotated = [row for row, boxes in enumerate(plain["boxes"]) if boxes]
    kept = {
        row for row, is_kept in zip(annotated, choose_annotated(len(annotated), fraction, seed), strict=True) if is_kept
    }
    columns = [name for name in ("boxes", "box_labels", "difficult") if name in dataset.column_names]

    def emptied(*row: Any) -> dict[str, Any]:
        *values, number = row
        return dict(zip(columns, values if number in kept else [[] for _ in columns], strict=True))

    few = plain.map(emptied, with_indices=True, input_columns=columns, features=dataset.features)
    shown = dataset.format
    return few.with_format(shown["type"], shown["columns"], shown["output_all_columns"], **shown["format_kwargs"])


def check_folder(folder: Path, needed: Sequence[str], layout: str) -> None:
    """Refuse a folder that lacks some of the files and folders of its layout.

    Args:
        needed: Paths inside the folder.
        layout: Description of the layout, for the message.

    Raises:
        FileNotFoundError: naming what is missing, what is there, and the layout.
    """
    missing = [name for name in needed if not (folder / name).exists()]
    if not missing and folder.is_dir():
        return
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder '{folder}'. Give {layout}.")
    there = sorted(child.name for child in folder.iterdir()) or ["nothing"]
    others = f", and {len(missing) - 1} more: {_some(missing[1:])}" if missing[1:] else ""
    raise FileNotFoundError(
        f"'{folder / missing[0]}' is missing{others}. In '{folder}' there is {_some(there)}. Give {layout}."
    )


def check_apart(splits: Mapping[str, Iterable[str]], what: str, source: Path) -> None:
    """Refuse splits that share an image, as a test on what was trained on says nothing.

    Args:
        splits: Names of the images, by split.
        what: Plural noun for these names, for the message.
        source: File or folder that states them.

    Raises:
        ValueError: naming what stands in several splits, and which these are.
    """
    places: dict[str, list[str]] = {}
    for split, names in splits.items():
        for name in dict.fromkeys(names):
            places.setdefault(name, []).append(split)
    shared = [f"{name} ({', '.join(where)})" for name, where in places.items() if len(where) > 1]
    if shared:
        raise ValueError(
            f"{len(shared)} {what} of {source} stand in more than one split: {_some(shared)}. Leave each in one; a "
            "test on images of the training tells nothing."
        )


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: it is of another encoding; the file is named.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}). Save it as UTF-8.") from error


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}. Choose from: {', '.join(choices)}.")


def _check_ids(images: Sequence[AnnotatedImage]) -> None:
    twice = [name for name, count in Counter(image.id for image in images).items() if count > 1]
    if twice:
        where = sorted({image.source for image in images if image.id == twice[0] and image.source})
        raise ValueError(
            f"{len(twice)} ids occur more than once: {_some(twice)}"
            + (f" (in {', '.join(where)})" if where else "")
            + ". Leave the repeated images out; their annotations would count twice."
        )


def _check_files(images: Sequence[AnnotatedImage]) -> None:
    for kind, paths in (("images", [x.path for x in images]), ("masks", [x.mask for x in images if x.mask])):
        missing = [str(path) for path in paths if not os.path.isfile(path)]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of {len(paths)} {kind} are missing: {_some(missing)}. Complete the download."
            )


def _sizes(images: Sequence[AnnotatedImage], decode: bool) -> tuple[list[AnnotatedImage], list[Sizes]]:
    """The images that can be opened, or decoded, and the size of each and of its mask."""

    def look_at(image: AnnotatedImage) -> Sizes | str:
        try:
            return image_size(image.path, decode), None if image.mask is None else image_size(image.mask, decode)
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(workers()) as pool:
        seen = list(pool.map(look_at, images))
    faults = [size for size in seen if isinstance(size, str)]
    if faults and not decode:
        raise ValueError(
            f"{len(faults)} of {len(images)} images can't be decoded: {_some(faults)}. Mend or remove them, or pass "
            "skip_undecodable=True to leave them out."
        )
    if faults:
        warnings.warn(
            f"{len(faults)} of {len(images)} images can't be decoded and are left out: {_some(faults)}.", stacklevel=4
        )
    kept = [image for image, size in zip(images, seen, strict=True) if not isinstance(size, str)]
    return kept, [size for size in seen if not isinstance(size, str)]


def _check_sizes(images: Sequence[AnnotatedImage], sizes: Sequence[Sizes]) -> None:
    for image, (size, mask) in zip(images, sizes, strict=True):
        if image.size is not None and image.size != size:
            raise ValueError(
                f"{image.source or image.id} states {image.size[0]}×{image.size[1]} pixels, but '{image.path}' has "
                f"{size[0]}×{size[1]}. Boxes are in pixels: use the images that were annotated, or scale the boxes."
            )
        if mask is not None and mask != size:
            raise ValueError(
                f"The mask '{image.mask}' has {mask[0]}×{mask[1]} pixels, but its image '{image.path}' has "
                f"{size[0]}×{size[1]}. Use masks of the images' size."
            )


def _check_boxes(
    images: Sequence[AnnotatedImage], sizes: Sequence[Sizes], outside: Outside, faulty: Faulty
) -> list[AnnotatedImage]:
    """The images with their boxes cut to them. A box that isn't finite or has no area in its image is faulty."""
    checked, clipped, dropped = [], [], []
    for image, ((width, height), _) in zip(images, sizes, strict=True):
        boxes = []
        for box in image.boxes:
            where = f"{image.source or image.path}, {box.name}: the box {[round(x, 2) for x in box.corners]}"
            fault = box_fault(box.corners)
            corners = box.corners if fault else clip_box(box.corners, width, height)
            leaves = not fault and max(abs(new - old) for new, old in zip(corners, box.corners, strict=True)) > ROUNDING
            if leaves and outside == "refuse":
                raise ValueError(
                    f"{where} (x0, y0, x1, y1) leaves the image of {width}×{height} pixels. Mend it, or pass "
                    "outside='clip' to cut such boxes."
                )
            if fault or box_fault(corners):
                fault = fault or f"lies outside the image of {width}×{height} pixels"
                if faulty == "refuse":
                    raise ValueError(
                        f"{where} (x0, y0, x1, y1) {fault}. Mend it, or pass faulty='drop' to leave such boxes out."
                    )
                dropped.append(where)
                continue
            if leaves:
                clipped.append(where)
            boxes.append(replace(box, corners=corners))
        checked.append(replace(image, boxes=boxes))
    faults = "aren't finite, or have no area in it,"
    for done, why, places in (("cut", "leave their image", clipped), ("left out", faults, dropped)):
        if places:
            warnings.warn(f"{len(places)} boxes that {why} are {done}: {_some(places)}.", stacklevel=4)
    return checked


def _file(path: Path | None) -> dict[str, Any] | None:
    return None if path is None else {"path": str(path), "bytes": None}


def _some(names: Sequence[str]) -> str:
    return "; ".join(names[:SHOWN]) + ("; …" if len(names) > SHOWN else "")
