"""Categories of classes: which classes are alike."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .annotated import read_text

TINY_IMAGENET_GROUPS = Path(__file__).parent / "tiny_imagenet_groups.csv"
"""Tiny ImageNet's classes, by WordNet id, in 24 groups and "other". The grouping is our own, by hand."""

OTHER = "other"
"""The category of classes that have nothing in common."""


@dataclass(frozen=True)
class Categories:
    """The categories of a model's or a data set's classes.

    Args:
        names: Names of the categories.
        of_class: Category of each class, (classes,) int64, an index of `names`; −1 for classes without one.
    """

    names: tuple[str, ...]
    of_class: Tensor


def read_categories(path: str | Path, classes: Sequence[str]) -> Categories:
    """Read the categories of classes from a CSV file with the columns "class" and "category".

    Args:
        path: CSV file, such as `TINY_IMAGENET_GROUPS`.
        classes: The classes in the order of the logits, as the file calls them; it may hold further ones.

    Returns:
        The categories that these classes have, in the file's order. "other" is none.

    Raises:
        ValueError: the file lacks a column or a value, names a class twice, or has no line of one of the classes.

    Example:
        >>> read_categories(TINY_IMAGENET_GROUPS, ["n02123045", "n03126707", "n02123394"]).of_class
        tensor([ 0, -1,  0])
    """
    path = Path(path)
    lines = csv.DictReader(read_text(path).splitlines())
    if not {"class", "category"} <= set(lines.fieldnames or ()):
        raise ValueError(
            f"'{path}' has the columns {', '.join(lines.fieldnames or ['(none)'])}. Expected the columns class and "
            "category in its first line."
        )
    known: dict[str, str] = {}
    for line in lines:
        name, category = line["class"], line["category"]
        if not name or not category:
            raise ValueError(f"'{path}', line {lines.line_num}, lacks a class or a category. Use '{OTHER}' for none.")
        if name in known:
            raise ValueError(f"'{path}', line {lines.line_num}, names the class {name!r} again. Leave one line of it.")
        known[name] = category
    missing = [name for name in classes if name not in known]
    if missing:
        raise ValueError(
            f"'{path}' has no line of {len(missing)} of the {len(classes)} classes, such as {missing[0]!r}. It calls "
            f"classes as {', '.join(list(known)[:3])}; give these names, or add the lines, with '{OTHER}' for classes "
            "of no category."
        )
    used = {known[name] for name in classes} - {OTHER}
    names = tuple(name for name in dict.fromkeys(known.values()) if name in used)
    numbers = {name: number for number, name in enumerate(names)}
    return Categories(names, torch.tensor([numbers.get(known[name], -1) for name in classes], dtype=torch.int64))
