"""Waterbirds in WILDS' layout, its groups, and what the Caltech-UCSD Birds add."""

import numpy as np
import pytest
from PIL import Image
from transformers import ViTImageProcessor

from hf_e2kd.data import DistillationTransform, load_waterbirds
from hf_e2kd.data.waterbirds import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, select_groups

HEADER = "img_id,img_filename,y,split,place,place_filename"
SIZE = (12, 8)  # width, height


def rows():
    """Two images for each split, bird and place."""
    cells = [(y, split, place) for split in range(3) for y in range(2) for place in range(2) for _ in range(2)]
    return [
        f"{number + 1},{number % 2:03}.Bird/Bird_{number}.jpg,{y},{split},{place},/x/{place}.jpg"
        for number, (y, split, place) in enumerate(cells)
    ]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "waterbirds_v1.0"
    for species in ("000.Bird", "001.Bird"):
        (root / species).mkdir(parents=True)
    (root / "metadata.csv").write_text("\n".join([HEADER, *rows()]) + "\n")
    for line in rows():
        Image.fromarray(np.zeros((SIZE[1], SIZE[0], 3), np.uint8)).save(root / line.split(",")[1])
    return root


@pytest.fixture
def segmentations(tmp_path):
    """Masks whose left half is the bird, by more than half of the annotators."""
    root = tmp_path / "segmentations"
    mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    mask[:, :6], mask[:, 6:8] = 204, 102
    for line in rows():
        path = (root / line.split(",")[1]).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    return root


@pytest.fixture
def cub(tmp_path):
    root = tmp_path / "CUB_200_2011"
    root.mkdir()
    names = [line.split(",")[1] for line in rows()]
    (root / "images.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(names, 1)))
    (root / "bounding_boxes.txt").write_text("".join(f"{n} 2.0 1.0 6.0 5.0\n" for n in range(1, len(names) + 1)))
    return root


def test_columns(folder):
    splits = load_waterbirds(folder)

    assert {name: len(split) for name, split in splits.items()} == {"train": 8, "validation": 8, "test": 8}
    split = splits["train"]
    assert split.features["label"].names == ["landbird", "waterbird"]
    assert split.features["place"].names == ["land", "water"]
    row = split[2]
    assert row["image"].size == SIZE
    assert {name: row[name] for name in row if name != "image"} == {
        **{"id": "3", "label": 0, "boxes": [], "box_labels": [], "place": 1, "group": 1},
    }
    assert split["group"][:] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_folder_is_found(folder):
    assert len(load_waterbirds(folder.parent)["train"]) == 8


def test_full_correlation_changes_the_training_split_alone(folder):
    splits = load_waterbirds(folder, correlation=1.0)

    assert splits["train"]["group"][:] == [0, 0, 3, 3]
    assert splits["train"]["label"][:] == splits["train"]["place"][:]
    assert len(splits["validation"]) == len(splits["test"]) == 8


def test_groups_in_and_out_of_distribution(folder):
    test = load_waterbirds(folder)["test"]

    inside, outside = (select_groups(test, groups) for groups in (IN_DISTRIBUTION, OUT_OF_DISTRIBUTION))

    assert inside["label"][:] == inside["place"][:]
    assert outside["label"][:] == [1 - place for place in outside["place"]]
    assert len(inside) == len(outside) == 4


def test_masks(folder, segmentations):
    """Prevents: the bird as one annotator of five saw it."""
    rows = load_waterbirds(folder, segmentations=segmentations)["train"]
    processor = ViTImageProcessor(size={"height": 8, "width": 12})

    assert rows[0]["mask"].size == SIZE
    mask = rows.with_transform(DistillationTransform(processor))[0]["mask"]
    assert mask[:, :6].all() and not mask[:, 6:].any()


def test_boxes(folder, cub):
    row = load_waterbirds(folder, cub=cub)["train"][7]

    assert (row["boxes"], row["box_labels"]) == ([[2, 1, 8, 6]], [1])


def test_masks_of_another_size_are_refused(folder, segmentations):
    Image.new("L", (8, 12)).save(segmentations / "000.Bird/Bird_0.png")

    with pytest.raises(ValueError, match=r"The mask '.*Bird_0.png' has 8×12 pixels, but its image .* has 12×8"):
        load_waterbirds(folder, segmentations=segmentations)


def test_missing_files_are_named(folder, segmentations, cub):
    with pytest.raises(FileNotFoundError, match=r"There is no folder '.*nothing'. Give the folder of the Caltech"):
        load_waterbirds(folder, segmentations=folder / "nothing")
    (segmentations / "000.Bird/Bird_0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 8 masks are missing: .*Bird_0.png"):
        load_waterbirds(folder, segmentations=segmentations)
    (cub / "bounding_boxes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"bounding_boxes.txt' is missing. In .* there is images.txt"):
        load_waterbirds(folder, cub=cub)
    (folder / "000.Bird/Bird_0.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 8 images are missing: .*Bird_0.jpg"):
        load_waterbirds(folder)
    (folder / "metadata.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"metadata.csv' is missing. .*waterbirds_v1.0"):
        load_waterbirds(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (HEADER, HEADER.replace("place,", "background,"), "has no column place. Its columns: img_id, img_filename, y"),
        (
            "1,000.Bird/Bird_0.jpg,0",
            "1,000.Bird/Bird_0.jpg,2",
            "line 2: y is '2'. Expected 0 .landbird. or 1 .waterbird",
        ),
        ("2,001.Bird/Bird_1.jpg,0,0", "2,001.Bird/Bird_1.jpg,0,", "line 3: split is ''. Expected 0 .train. or 1"),
        ("2,001.Bird/Bird_1.jpg", "1,001.Bird/Bird_1.jpg", "1 ids occur more than once: 1 .in .*metadata.csv"),
        ("\n24,", "\n1,", r"1 ids of .*metadata.csv stand in more than one split: 1 \(train, test\)"),
        ("000.Bird/Bird_22", "000.Bird/Bird_0", r"1 files of .* than one split: 000.Bird/Bird_0.jpg \(train, test\)"),
    ],
)
def test_bad_metadata_is_named(folder, old, new, message):
    path = folder / "metadata.csv"
    path.write_text(path.read_text().replace(old, new, 1))

    with pytest.raises(ValueError, match=message):
        load_waterbirds(folder)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("bounding_boxes.txt", "1 2.0 x 6.0 5.0", "bounding_boxes.txt, line 25: .*Expected id, x, y, width and height"),
        ("bounding_boxes.txt", "99 2.0 1.0 6.0 5.0", "bounding_boxes.txt, line 25"),
        ("images.txt", "7", "images.txt, line 25: '7'. Expected id and file name"),
    ],
)
def test_bad_boxes_are_named(folder, cub, file, line, message):
    with (cub / file).open("a") as opened:
        opened.write(line)

    with pytest.raises(ValueError, match=message):
        load_waterbirds(folder, cub=cub)


def test_metadata_in_another_encoding_is_named(folder):
    (folder / "metadata.csv").write_bytes(b"\xe9\n")

    with pytest.raises(ValueError, match=r"metadata.csv: not UTF-8 .*Save it as UTF-8"):
        load_waterbirds(folder)


def test_other_correlations_are_refused(folder):
    with pytest.raises(ValueError, match=r"correlation is 0.9. Give None .* or 1.0"):
        load_waterbirds(folder, correlation=0.9)


def test_images_outside_the_folder(folder):
    """Prevents: a table that makes the loader open a file anywhere on the machine."""
    text = (folder / "metadata.csv").read_text()
    (folder / "metadata.csv").write_text(text.replace("000.Bird/", "../000.Bird/", 1))
    with pytest.raises(ValueError, match=r"metadata\.csv, line 2 names the file '\.\./000.*, outside the folder"):
        load_waterbirds(folder)
