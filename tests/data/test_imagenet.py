"""ImageNet's folders by WordNet id, and its classes' names."""

import pytest
from PIL import Image
from timm.data import ImageNetInfo
from transformers import TimmWrapperConfig

from hf_e2kd.data import load_imagenet
from hf_e2kd.data.imagenet import class_names, unique_class_names


def draw(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(folder / name, format="JPEG")


@pytest.fixture
def imagenet(tmp_path):
    draw(tmp_path / "train", "n02012849/n02012849_1.JPEG", "n01440764/n01440764_2.JPEG", "n01440764/n01440764_1.JPEG")
    draw(tmp_path / "val", "n01440764/ILSVRC2012_val_1.JPEG", "n02012849/ILSVRC2012_val_2.JPEG")
    return tmp_path


def test_imagenet_classes_have_names_in_the_order_of_their_ids(imagenet):
    splits = load_imagenet(imagenet)

    assert {name: rows["label"][:] for name, rows in splits.items()} == {"train": [0, 0, 1], "validation": [0, 1]}
    assert splits["train"].features["label"].names == ["tench, Tinca tinca", "crane (n02012849)"]
    assert splits["train"]["id"][:] == [
        "n01440764/n01440764_1",
        "n01440764/n01440764_2",
        "n02012849/n02012849_1",
    ]
    assert splits["validation"][0]["image"].size == (8, 6)


def test_equal_words_of_two_classes_are_told_apart():
    """A label's name must be one class's, also where the other isn't there: students and teachers are aligned by it."""
    names = class_names(["n02012849", "n03126707", "my_class"])

    assert names == ["crane (n02012849)", "crane (n03126707)", "my_class"]
    assert class_names(["my_class", "n03126707"]) == ["my_class", "crane (n03126707)"]


def test_published_names_of_imagenet_are_those_of_its_data():
    """Models of timm and transformers call two classes "crane", by which nothing can be matched with the data's."""
    config = TimmWrapperConfig.from_dict({"architecture": "resnet18", "num_classes": 1000})
    published = list(config.id2label.values())
    assert published[134] == published[517] == "crane"
    expected = class_names(ImageNetInfo().label_names())
    for second in ("crane", "Crane ", "crane2", "crane (n03126707)"):
        assert unique_class_names([*published[:517], second, *published[518:]]) == expected
    for others in (published[:999], published[::-1], ["crane", "cat", "crane"]):
        assert unique_class_names(others) == others


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
