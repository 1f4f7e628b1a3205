"""Categories of classes from a table, and those of Tiny ImageNet."""

from collections import Counter

import pytest
from timm.data import ImageNetInfo

from hf_e2kd.data import TINY_IMAGENET_GROUPS, read_categories


def write(tmp_path, text):
    path = tmp_path / "categories.csv"
    path.write_text(text)
    return path


def test_categories_in_the_order_of_the_classes(tmp_path):
    path = write(tmp_path, 'class,category\nrose,flowers\ncat,animals\nrock,other\ndog,animals\n"a, b",unused\n')
    found = read_categories(path, ["dog", "rock", "cat", "rose"])
    assert found.names == ("flowers", "animals")
    assert found.of_class.tolist() == [1, -1, 1, 0]


def test_tiny_imagenets_groups_cover_its_classes():
    """Prevents: a class of no ImageNet, or groups of one class, within which nothing can be alike."""
    lines = TINY_IMAGENET_GROUPS.read_text().splitlines()[1:]
    wnids = [line.split(",")[0] for line in lines]
    assert len(set(wnids)) == 200 and set(wnids) <= set(ImageNetInfo().label_names())
    found = read_categories(TINY_IMAGENET_GROUPS, wnids)
    counts = Counter(found.of_class.tolist())
    assert len(found.names) == 24 and counts.pop(-1) == 22 and min(counts.values()) >= 2
    assert found.names[found.of_class[wnids.index("n02099601")]] == "dogs"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has the columns \(none\). Expected the columns class and category"),
        ("name,category\ncat,animals\n", "has the columns name, category"),
        ("class,category\ncat,\n", "line 2, lacks a class or a category"),
        ("class,category\ncat,animals\ncat,animals\n", "line 3, names the class 'cat' again"),
        ("class,category\ncat,animals\n", "no line of 1 of the 2 classes, such as 'dog'. It calls classes as cat"),
    ],
)
def test_bad_tables(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_categories(write(tmp_path, text), ["cat", "dog"])
