"""MNIST's idx files, whole and damaged."""

import gzip
import struct

import numpy as np
import pytest

from hf_e2kd.data import load_fashion_mnist, load_mnist
from hf_e2kd.data.mnist import read_idx


def idx(values: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


IMAGES = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
LABELS = np.array([3, 1, 4, 1, 5, 9], dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(IMAGES[:4]))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS[:4]))
    (tmp_path / "t10k-images.idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES[4:])))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS[4:])))
    return tmp_path


def test_images_and_labels_packed_or_not(folder):
    splits = load_mnist(folder)
    for split, rows in {"train": slice(0, 4), "test": slice(4, 6)}.items():
        assert np.array_equal(np.stack([np.asarray(image) for image in splits[split]["image"]]), IMAGES[rows])
        assert splits[split]["label"][:] == LABELS[rows].tolist()
    assert load_fashion_mnist(folder)["test"].features["label"].int2str(9) == "Ankle boot"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"begins with the bytes \(none\)"),
        (gzip.compress(idx(LABELS)), "begins with the bytes 1f 8b .* name must end in .gz"),
        (b"\0\0\x0d\x01\0\0\0\x02" + bytes(8), "numbers of the type 0x0d"),
        (b"\0\0\x08\x03\0\0", "cut off within its head"),
        (idx(IMAGES)[:-5], "states 6×28×28 bytes, and holds 4699"),
        (idx(IMAGES) + b"\0", "holds more"),
        (b"\0\0\x08\x03" + b"\xff" * 12 + b"\0", "holds 1. Download"),
    ],
    ids=["empty", "packed", "type", "head", "cut", "longer", "huge"],  # a packed file's bytes hold the time
)
def test_damaged_files_are_named(content, message, tmp_path):
    """Prevents: images shifted by a wrong head, or memory reserved for as many as a damaged head states."""
    path = tmp_path / "some-images"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(path)


def test_a_packed_file_that_is_cut_off(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx(IMAGES))[:-200])
    with pytest.raises(ValueError, match="images.gz' can't be unpacked"):
        read_idx(path)
    path.write_bytes(idx(IMAGES))
    with pytest.raises(ValueError, match="images.gz' can't be unpacked"):
        read_idx(path)


def test_files_that_do_not_belong_together(folder):
    labels = folder / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(LABELS))
    with pytest.raises(ValueError, match="4 images, and .* 6 labels"):
        load_mnist(folder)
    labels.write_bytes(idx(LABELS[:4] + np.uint8(7)))
    with pytest.raises(ValueError, match="holds the label 11, but there are only the classes 0 to 9"):
        load_mnist(folder)
    labels.write_bytes(idx(IMAGES[:4]))
    with pytest.raises(ValueError, match="has 3 axes. Expected 1"):
        load_mnist(folder)
    labels.unlink()
    with pytest.raises(FileNotFoundError, match="none of train-labels-idx1-ubyte, .*idx1-ubyte.gz"):
        load_mnist(folder)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        load_mnist(folder / "none")
