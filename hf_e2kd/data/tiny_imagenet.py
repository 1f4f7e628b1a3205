"""Tiny ImageNet from disk: 200 of ImageNet's classes at 64×64 pixels, with a box in each image."""

from pathlib import Path

from datasets import DatasetDict

from .annotated import AnnotatedImage, Box, Faulty, Outside, annotated_dataset, check_folder, read_text
from .files import path_inside
from .image_files import images_below
from .imagenet import class_names

TINY_LAYOUT = "the folder 'tiny-imagenet-200' with 'wnids.txt', 'train' and 'val'"


def load_tiny_imagenet(
    folder: str | Path,
    *,
    outside: Outside = "clip",
    faulty: Faulty = "refuse",
    skip_undecodable: bool = False,
    open_images: bool = True,
) -> DatasetDict:
    """Load Tiny ImageNet with its boxes.

    References:
        Le and Yang, "Tiny ImageNet Visual Recognition Challenge", 2015.

    Args:
        folder: `tiny-imagenet-200`, or the folder that holds it. Its test images have no labels and aren't read.
        outside, faulty, skip_undecodable, open_images: See `hf_e2kd.data.annotated.annotated_dataset`.

    Returns:
        The splits `train` and `validation`. Columns: `id` (the file's name without its ending), `image`, `label` in the
        order of the WordNet ids, named as `hf_e2kd.data.imagenet.class_names` says, `boxes` and `box_labels`, as in
        `hf_e2kd.data.annotated`. The files state a box by its first and its last pixel, so that one is added to the
        latter.

    Raises:
        FileNotFoundError: a file or an image is missing; the path is named.
        ValueError: a line of a list isn't one, a class is unknown, an image has no or another's line, or an image or a
            box is faulty; file and line are named.
    """
    root = Path(folder)
    root = root / "tiny-imagenet-200" if (root / "tiny-imagenet-200").is_dir() else root
    check_folder(root, ["wnids.txt", "train", "val/images", "val/val_annotations.txt"], TINY_LAYOUT)
    wnids = sorted(read_text(root / "wnids.txt").split())
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    if len(labels) < len(wnids) or not wnids:
        raise ValueError(f"'{root / 'wnids.txt'}' is empty or names a class twice. Get it anew.")
    for wnid in wnids:
        path_inside(root / "train", wnid, f"{root / 'wnids.txt'}")
    check_folder(root / "train", wnids, TINY_LAYOUT)
    images = {"train": _training_images(root, labels), "validation": _validation_images(root, labels)}
    return DatasetDict(
        {
            split: annotated_dataset(
                found,
                class_names(wnids),
                multi_label=False,
                outside=outside,
                faulty=faulty,
                skip_undecodable=skip_undecodable,
                open_images=open_images,
            )
            for split, found in images.items()
        }
    )


def _training_images(root: Path, labels: dict[str, int]) -> list[AnnotatedImage]:
    found = []
    for wnid, label in labels.items():
        folder = root / "train" / wnid
        file = folder / f"{wnid}_boxes.txt"
        check_folder(folder, ["images", file.name], TINY_LAYOUT)
        boxes = {name: (where, corners) for where, name, corners in _read_lines(file, columns=0)}
        names = {path.name for path in images_below(folder / "images")}
        if apart := sorted(names ^ boxes.keys()):
            raise ValueError(
                f"{file}: {len(apart)} images have a file or a line alone, such as {apart[0]}. Complete the download."
            )
        for name, (where, corners) in boxes.items():
            found.append(_image(path_inside(folder / "images", name, where), label, corners, where))
    return found


def _validation_images(root: Path, labels: dict[str, int]) -> list[AnnotatedImage]:
    file = root / "val" / "val_annotations.txt"
    found = []
    for where, name, (wnid, *corners) in _read_lines(file, columns=1):
        if wnid not in labels:
            raise ValueError(f"{where}: the class {wnid!r} isn't in '{root / 'wnids.txt'}'.")
        found.append(_image(path_inside(root / "val" / "images", name, where), labels[wnid], corners, where))
    return found


def _read_lines(file: Path, columns: int) -> list[tuple[str, str, list[str]]]:
    """Lines of a file name, further columns, and a box's four corners, separated by tabs; with where each stands."""
    found = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        name, *rest = line.split("\t")
        corners = rest[columns:]
        if len(corners) != 4 or not all(corner.strip().isdecimal() for corner in corners):
            raise ValueError(
                f"{file}, line {number}: {line!r}. Expected a file name, {'a class, ' * columns}and the four numbers "
                "of a box, separated by tabs."
            )
        found.append((f"{file}, line {number}", name, rest))
    if not found:
        raise ValueError(f"'{file}' is empty. Complete the download.")
    return found


def _image(path: Path, label: int, corners: list[str], where: str) -> AnnotatedImage:
    x0, y0, x1, y1 = (float(corner) for corner in corners)
    return AnnotatedImage(path.stem, path, [label], [Box((x0, y0, x1 + 1, y1 + 1), label, "the box")], source=where)
