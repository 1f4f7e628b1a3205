"""Tiny ImageNet's folders, with its boxes."""

import pytest
from PIL import Image

from hf_e2kd.data import load_tiny_imagenet

WNIDS = ("n02123045", "n01443537")


@pytest.fixture
def tiny(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    for wnid in WNIDS:
        images = root / "train" / wnid / "images"
        images.mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (64, 64)).save(images / f"{wnid}_{number}.JPEG")
        lines = [f"{wnid}_{number}.JPEG\t{number}\t5\t62\t63" for number in range(2)]
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("\n".join(lines) + "\n")
    (root / "val" / "images").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(root / "val" / "images" / "val_0.JPEG")
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02123045\t0\t0\t0\t0\n")
    (root / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    return root


def test_labels_in_the_order_of_the_wordnet_ids_and_whole_boxes(tiny):
    """Prevents: labels in the order of wnids.txt, in which no model's logits are; boxes without their last pixels."""
    for folder in (tiny, tiny.parent):
        splits = load_tiny_imagenet(folder)
        assert splits["train"]["label"][:] == [0, 0, 1, 1]
    assert splits["train"].features["label"].names == ["goldfish, Carassius auratus", "tabby, tabby cat"]
    assert splits["train"]["id"][:2] == ["n01443537_0", "n01443537_1"]
    assert splits["train"]["boxes"][1] == [[1, 5, 63, 64]] and splits["train"]["box_labels"][:] == [[0], [0], [1], [1]]
    row = splits["validation"][0]
    assert (row["id"], row["label"], row["boxes"], row["image"].size) == ("val_0", 1, [[0, 0, 1, 1]], (64, 64))


def test_classes_outside_the_folder(tiny):
    """Prevents: a list of classes that opens any folder of the machine."""
    (tiny / "wnids.txt").write_text("n02123045\n../../n01443537\n")
    with pytest.raises(ValueError, match=r"wnids\.txt names the file '../../n01443537', outside the folder"):
        load_tiny_imagenet(tiny)


def test_what_is_missing_is_named(tiny):
    (tiny / "train" / WNIDS[0] / "images" / f"{WNIDS[0]}_1.JPEG").unlink()
    with pytest.raises(ValueError, match="1 images have a file or a line alone, such as n02123045_1.JPEG"):
        load_tiny_imagenet(tiny)
    (tiny / "val" / "val_annotations.txt").unlink()
    with pytest.raises(FileNotFoundError, match="val_annotations.txt' is missing"):
        load_tiny_imagenet(tiny)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("../../secret.jpg\tn02123045\t0\t0\t3\t3", "line 1 names the file .*, outside the folder"),
        ("val_0.JPEG\tn00000000\t0\t0\t3\t3", "line 1: the class 'n00000000' isn't in"),
        ("val_0.JPEG\tn02123045\t0\t0\t3", "Expected a file name, a class, and the four numbers of a box"),
        ("val_0.JPEG\tn02123045\t9\t0\t3\t3", "line 1, the box: .* has no area"),
        ("", "is empty"),
    ],
)
def test_bad_lines(line, message, tiny):
    (tiny / "val" / "val_annotations.txt").write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        load_tiny_imagenet(tiny)
