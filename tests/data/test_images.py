"""Folders of images: the splits that `datasets` finds in them."""

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image

from hf_e2kd.data.images import load_image_splits, load_images, sample_names
from hf_e2kd.data.text import load_text_splits, load_texts


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["car/1.png", "toy train/1.png", "toy train/2.png"], "Of the 1 images in '.*car' there are none in any split"),
        (
            ["train/car/1.png", "train/toy train/1.png"],
            "Of the 1 images in '.*toy train' there are 2 in the split 'tra",
        ),
        (["train/car/1.png", "train/dev/1.png"], "1 in the split 'train' and 1 in the split 'validation'"),
        (["test shot.png", "a.png"], "Of the 2 images in .* there are 1 in the split 'test'"),
    ],
    ids=["a class", "twice", "two splits", "a file"],
)
def test_classes_and_files_that_are_called_as_splits_are_refused(files, found, tmp_path):
    """Prevents: a training without the other classes, or with images twice, of which nothing is said."""
    _write(tmp_path, files)
    with pytest.raises(ValueError, match=f"{found}.*Rename a class"):
        load_image_splits(str(tmp_path))


def test_splits_and_classes_of_folders(tmp_path, monkeypatch):
    """Prevents: a refusal of links, brackets, hidden folders, relative paths or images that metadata leave out."""
    _write(tmp_path / "old [1]", ["train/car/1.png", "train/plane/1.png", "test/car/1.png", ".cache/1.png"])
    (tmp_path / "link [1]").symlink_to(tmp_path / "old [1]")
    monkeypatch.chdir(tmp_path)
    for name in ("old [1]", "link [1]"):
        splits = load_image_splits(name)
        assert {name: len(split) for name, split in splits.items()} == {"train": 2, "test": 1}
        assert splits["train"].features["label"].names == ["car", "plane"]
    _write(tmp_path / "chosen", ["1.png", "2.png"])
    (tmp_path / "chosen" / "metadata.jsonl").write_text('{"file_name": "1.png", "text": "one"}\n')
    assert len(load_image_splits("chosen")["train"]) == 1


def test_folders_beside_the_splits_are_left_out(tmp_path):
    """Prevents: a data set refused for a folder of raw images beside its splits, and one left out without a word."""
    _write(tmp_path, ["train/car/1.png", "test/car/1.png", "raw/car/1.png"])
    with pytest.warns(UserWarning, match="'.*raw/car' is in none of the splits train, test: left out"):
        splits = load_image_splits(str(tmp_path))
    assert {name: len(split) for name, split in splits.items()} == {"train": 1, "test": 1}


def _write(root, files):
    for number, name in enumerate(files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(root / name)


def test_a_split_to_measure_on_that_is_not_there(tmp_path, monkeypatch, caplog):
    """Prevents: a misspelt split whose figures are of a tenth of the training images, without a word."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for split in ("train", "test"):
        (tmp_path / "images" / split).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "images" / split / f"{number}.png")
    source = str(tmp_path / "images")
    assert [len(part) for part in load_images(source, eval_split="test")] == [10, 10] and not caplog.records
    with pytest.raises(ValueError, match="has no split 'tset'. Its splits: train, test"):
        load_images(source, eval_split="tset")
    assert [len(part) for part in load_images(source)] == [9, 1]
    assert "10 % of 'train' are held out. Name one of train, test by --eval_split" in caplog.text


def test_a_named_split_that_the_only_one_is_not(tmp_path):
    """Prevents: `--eval_split test`, in whose place a tenth of the only split is measured."""
    Dataset.from_dict({"image": [None] * 10, "text": ["a film"] * 10, "label": [0] * 10}).save_to_disk(tmp_path)
    with pytest.raises(ValueError, match="has no split 'test'. Its splits: train"):
        load_images(str(tmp_path), eval_split="test")
    with pytest.raises(ValueError, match="has no split 'test'. Its splits: train"):
        load_texts(str(tmp_path), "train", "test", "text", "label")
    assert [len(part) for part in load_images(str(tmp_path))] == [9, 1]


def test_saved_splits_state_the_names_by_which_they_are_found(tmp_path):
    """Prevents: a record of data that was saved by `save_to_disk`, whose split is called "evaluation", or as that of
    which it is a part: its card says that the training split was measured, and `--verify` finds no such split."""
    rows = Dataset.from_dict({"image": [None] * 9, "text": ["a film"] * 9, "label": [0] * 9})
    (tmp_path / "rows.csv").write_text("text,label\ngood,1\nbad,0\nbad,0\n")
    parts = load_text_splits(str(tmp_path / "rows.csv"))["train"].train_test_split(2, seed=0)
    DatasetDict({"train": rows, "my test": rows.select(range(3))}).save_to_disk(tmp_path / "unnamed")
    DatasetDict({"train": parts["train"], "validation": parts["test"]}).save_to_disk(tmp_path / "parts")
    assert {name: str(split.split) for name, split in load_image_splits(str(tmp_path / "unnamed")).items()} == {
        "train": "train",
        "my test": "my test",
    }
    train, evaluation = load_texts(str(tmp_path / "parts"), "train", "validation", "text", "label")
    assert (str(train.split), str(evaluation.split)) == ("train", "validation")


def test_one_split_to_train_and_to_measure_on(tmp_path):
    """Prevents: `--augment true` passed over, as the training images' transform is replaced by the measured ones'."""
    Dataset.from_dict({"image": [None], "label": [0]}).save_to_disk(tmp_path)
    train, evaluation = load_images(str(tmp_path), eval_split="train")
    train.set_transform(lambda rows: {"shown": rows["label"]})
    evaluation.set_transform(lambda rows: {"measured": rows["label"]})
    assert (train[0], evaluation[0]) == ({"shown": 0}, {"measured": 0})


@pytest.mark.parametrize(("name", "column"), [("list.csv", "image"), ("list.jsonl", "file")])
def test_a_file_that_lists_images(name, column, tmp_path, monkeypatch):
    """Prevents: images by their paths refused, with a remedy in Python alone."""
    _write(tmp_path, ["photos/a.png", "photos/b 2.png"])
    rows = Dataset.from_dict({column: ["photos/b 2.png", "photos/a.png"], "label": ["dog", "cat"]})
    (rows.to_csv if name.endswith(".csv") else rows.to_json)(tmp_path / name)
    monkeypatch.chdir(tmp_path.parent)
    source = f"{tmp_path.name}/{name}"
    rows = load_image_splits(source, image_column=column)["train"]
    monkeypatch.chdir("/")
    assert [image.getpixel((0, 0))[0] for image in rows[column]] == [1, 0] and rows["label"][:] == ["dog", "cat"]
    assert sample_names(rows, [0]) == ["b 2.png"]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("../secret.png", "Row 1 of '.*', counted from 0 without the header, names the file '../secret.png', outside"),
        ("/etc/hosts", "names the file '/etc/hosts', outside the folder"),
        ("none.png", "names 1 of 2 images that aren't in '.*', the first is 'none.png'. Write paths as seen from"),
        ("http://x.org/a.png", "names 1 of 2 images that aren't in"),
        ("", "names no image in the column 'image'. Fill it in, or take the row out"),
    ],
)
def test_listed_images_lie_in_the_files_folder(cell, said, tmp_path):
    """Prevents: a list from somebody else that reads any file of this machine, and paths to nothing told in the middle
    of a training."""
    _write(tmp_path, ["data/a.png", "secret.png"])
    (tmp_path / "data" / "list.csv").write_text(f"image,label\na.png,0\n{cell},1\n")
    with pytest.raises(ValueError, match=said):
        load_images(str(tmp_path / "data" / "list.csv"))


@pytest.mark.parametrize(
    "load", [load_images, lambda source: load_texts(source, "train", "validation", "text", "label")]
)
def test_one_sample_alone(load, tmp_path):
    """Prevents: "With n_samples=1, test_size=0.1 and train_size=None, …" of a library that nobody named."""
    Dataset.from_dict({"image": [None], "text": ["a film"], "label": [0]}).save_to_disk(tmp_path)
    with pytest.raises(
        ValueError, match="The split 'train' has 1 sample, and a share of it is to be held out.*or both"
    ):
        load(str(tmp_path))
