"""A class by the name that a user gives it."""

import pytest

from hf_e2kd.cli.classes import find_class

NAMES = ["tench, Tinca tinca", "crane", "tabby, tabby cat", "crane, bird", "7"]


@pytest.mark.parametrize(
    ("wanted", "number"),
    [("tench", 0), (" tinca TINCA", 0), ("tabby cat", 2), ("2", 2), ("7", 4), ("crane, bird", 3), ("crane", 1)],
)
def test_classes(wanted, number):
    """Prevents: a class explained that wasn't meant."""
    assert find_class(wanted, NAMES) == number


@pytest.mark.parametrize(
    ("wanted", "names", "message"),
    [
        ("tinch", NAMES, "No class is named 'tinch'. Close ones: 0 'tench, Tinca tinca'"),
        ("tab", NAMES, "Close ones: 2 'tabby, tabby cat'"),
        ("zzz", NAMES, "has 5 classes, the first of them: 0 'tench"),
        ("9", NAMES, "no class 9: the model has 5 classes"),
        ("crane", ["crane", "crane"], "Several classes are named 'crane'. Close ones: 0 'crane', 1 'crane'"),
    ],
)
def test_unknown_classes(wanted, names, message):
    """Prevents: a search through a thousand names for the one that was mistyped."""
    with pytest.raises(ValueError, match=message):
        find_class(wanted, names)
