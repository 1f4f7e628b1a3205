"""SUN397 and ImageNet from disk: images in folders by class.

`datasets`' own "imagefolder" names a class after the last folder alone, which would join SUN397's
"apartment_building/outdoor" and "bazaar/outdoor" into one, gives no ids, and makes a copy of the table in its cache. So
the folders are read here.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from datasets import DatasetDict
from timm.data import ImageNetInfo

from .annotated import AnnotatedImage, annotated_dataset, check_folder

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""What an image's file name ends in, in small or capital letters."""

PARTITIONS = {"train": "Training_{:02d}.txt", "test": "Testing_{:02d}.txt"}
"""The lists of SUN397's ten partitions."""

SUN_LAYOUT = "the folder 'SUN397', with the images in 'a/abbey', 'a/apartment_building/outdoor' and so on"
IMAGENET_LAYOUT = "the folder with 'train' and 'val', each with one folder a class that is called by its WordNet id"


def load_sun397(
    folder: str | Path,
    partition: int | None = None,
    *,
    partitions: str | Path | None = None,
    skip_undecodable: bool = False,
    open_images: bool = True,
) -> DatasetDict:
    """Loads SUN397's scenes.

    References:
        Xiao et al., "SUN Database: Large-scale Scene Recognition from Abbey to Zoo", CVPR 2010;
        https://vision.princeton.edu/projects/2010/SUN.

    Args:
        folder: `SUN397`, with a folder for each first letter, or the folder that holds it.
        partition: One of the ten partitions into training and test images, from 1; None takes all images as `train`.
        partitions: The folder of the partitions' lists, `Training_01.txt` and so on; by default `folder` itself.
        skip_undecodable, open_images: See `hf_e2kd.data.annotated.annotated_dataset`.

    Returns:
        The splits `train` and, with a partition, `test`. Columns: `id` (the path as SUN397 writes it,
        "/a/abbey/sun_….jpg"), `image`, `label` ("abbey", "apartment_building/outdoor", ...), and empty `boxes` and
        `box_labels`.

    Raises:
        FileNotFoundError: a folder, a list or an image is missing; the path is named.
        ValueError: the partition doesn't exist, or an image can't be decoded.
    """
    root = Path(folder) / "SUN397" if (Path(folder) / "SUN397").is_dir() else Path(folder)
    check_folder(root, ["a"], SUN_LAYOUT)
    found = [path for letter in sorted(root.iterdir()) if len(letter.name) == 1 for path in _images(letter)]
    classes = sorted({_scene(path, root) for path in found})
    labels = {name: label for label, name in enumerate(classes)}
    if partition is None:
        splits = {"train": found}
    else:
        if partition not in range(1, 11):
            raise ValueError(f"partition is {partition}. Give a number from 1 to 10, or None for all images.")
        lists = Path(partitions) if partitions is not None else root
        files = {split: name.format(partition) for split, name in PARTITIONS.items()}
        check_folder(lists, list(files.values()), "the folder of SUN397's partitions, unpacked from Partitions.zip")
        splits = {split: _listed(root, lists / file, labels) for split, file in files.items()}
    return DatasetDict(
        {
            split: annotated_dataset(
                [
                    AnnotatedImage("/" + path.relative_to(root).as_posix(), path, [labels[_scene(path, root)]])
                    for path in paths
                ],
                classes,
                multi_label=False,
                skip_undecodable=skip_undecodable,
                open_images=open_images,
            )
            for split, paths in splits.items()
        }
    )


def load_imagenet(
    folder: str | Path,
    splits: Sequence[str] | None = None,
    *,
    skip_undecodable: bool = False,
    open_images: bool = False,
) -> DatasetDict:
    """Loads ImageNet, or some of its classes, from one folder a class.

    References:
        Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", 2015. The names are WordNet's, as timm
        has them.

    Args:
        folder: Holds `train` and `val`, each with one folder a class such as `n01440764`.
        splits: Folders to read; None takes those of `train` and `val` that exist.
        skip_undecodable, open_images: See `hf_e2kd.data.annotated.annotated_dataset`. The files aren't looked at unless
            asked, because there may be more than a million.

    Returns:
        The splits `train` and `validation`. Columns: `id` ("n01440764/n01440764_10026"), `image`, `label`, and empty
        `boxes` and `box_labels`. The labels are in the order of the WordNet ids, which for all 1,000 classes is that of
        the published models; each is called by its words, followed by the id where two classes share them.

    Raises:
        FileNotFoundError: a folder is missing, or is without images in class folders.
        ValueError: two splits have other classes, or an image is asked for and can't be decoded.
    """
    root = Path(folder)
    wanted = list(splits or [name for name in ("train", "val") if (root / name).is_dir()] or ["train"])
    check_folder(root, wanted, IMAGENET_LAYOUT)
    found = {split: _by_class(root / split) for split in wanted}
    wnids = sorted(found[wanted[0]])
    for split, images in found.items():
        if sorted(images) != wnids:
            apart = sorted(set(images) ^ set(wnids))
            raise ValueError(
                f"'{root / split}' and '{root / wanted[0]}' have not the same classes: {', '.join(apart[:5])} "
                f"{'are' if len(apart) > 1 else 'is'} in one of them only. Labels count over both: complete the folder."
            )
    names = class_names(wnids)
    return DatasetDict(
        {
            "validation" if split == "val" else split: annotated_dataset(
                [
                    AnnotatedImage(f"{wnid}/{path.stem}", path, [label])
                    for label, wnid in enumerate(wnids)
                    for path in images[wnid]
                ],
                names,
                multi_label=False,
                skip_undecodable=skip_undecodable,
                open_images=open_images,
            )
            for split, images in found.items()
        }
    )


def class_names(wnids: Sequence[str]) -> list[str]:
    """The words of WordNet ids, unique: "crane (n02012849)" and "crane (n03126707)"; an unknown id names itself.

    Example:
        >>> class_names(["n01440764", "my_class"])
        ['tench, Tinca tinca', 'my_class']
    """
    info = ImageNetInfo()
    known = set(info.label_names())
    words = [info.label_name_to_description(wnid) if wnid in known else wnid for wnid in wnids]
    return [f"{name} ({wnid})" if words.count(name) > 1 else name for name, wnid in zip(words, wnids, strict=True)]


def _images(folder: Path) -> Iterator[Path]:
    """The image files in a folder and below it, sorted."""
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES):
                yield Path(parent, name)


def _by_class(folder: Path) -> dict[str, list[Path]]:
    """The images of each class folder.

    Raises:
        FileNotFoundError: the folder has no class folder, or one without images.
    """
    classes = sorted(child for child in folder.iterdir() if child.is_dir())
    if not classes:
        raise FileNotFoundError(
            f"'{folder}' has no class folders. Give {IMAGENET_LAYOUT}; the validation images come in one folder and "
            "must be sorted into their classes first."
        )
    found = {path.name: list(_images(path)) for path in classes}
    empty = [name for name, images in found.items() if not images]
    if empty:
        raise FileNotFoundError(
            f"'{folder / empty[0]}' holds no image ({', '.join(SUFFIXES)}). Complete the download, or remove it."
        )
    return found


def _scene(path: Path, root: Path) -> str:
    """An image's class as SUN397 names it: its folders below the first letter, "apartment_building/outdoor"."""
    return "/".join(path.relative_to(root).parts[1:-1])


def _listed(root: Path, file: Path, labels: Mapping[str, int]) -> list[Path]:
    """The images that a partition's list names, as "/a/abbey/sun_….jpg".

    Raises:
        ValueError: a line names a class without a folder.
    """
    paths = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        path = root / line.strip().lstrip("/")
        if _scene(path, root) not in labels:
            raise ValueError(
                f"{file}, line {number}: {line.strip()!r} is in no folder of images of '{root}'. Complete the download."
            )
        paths.append(path)
    return paths
