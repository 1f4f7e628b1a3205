"""SUN397's nested folders and partitions."""

import pytest
from PIL import Image

from hf_e2kd.data import load_sun397, undecodable_images


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


def test_images_outside_the_folder(sun):
    """Prevents: a list that makes the loader open a file anywhere on the machine."""
    (sun / "SUN397" / "Training_01.txt").write_text("/a/abbey/../../../secret.jpg\n")
    with pytest.raises(ValueError, match=r"Training_01\.txt, line 1 names the file .*, outside the folder"):
        load_sun397(sun, partition=1)
