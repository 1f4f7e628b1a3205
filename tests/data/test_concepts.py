"""Images with labelled concepts: Broden's layout, and columns of masks."""

import csv

import numpy as np
import pytest
from datasets import Dataset, Image
from PIL import Image as PILImage

from hf_e2kd.data import LabelledImages, load_broden
from hf_e2kd.data.concepts import Concept
from recipes.papers._generated import write_broden


@pytest.fixture
def broden(tmp_path):
    return write_broden(tmp_path / "broden", count=4)


def change(path, line: int, column: str, value: str) -> None:
    """Overwrite a cell of a CSV file; its first row is 0."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows[line][column] = value
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_broden(broden):
    """Masks read as colours, categories mixed up, or labels of the whole image lost."""
    data = load_broden(broden)
    assert len(data) == 4
    assert data.concepts[1] == Concept("red disc", "object")
    assert data.concepts[300] == Concept("unseen", "texture")
    assert data.image(0).size == (48, 40)
    labels = data.labels(0)
    assert labels.planes.shape == (2, 20, 24)
    assert set(np.unique(labels.planes[0])) == {0, 1}
    assert set(np.unique(labels.planes[1])) == {0, 4}
    assert labels.whole == (5, 7)
    assert data.labels(1).whole == (6,)
    assert len(load_broden(broden, split="val")) == 1
    assert data.name(1).endswith("1.jpg'")


def test_broden_of_some_categories(broden):
    """Masks of categories that aren't wanted, and images that have no labels then."""
    data = load_broden(broden, categories=["texture"])
    assert len(data) == 2
    assert data.labels(0).planes.shape[0] == 0
    assert set(data.concepts) == {7, 300}
    with pytest.raises(ValueError, match="no category colour. It has: object, part, scene, texture"):
        load_broden(broden, categories=["colour"])
    with pytest.raises(ValueError, match="no image of the split 'test'"):
        load_broden(broden, split="test")


def test_broden_mixes_files_and_numbers_in_a_category(broden):
    """A number beside files is a mask full of it, and two bytes make a number above 255."""
    change(broden / "index.csv", 0, "texture", "300;made/0_part.png")
    blue = np.zeros((20, 24, 3), np.uint8)
    blue[0, 0] = (44, 1, 9)
    PILImage.fromarray(blue).save(broden / "images/made/0_part.png")
    planes = load_broden(broden).labels(0).planes
    assert (planes[2] == 300).all()
    assert planes[3, 0, 0] == 300 and planes[3].sum() == 300


def test_concept_of_two_categories_belongs_to_the_larger_coverage(broden):
    """A concept counted in the category that has a few of its pixels."""
    with (broden / "c_part.csv").open("a", encoding="utf-8") as file:
        file.write("2,1,red disc,1,3.5\n")
    assert load_broden(broden).concepts[1] == Concept("red disc", "part")
    assert load_broden(broden, categories=["object"]).concepts[1] == Concept("red disc", "object")


@pytest.mark.parametrize("name", ["index.csv", "label.csv", "category.csv", "c_part.csv", "images"])
def test_missing_parts_of_broden_are_named(broden, name):
    """An incomplete download that is read as far as it goes."""
    (broden / name).rename(broden / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"'{broden / name}' is missing"):
        load_broden(broden)


def test_missing_files_of_broden_are_named(broden):
    """A mask that is missed in the middle of a long run."""
    (broden / "images/made/2_object.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 12 images and masks are missing: .*2_object.png"):
        load_broden(broden)


@pytest.mark.parametrize(
    ("file", "column", "value", "message"),
    [
        ("index.csv", "object", "../../secret.png", "outside the folder"),
        ("category.csv", "name", "a/../../b", "category.csv names the file .c_a/../../b.csv., outside the folder"),
        ("index.csv", "scene", "99", "line 2 names the concept 99"),
        ("index.csv", "sh", "x", "line 2: sh is 'x'"),
        ("index.csv", "sw", "²", "line 2: sw is '²'"),
        ("c_part.csv", "number", "?", "line 2: number is '?'"),
        ("c_part.csv", "number", "8", "names no label 8"),
        ("c_part.csv", "coverage", "much", "coverage is 'much'"),
    ],
)
def test_faulty_tables_of_broden_are_named(broden, file, column, value, message):
    """A table that is read in spite of a fault."""
    change(broden / file, 0, column, value)
    with pytest.raises(ValueError, match=message):
        load_broden(broden)


def test_faulty_masks_of_broden_are_named(broden):
    """A mask without colours, or of another size than stated."""
    data, path = load_broden(broden), broden / "images/made/0_object.png"
    PILImage.new("RGB", (10, 20)).save(path)
    with pytest.raises(ValueError, match=r"20×10 pixels, and the index states 20×24"):
        data.labels(0)
    PILImage.new("L", (24, 20)).save(path)
    with pytest.raises(ValueError, match=r"mode L. Expected RGB"):
        data.labels(0)


def labelled(mask, **options) -> LabelledImages:
    rows = [{"image": PILImage.new("RGB", (4, 2)), "mask": mask, "label": 1}]
    columns = {"object": ("mask", ["nothing", "cat", "dog"]), "scene": ("label", {1: "street"})}
    return LabelledImages(rows, columns, **options)


def test_columns_of_masks_and_labels():
    """Numbers of two columns that run into one another."""
    data = labelled(np.array([[0, 1, 2, 255], [0, 1, 2, 255]]), unlabelled=(0, 255))
    assert list(data.concepts.values()) == [
        Concept("cat", "object"),
        Concept("dog", "object"),
        Concept("street", "scene"),
    ]
    labels = data.labels(0)
    assert labels.planes.tolist() == [[[0, 1, 2, 0], [0, 1, 2, 0]]]
    assert labels.whole == (3,)
    assert (len(data), data.name(0), data.image(0).size) == (1, "row 0", (4, 2))


def test_a_negative_number_that_says_nothing():
    """Prevents: the last concept taken for unlabelled in the place of −1, which counts from a table's end."""
    data = labelled(np.array([[0, 1, 2, -1], [0, 1, 2, -1]]), unlabelled=(0, -1))
    assert data.labels(0).planes.tolist() == [[[0, 1, 2, 0], [0, 1, 2, 0]]]
    with pytest.raises(ValueError, match="'object' names the number -1. Number concepts from 0 on"):
        LabelledImages([{"image": None, "mask": 0}], {"object": ("mask", {-1: "cat", 2: "dog"})})


def test_columns_of_a_hub_data_set():
    """Masks as `datasets` holds them, in other formats than the rows' own."""
    masks = [PILImage.fromarray(np.array([[0, 1], [2, 2]], np.uint8))]
    data = Dataset.from_dict({"image": [PILImage.new("RGB", (2, 2))], "mask": masks})
    data = data.cast_column("image", Image()).cast_column("mask", Image())
    found = LabelledImages(data.with_format("torch"), {"object": ("mask", ["nothing", "cat", "dog"])})
    assert found.labels(0).planes.tolist() == [[[0, 1], [2, 2]]]


def test_bad_columns_are_refused():
    """Masks that would be read as other concepts, or not at all."""
    with pytest.raises(ValueError, match="no column mask. Its columns: image"):
        LabelledImages([{"image": None}], {"object": ("mask", ["cat"])})
    with pytest.raises(ValueError, match="columns is empty"):
        LabelledImages([{"image": None}], {})
    with pytest.raises(ValueError, match="no rows"):
        LabelledImages([], {"object": ("mask", ["cat"])})
    for number in (3, 255):
        with pytest.raises(ValueError, match=f"number {number} in 'mask', for which the category 'object' has no name"):
            labelled(np.full((2, 4), number)).labels(0)
    with pytest.raises(ValueError, match=r"shape \(2, 4, 3\)"):
        labelled(np.zeros((2, 4, 3), int)).labels(0)
