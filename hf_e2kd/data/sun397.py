"""SUN397 from disk (Xiao et al., CVPR 2010): images in folders by scene.

`datasets`' own "imagefolder" names a class after the last folder alone, which would join
"apartment_building/outdoor" and "bazaar/outdoor" into one, gives no ids, and makes a copy of the table in its cache. So
the folders are read here.
"""

from collections.abc import Mapping
from pathlib import Path

from datasets import DatasetDict

from .annotated import AnnotatedImage, annotated_dataset, check_folder, read_text
from .files import path_inside
from .image_files import images_below

PARTITIONS = {"train": "Training_{:02d}.txt", "test": "Testing_{:02d}.txt"}
"""The lists of SUN397's ten partitions."""

SUN_LAYOUT = "the folder 'SUN397', with the images in 'a/abbey', 'a/apartment_building/outdoor' and so on"


def load_sun397(
    folder: str | Path,
    partition: int | None = None,
    *,
    partitions: str | Path | None = None,
    skip_undecodable: bool = False,
    open_images: bool = True,
) -> DatasetDict:
    """Load SUN397's scenes.

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
    found = [path for letter in sorted(root.iterdir()) if len(letter.name) == 1 for path in images_below(letter)]
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


def _scene(path: Path, root: Path) -> str:
    """An image's class as SUN397 names it: its folders below the first letter, "apartment_building/outdoor"."""
    return "/".join(path.relative_to(root).parts[1:-1])


def _listed(root: Path, file: Path, labels: Mapping[str, int]) -> list[Path]:
    """The images that a partition's list names, as "/a/abbey/sun_….jpg".

    Raises:
        ValueError: a line names a class without a folder.
    """
    paths = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        path = path_inside(root, line.strip().lstrip("/"), f"{file}, line {number}")
        if _scene(path, root) not in labels:
            raise ValueError(
                f"{file}, line {number}: {line.strip()!r} is in no folder of images of '{root}'. Complete the download."
            )
        paths.append(path)
    return paths
