"""SUN397's nested folders and partitions, and ImageNet's folders by WordNet id."""

import pytest
from PIL import Image
from timm.data import ImageNetInfo

from hf_e2kd.data import load_imagenet, load_sun397, undecodable_images
from hf_e2kd.data.sun397 import class_names


def draw(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(folder / name, format="JPEG")


@pytest.fixture
def sun(tmp_path):
    draw(
        tmp_path / "SUN397",
        "a/abbey/sun_b.jpg",
        "a/abbey/sun_a.jpg",
        "a/apartment_building/outdoor/sun_c.jpg",
        "b/bazaar/outdoor/sun_d.jpg",
    )
    (tmp_path / "SUN397" / "ClassName.txt").write_text("/a/abbey\n")
    (tmp_path / "SUN397" / "Training_01.txt").write_text("/a/abbey/sun_b.jpg\n/b/bazaar/outdoor/sun_d.jpg\n")
    (tmp_path / "SUN397" / "Testing_01.txt").write_text("/a/apartment_building/outdoor/sun_c.jpg\n")
    return tmp_path


@pytest.fixture
def imagenet(tmp_path):
    draw(tmp_path / "train", "n02012849/n02012849_1.JPEG", "n01440764/n01440764_2.JPEG", "n01440764/n01440764_1.JPEG")
    draw(tmp_path / "val", "n01440764/ILSVRC2012_val_1.JPEG", "n02012849/ILSVRC2012_val_2.JPEG")
    return tmp_path


def test_sun_keeps_scenes_of_one_last_folder_apart(sun):
    """`datasets`' imagefolder would make one class, "outdoor", of the last two."""
    rows = load_sun397(sun)["train"]

    assert rows.features["label"].names == ["abbey", "apartment_building/outdoor", "bazaar/outdoor"]
    assert rows["label"][:] == [0, 0, 1, 2]
    row = rows[0]
    assert row["image"].size == (8, 6)
    assert {name: row[name] for name in row if name != "image"} == {
        **{"id": "/a/abbey/sun_a.jpg", "label": 0, "boxes": [], "box_labels": []},
    }


def test_sun_partitions_share_their_labels(sun):
    splits = load_sun397(sun / "SUN397", partition=1)

    assert {name: rows["label"][:] for name, rows in splits.items()} == {"train": [0, 2], "test": [1]}
    assert splits["train"].features == splits["test"].features


def test_sun_partitions_may_stand_elsewhere(sun):
    lists = sun / "Partitions"
    lists.mkdir()
    for name in ("Training_02.txt", "Testing_02.txt"):
        (lists / name).write_text("/a/abbey/sun_a.jpg\n")

    assert load_sun397(sun, partition=2, partitions=lists)["test"]["id"][:] == ["/a/abbey/sun_a.jpg"]


def test_what_sun_lacks_is_named(sun, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Training_03.txt' is missing, and 1 more"):
        load_sun397(sun, partition=3)
    with pytest.raises(ValueError, match="partition is 11. Give a number from 1 to 10"):
        load_sun397(sun, partition=11)
    with pytest.raises(FileNotFoundError, match=r"b/a' is missing. In .* there is bazaar"):
        load_sun397(sun / "SUN397" / "b")
    (sun / "SUN397" / "Testing_01.txt").write_text("/c/cabin/outdoor/sun_e.jpg\n")
    with pytest.raises(ValueError, match=r"Testing_01.txt, line 1: '/c/cabin/outdoor/sun_e.jpg' is in no folder"):
        load_sun397(sun, partition=1)
    (sun / "SUN397" / "Testing_01.txt").write_text("/a/abbey/sun_z.jpg\n")
    with pytest.raises(FileNotFoundError, match=r"1 of 1 images are missing: .*sun_z.jpg"):
        load_sun397(sun, partition=1)


def test_sun_names_or_skips_what_is_no_image(sun):
    (sun / "SUN397/a/abbey/sun_b.jpg").write_bytes(b"")

    with pytest.raises(ValueError, match=r"1 of 4 images can't be decoded: .*sun_b.jpg"):
        load_sun397(sun)
    with pytest.warns(UserWarning, match=r"left out: .*sun_b.jpg"):
        assert len(load_sun397(sun, skip_undecodable=True)["train"]) == 3
    unseen = load_sun397(sun, open_images=False)["train"]
    assert undecodable_images(unseen) == [1]


def test_imagenet_classes_have_names_in_the_order_of_their_ids(imagenet):
    splits = load_imagenet(imagenet)

    assert {name: rows["label"][:] for name, rows in splits.items()} == {"train": [0, 0, 1], "validation": [0, 1]}
    assert splits["train"].features["label"].names == ["tench, Tinca tinca", "crane"]
    assert splits["train"]["id"][:] == [
        "n01440764/n01440764_1",
        "n01440764/n01440764_2",
        "n02012849/n02012849_1",
    ]
    assert splits["validation"][0]["image"].size == (8, 6)


def test_equal_words_of_two_classes_are_told_apart():
    """A label's name must be one class's: students and teachers are aligned by it."""
    names = class_names(["n02012849", "n03126707", "my_class"])

    assert names == ["crane (n02012849)", "crane (n03126707)", "my_class"]


def test_all_of_imagenets_names_are_unique():
    names = class_names(ImageNetInfo().label_names())

    assert len(set(names)) == len(names) == 1000


def test_imagenet_without_validation(imagenet):
    assert list(load_imagenet(imagenet, splits=["train"])) == ["train"]


def test_what_imagenet_lacks_is_named(imagenet):
    draw(imagenet / "flat", "ILSVRC2012_val_1.JPEG")
    with pytest.raises(FileNotFoundError, match="flat' has no class folders. .*must be sorted"):
        load_imagenet(imagenet, splits=["train", "flat"])
    with pytest.raises(FileNotFoundError, match=r"train' is missing. In .* Give the folder with 'train' and 'val'"):
        load_imagenet(imagenet / "flat")
    (imagenet / "val/n02012849/ILSVRC2012_val_2.JPEG").unlink()
    with pytest.raises(FileNotFoundError, match=r"n02012849' holds no image"):
        load_imagenet(imagenet)
    (imagenet / "val/n02012849").rmdir()
    with pytest.raises(ValueError, match="have not the same classes: n02012849 is in one of them only"):
        load_imagenet(imagenet)
