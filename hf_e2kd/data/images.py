"""Image classification data by Hub id or from a folder, for training and evaluation."""

import glob
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Image, Value, load_dataset, load_from_disk

from ..logs import get_logger
from .decoding import NamedImage, undecodable_images
from .files import load_data_file, path_inside
from .holding_out import hold_out, state_names
from .image_files import SUFFIXES, images_below
from .imagenet import unique_class_names

logger = get_logger(__name__)

DEFAULT_SPLIT = "validation"
"""Split to measure on, which may be missing."""

SPLIT_FOLDERS = ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval")


def load_images(
    source: str,
    train_split: str = "train",
    eval_split: str = DEFAULT_SPLIT,
    image_column: str = "image",
    eval_share: float = 0.1,
    seed: int = 0,
    skip_undecodable: bool = False,
    config: str | None = None,
) -> tuple[Dataset, Dataset]:
    """Load images to distil on.

    Args:
        source: A Hub id, a folder saved by `save_to_disk`, a folder of images (in one folder a class, or without
            labels), or a file (CSV, JSON, …) that lists images in its folder by their paths. No code of the data set is
            run.
        train_split, eval_split: Names of the splits. Where there is no `validation`, and no other split is named,
            `eval_share` of the training split is held out by `seed`, with a warning where there are others.
        image_column: The column of the images.
        skip_undecodable: Leave images out that can't be decoded, with a warning that names them. Every image of these
            splits is decoded once for that.
        config: Name of the data set's configuration on the Hub.

    Returns:
        The training and the evaluation set.

    Raises:
        ValueError: a split or the column is missing; those that exist are listed. Or a folder's images aren't in
            one split, once each; or a file lists images that aren't there, or outside its folder.
    """
    splits = load_image_splits(source, config, image_column)
    for split in (train_split, *([] if eval_split == DEFAULT_SPLIT else [eval_split])):
        if split not in splits:
            raise ValueError(f"'{source}' has no split '{split}'. Its splits: {', '.join(splits)}.")
    if eval_split not in splits and len(splits) > 1:
        logger.warning(
            f"'{source}' has no split '{eval_split}': {100 * eval_share:g} % of '{train_split}' are held out. Name one "
            f"of {', '.join(splits)} by --eval_split to measure on that."
        )
    train = splits[train_split]
    if image_column not in train.column_names:
        raise ValueError(f"'{source}' has no column '{image_column}'. Its columns: {', '.join(train.column_names)}.")
    if skip_undecodable:
        for name in {train_split, eval_split} & set(splits):
            splits[name] = without_undecodable(splits[name], image_column)
        train = splits[train_split]
    if eval_split in splits:
        # A data set of its own: each of both gets a transform.
        return train, splits[eval_split].with_format(None) if eval_split == train_split else splits[eval_split]
    return hold_out(train, train_split, eval_share, seed)


def load_image_splits(source: str, config: str | None = None, image_column: str = "image") -> DatasetDict:
    """All splits of a source as for `load_images`; "train" where there is one."""
    splits = _read_splits(source, config)
    if Path(source).is_file():
        splits = DatasetDict({name: _with_listed_images(split, image_column, source) for name, split in splits.items()})
    splits = DatasetDict({name: with_names(split) for name, split in splits.items()})
    state_names(splits)
    return splits


def _with_listed_images(dataset: Dataset, column: str, source: str) -> Dataset:
    """The rows of a file, with images in the place of their paths, which are relative to its folder.

    Raises:
        ValueError: a row without a path, a path out of the folder, or paths at which there is no file.
    """
    feature = dataset.features.get(column)
    # "null": all of its cells are empty.
    if not (isinstance(feature, Value) and feature.dtype in ("string", "large_string", "null")):
        return dataset
    folder = Path(source).resolve().parent
    files, missing = [], []
    for row, name in enumerate(dataset[column]):
        stated = f"Row {row} of '{source}', counted from 0 without the header,"
        if not name:
            raise ValueError(f"{stated} names no image in the column '{column}'. Fill it in, or take the row out.")
        files.append(path_inside(folder, name, stated))
        if not files[-1].is_file():
            missing.append(name)
    if missing:
        raise ValueError(
            f"The column '{column}' of '{source}' names {len(missing)} of {len(files)} images that aren't in "
            f"'{folder}', the first is {missing[0]!r}. Write paths as seen from that folder."
        )
    # Beside the other columns, as a data set may have no others.
    cells = [{"bytes": None, "path": str(file)} for file in files]
    listed = dataset.add_column(f"{column} files", cells, feature=Image())
    return listed.remove_columns(column).rename_column(f"{column} files", column)


def with_names(dataset: Dataset) -> Dataset:
    """The same data, whose errors name the image that can't be decoded, and whose classes have unique names."""
    for column, feature in dataset.features.items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(column, NamedImage(feature.mode, feature.decode))
        elif isinstance(feature, ClassLabel):
            # A cast would write all of the data anew.
            dataset.info.features[column] = ClassLabel(names=unique_class_names(feature.names))
    return dataset


def sample_names(dataset: Any, rows: Sequence[int]) -> list[str]:
    """Name rows for a picture's captions: by the file of their image, or "sample N" where the data states none."""
    features = dataset.features.items() if isinstance(dataset, Dataset) else ()
    column = next((name for name, feature in features if isinstance(feature, Image)), None)
    if column is None:
        return [f"sample {row}" for row in rows]
    cells = dataset.with_format(None).select_columns(column).cast_column(column, Image(decode=False))
    files = [(cells[row][column] or {}).get("path") for row in rows]
    return [Path(file).name if file else f"sample {row}" for row, file in zip(rows, files, strict=True)]


def without_undecodable(dataset: Dataset, column: str = "image") -> Dataset:
    """The rows whose image can be decoded, with a warning that names the others."""
    faulty = undecodable_images(dataset, column)
    if not faulty:
        return dataset
    cells = dataset.select(faulty).cast_column(column, Image(decode=False))[column]
    names = [f"'{cell['path']}'" if cell["path"] else f"row {row}" for row, cell in zip(faulty, cells, strict=True)]
    warnings.warn(
        f"{len(faulty)} of {len(dataset)} images can't be decoded and are left out: {'; '.join(names[:5])}"
        f"{'; …' if len(names) > 5 else ''}.",
        stacklevel=3,
    )
    left_out = set(faulty)
    return dataset.select([row for row in range(len(dataset)) if row not in left_out])


def _read_splits(source: str, config: str | None) -> DatasetDict:
    folder = Path(source)
    if folder.is_file():
        return load_data_file(source)
    if not folder.is_dir():
        return load_dataset(source, config)
    if (folder / "dataset_dict.json").exists() or (folder / "dataset_info.json").exists():
        saved = load_from_disk(source)
        return saved if isinstance(saved, DatasetDict) else DatasetDict(train=saved)
    # Else a bracket or a star in its path would stand for other folders.
    place = glob.escape(str(folder.resolve()))
    loaded = load_dataset("imagefolder", data_dir=place, drop_labels=not _has_class_folders(folder))
    # With metadata these say which files are meant.
    if not any(folder.rglob("metadata.*")):
        _check_folders(folder, loaded)
    return loaded


def _check_folders(root: Path, splits: DatasetDict) -> None:
    """Refuse folders whose images aren't all in one split, once each, as where a class is called "toy train".

    Folders beside those of the splits are left out with a warning.

    Raises:
        ValueError: naming such a folder, and the splits.
    """
    files: Counter[Path] = Counter()
    for image in images_below(root):
        inside = image.parent.relative_to(root)
        if not any(part.startswith((".", "__")) for part in inside.parts):
            files[inside] += 1
    rows: defaultdict[Path, Counter[str]] = defaultdict(Counter)
    for name, split in splits.items():
        cells = split.with_format(None).cast_column("image", Image(decode=False))["image"][:]
        paths = [cell["path"] for cell in cells if cell["path"].lower().endswith(SUFFIXES)]
        for folder, count in Counter(map(os.path.dirname, paths)).items():
            rows[Path(os.path.relpath(folder, root.resolve()))][name] += count
    splits_have_folders = any((root / name).is_dir() for name in SPLIT_FOLDERS)
    for inside, count in files.items():
        if not rows[inside] and splits_have_folders:
            warnings.warn(f"'{root / inside}' is in none of the splits {', '.join(splits)}: left out.", stacklevel=4)
        elif list(rows[inside].values()) != [count]:
            found = " and ".join(f"{own} in the split '{name}'" for name, own in rows[inside].items())
            raise ValueError(
                f"Of the {count} images in '{root / inside}' there are {found or 'none in any split'}. Folders and "
                "files with train, validation, dev, test or eval in their names are taken for splits. Rename a class "
                "that is called so, or put the folders of all classes, or all images, into one 'train'."
            )


def _has_class_folders(folder: Path) -> bool:
    """Tell whether images stand in one folder a class; folders named after splits are none."""
    splits = [folder / name for name in SPLIT_FOLDERS if (folder / name).is_dir()]
    return any(child.is_dir() for parent in splits or [folder] for child in parent.iterdir())


def label_names(dataset: Dataset, label_column: str = "label") -> list[str] | None:
    """The class names of a data set, or None where it states none."""
    feature = dataset.features.get(label_column)
    return list(feature.names) if isinstance(feature, ClassLabel) else None
