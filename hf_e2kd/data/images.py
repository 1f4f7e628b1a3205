"""Image classification data by Hub id or from a folder, for training and evaluation."""

from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, load_dataset, load_from_disk

SPLIT_FOLDERS = ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval")


def load_images(
    source: str,
    train_split: str = "train",
    eval_split: str = "validation",
    image_column: str = "image",
    eval_share: float = 0.1,
    seed: int = 0,
) -> tuple[Dataset, Dataset]:
    """Loads images to distil on.

    Args:
        source: A Hub id, a folder saved by `save_to_disk`, or a folder of images (in one folder a class, or without
            labels). No code of the data set is run.
        train_split, eval_split: Names of the splits. Without a split of the second name, `eval_share` of the training
            split is held out by `seed`.
        image_column: The column of the images.

    Returns:
        The training and the evaluation set.

    Raises:
        ValueError: a split or the column is missing; those that exist are listed.
    """
    splits = load_image_splits(source)
    if train_split not in splits:
        raise ValueError(f"'{source}' has no split '{train_split}'. Its splits: {', '.join(splits)}.")
    train = splits[train_split]
    if image_column not in train.column_names:
        raise ValueError(f"'{source}' has no column '{image_column}'. Its columns: {', '.join(train.column_names)}.")
    if eval_split in splits:
        return train, splits[eval_split]
    held_out = train.train_test_split(test_size=eval_share, seed=seed)
    return held_out["train"], held_out["test"]


def load_image_splits(source: str) -> DatasetDict:
    """All splits of a Hub id, a folder saved by `save_to_disk`, or a folder of images; "train" where there is one."""
    folder = Path(source)
    if not folder.is_dir():
        return load_dataset(source)
    if (folder / "dataset_dict.json").exists() or (folder / "dataset_info.json").exists():
        saved = load_from_disk(source)
        return saved if isinstance(saved, DatasetDict) else DatasetDict(train=saved)
    return load_dataset("imagefolder", data_dir=source, drop_labels=not _has_class_folders(folder))


def _has_class_folders(folder: Path) -> bool:
    """Whether images stand in one folder a class; folders named after splits are none."""
    splits = [folder / name for name in SPLIT_FOLDERS if (folder / name).is_dir()]
    return any(child.is_dir() for parent in splits or [folder] for child in parent.iterdir())


def label_names(dataset: Dataset, label_column: str = "label") -> list[str] | None:
    """The class names of a data set, or None where it states none."""
    feature = dataset.features.get(label_column)
    return list(feature.names) if isinstance(feature, ClassLabel) else None
