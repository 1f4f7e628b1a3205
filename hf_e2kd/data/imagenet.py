"""ImageNet from disk (Russakovsky et al., 2015): one folder a class, and the names of its classes."""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from datasets import DatasetDict

from .annotated import AnnotatedImage, annotated_dataset, check_folder
from .image_files import SUFFIXES, images_below

IMAGENET_LAYOUT = "the folder with 'train' and 'val', each with one folder a class that is called by its WordNet id"


def load_imagenet(
    folder: str | Path,
    splits: Sequence[str] | None = None,
    *,
    skip_undecodable: bool = False,
    open_images: bool = False,
) -> DatasetDict:
    """Load ImageNet, or some of its classes, from one folder a class.

    References:
        Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", 2015. The names are WordNet's, as timm
        has them.

    Args:
        folder: Folder of `train` and `val`, each with one folder a class such as `n01440764`.
        splits: Folders to read; None takes those of `train` and `val` that exist.
        skip_undecodable, open_images: See `hf_e2kd.data.annotated.annotated_dataset`. The files aren't looked at unless
            asked, because there may be more than a million.

    Returns:
        The splits `train` and `validation`. Columns: `id` ("n01440764/n01440764_10026"), `image`, `label`, and empty
        `boxes` and `box_labels`. The labels are in the order of the WordNet ids, which for all 1,000 classes is that of
        the published models; each is called as `class_names` says.

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
    """The words of WordNet ids, followed by the id where two of ImageNet's classes share them; others name themselves.

    A class has the same name among all 1,000 and among a few.

    Example:
        >>> class_names(["n01440764", "n02012849", "my_class"])
        ['tench, Tinca tinca', 'crane (n02012849)', 'my_class']
    """
    names = _imagenet_names()
    return [names.get(wnid, wnid) for wnid in wnids]


def class_wnids(names: Sequence[str]) -> list[str]:
    """The WordNet ids of classes that `class_names` has named; others name themselves.

    Example:
        >>> class_wnids(["tench, Tinca tinca", "crane (n02012849)", "my_class"])
        ['n01440764', 'n02012849', 'my_class']
    """
    wnids = {name: wnid for wnid, name in _imagenet_names().items()}
    return [wnids.get(name, name) for name in names]


def unique_class_names(names: Sequence[str]) -> list[str]:
    """The names of a model's or a data set's classes; of ImageNet's 1,000 the unique ones of `class_names`.

    Models of timm and transformers call two of them "crane". Names are ImageNet's where those of all classes that share
    theirs with no other are, in ImageNet's order, letter case and surrounding blanks aside.
    """
    unique = _imagenet_names()
    is_imagenet = len(names) == len(unique) and all(
        wnid in own or name.strip().casefold() == own.casefold()
        for name, (wnid, own) in zip(names, unique.items(), strict=True)
    )
    return list(unique.values()) if is_imagenet else list(names)


@cache
def _imagenet_names() -> dict[str, str]:
    """The names of ImageNet's 1,000 classes by their WordNet ids, in the order of the published models."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    words = {wnid: info.label_name_to_description(wnid) for wnid in info.label_names()}
    count = Counter(words.values())
    return {wnid: name if count[name] == 1 else f"{name} ({wnid})" for wnid, name in words.items()}


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
    found = {path.name: list(images_below(path)) for path in classes}
    empty = [name for name, images in found.items() if not images]
    if empty:
        raise FileNotFoundError(
            f"'{folder / empty[0]}' holds no image ({', '.join(SUFFIXES)}). Complete the download, or remove it."
        )
    return found
