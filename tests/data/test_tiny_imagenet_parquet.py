"""Tiny ImageNet's Parquet files, with its boxes."""

import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from hf_e2kd.data import load_tiny_imagenet_parquet

FEATURES = Features(image=Image(), label=Value("int32"), box=List(Value("float32"), length=4))


def write(folder, name, labels, box=(1, 2, 3, 4)):
    """Write a file of images whose brightness is their label."""
    cells = []
    for number, label in enumerate(labels):
        path = folder / f"{name}_{number}.png"
        PILImage.new("RGB", (8, 8), (label, label, label)).save(path)
        cells.append({"bytes": path.read_bytes(), "path": path.name})
    rows = {"image": cells, "label": list(labels), "box": [list(box)] * len(labels)}
    Dataset.from_dict(rows, features=FEATURES).to_parquet(folder / f"{name}.parquet")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    # A bracket in a path doesn't stand for other files.
    folder = tmp_path / "tiny [1]"
    folder.mkdir()
    (folder / "classes.csv").write_text('label,wnid,names\n1,n02123045,tabby\n0,n01443537,"goldfish, fish"\n')
    write(folder, "train_1", [1, 0])
    write(folder, "train_2", [1])
    write(folder, "validation", [0])
    return folder


def test_rows_as_in_the_folder_layout(tiny):
    """Prevents: labels in the order of the table's lines, boxes without their last pixels, files out of order."""
    splits = load_tiny_imagenet_parquet(tiny)
    train = splits["train"]
    assert train.column_names == ["id", "image", "label", "boxes", "box_labels"]
    assert train.features["label"].names == ["goldfish, Carassius auratus", "tabby, tabby cat"]
    assert train["id"][:] == ["train_1_0", "train_1_1", "train_2_0"] and train["label"][:] == [1, 0, 1]
    assert [image.getpixel((0, 0))[0] for image in train["image"]] == [1, 0, 1]
    assert train["boxes"][0] == [[1, 2, 4, 5]] and train["box_labels"][:] == [[1], [0], [1]]
    assert len(splits["validation"]) == 1


def test_what_is_missing_or_faulty_is_named(tiny):
    """Prevents: a traceback of pyarrow where a file, a label or a box is wrong."""
    write(tiny, "validation", [0], box=(5, 2, 3, 4))
    with pytest.raises(ValueError, match=r"validation.parquet, row 0: the box \[5.0, 2.0, 3.0, 4.0\].* has no area"):
        load_tiny_imagenet_parquet(tiny)
    write(tiny, "validation", [2])
    with pytest.raises(ValueError, match="row 0: the label 2 is none of the 2 of classes.csv"):
        load_tiny_imagenet_parquet(tiny)
    (tiny / "validation.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"validation\*.parquet' is missing. Give the folder with"):
        load_tiny_imagenet_parquet(tiny)
    (tiny / "classes.csv").write_text("label,wnid\n0,n01443537\n2,n02123045\n")
    with pytest.raises(ValueError, match="must be 0, 1, 2 … without a gap, and there are 0, 2"):
        load_tiny_imagenet_parquet(tiny)
