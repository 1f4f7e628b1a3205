"""COCO's layout, and one instances file with its images beside it."""

import json
from copy import deepcopy

import numpy as np
import pytest
from PIL import Image

from hf_e2kd.data import load_coco
from hf_e2kd.data.coco import VOC_NAMES, select_categories
from hf_e2kd.data.voc import CLASSES

CATEGORIES = [
    {"id": 1, "name": "person"},
    {"id": 5, "name": "airplane"},
    {"id": 64, "name": "potted plant"},
    {"id": 70, "name": "toilet"},
]


def instances():
    return {
        "images": [
            {"id": 9, "file_name": "a.jpg", "width": 20, "height": 10},
            {"id": 4, "file_name": "b.jpg", "width": 20, "height": 10},
        ],
        "annotations": [
            {"id": 100, "image_id": 9, "category_id": 64, "bbox": [2, 1, 5.5, 4], "iscrowd": 0},
            {"id": 101, "image_id": 9, "category_id": 1, "bbox": [0, 0, 20, 10], "iscrowd": 1},
            {"id": 102, "image_id": 9, "category_id": 70, "bbox": [3, 3, 1, 1], "iscrowd": 0},
        ],
        "categories": deepcopy(CATEGORIES),
    }


def draw(folder, content, size=(20, 10)):
    for image in content["images"]:
        (folder / image["file_name"]).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(folder / image["file_name"])


@pytest.fixture
def write(tmp_path):
    """Writes one `instances.json` with its images."""

    def write_to(content):
        (tmp_path / "instances.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path

    draw(tmp_path, instances())
    return write_to


def test_columns_of_the_published_layout(tmp_path):
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        draw(tmp_path / f"{split}2017", instances())
        (tmp_path / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(instances()))

    splits = load_coco(tmp_path)

    assert list(splits) == ["train", "validation"]
    rows = splits["validation"]
    assert rows.features["labels"].feature.names == ["person", "airplane", "potted plant", "toilet"]
    assert {name: rows[0][name] for name in rows.column_names if name != "image"} == {
        "id": "9",
        "labels": [0, 2, 3],
        "boxes": [[2, 1, 7.5, 5], [0, 0, 20, 10], [3, 3, 4, 4]],
        "box_labels": [2, 0, 3],
        "difficult": [False, True, False],
    }
    assert rows[0]["image"].size == (20, 10)
    assert (rows[1]["id"], rows[1]["labels"], rows[1]["boxes"]) == ("4", [], [])


def test_one_file_whose_images_state_their_split(write):
    content = instances()
    content["images"][0]["split"], content["images"][1]["split"] = "val", "train"

    splits = load_coco(write(content))

    assert {name: rows["id"][:] for name, rows in splits.items()} == {"validation": ["9"], "train": ["4"]}


def test_one_file_without_splits_is_for_training(write):
    assert {name: len(rows) for name, rows in load_coco(write(instances())).items()} == {"train": 2}


def test_classes_by_vocs_names_and_in_their_order(write):
    rows = load_coco(write(instances()), classes=["pottedplant", "aeroplane", "person"])["train"]

    assert rows.features["labels"].feature.names == ["pottedplant", "aeroplane", "person"]
    assert rows[0]["box_labels"] == [0, 2]
    assert rows[0]["labels"] == [0, 2]


def test_vocs_names_are_all_known():
    coco = set(VOC_NAMES.values()) | (set(CLASSES) - set(VOC_NAMES))

    names, labels = select_categories(
        [{"id": number, "name": name} for number, name in enumerate(sorted(coco))], CLASSES
    )

    assert names == list(CLASSES)
    assert len(coco) == len(labels) == 20


def test_images_without_an_object_can_be_left_out(write):
    assert load_coco(write(instances()), unannotated=False)["train"]["id"][:] == ["9"]
    assert load_coco(write(instances()), unannotated=False, classes=["airplane"])["train"].num_rows == 0


def test_crowds_can_be_left_out(write):
    row = load_coco(write(instances()), difficult=False)["train"][0]

    assert (row["labels"], row["difficult"]) == ([2, 3], [False, False])


def test_boxes_rounded_over_the_border_are_cut_without_a_word(write, recwarn):
    content = instances()
    content["annotations"][0]["bbox"] = [15, 5, 5.04, 5.04]

    assert load_coco(write(content), outside="refuse")["train"][0]["boxes"][0] == [15, 5, 20, 10]
    assert not recwarn.list


def changed(table, number, **values):
    content = instances()
    content[table][number] |= values
    return content


def without(table, number, key):
    content = instances()
    del content[table][number][key]
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"instances.json: not JSON"),
        ("[]", "has no list 'images'. Expected COCO's lists images, annotations, categories"),
        ({"images": []}, "has no list 'annotations'"),
        (without("images", 1, "file_name"), "entry 1 of 'images' has no file_name"),
        (changed("images", 1, id=9), "1 values of 'id' occur more than once in 'images', such as 9"),
        (changed("annotations", 1, id=100), "'id' occur more than once in 'annotations', such as 100"),
        (changed("categories", 1, name="person"), "'name' occur more than once in 'categories', such as 'person'"),
        (changed("annotations", 1, image_id=77), "annotation 101: the image_id 77 is not in the file"),
        (changed("annotations", 1, category_id=2), "annotation 101: the category_id 2 is not in the file"),
        (changed("annotations", 0, bbox=[1, 2, 3]), r"annotation 100 \(potted plant\): the bbox is \[1, 2, 3\]"),
        (changed("annotations", 0, bbox=[1, 2, 0, 3]), r"annotation 100 \(potted plant\): the box .* has no area"),
        (changed("annotations", 0, bbox=[1, float("nan"), 2, 3]), r"annotation 100 .*nan.* isn't finite"),
        (changed("images", 1, width=None), r"json, entry 1 of 'images': width is None. Expected a number of pixels"),
        (changed("images", 0, height="tall"), "entry 0 of 'images': height is 'tall'. Expected a number of pixels"),
        (changed("images", 0, id=[9]), r"entry 0 of 'images': id is \[9\]. Expected a whole number or a text"),
        (changed("annotations", 2, image_id={}), "entry 2 of 'annotations': image_id is {}"),
        (changed("images", 1, file_name=3), "entry 1 of 'images': file_name is 3. Expected a text"),
        (changed("images", 1, split=["val"]), r"entry 1 of 'images': split is \['val'\]. Expected a text"),
        (changed("images", 1, file_name="a.jpg", split="val"), "'file_name' occur more than once .* such as 'a.jpg'"),
        (instances() | {"images": [], "annotations": []}, "json has no images: its list 'images' is empty"),
        (changed("images", 0, width=40), r"instances.json states 40×10 pixels, but .*a.jpg' has 20×10"),
    ],
)
def test_bad_files_are_named(write, content, message):
    with pytest.raises(ValueError, match=message):
        load_coco(write(content))


def test_unknown_classes_list_the_known(write):
    with pytest.raises(
        ValueError, match="There are no classes sofa. Choose from: person, airplane, potted plant, toilet"
    ):
        load_coco(write(instances()), classes=["person", "sofa"])
    with pytest.raises(ValueError, match="one class more than once: airplane, aeroplane"):
        load_coco(write(instances()), classes=["airplane", "aeroplane"])


def test_missing_files_are_named(tmp_path, write):
    with pytest.raises(FileNotFoundError, match=r"instances_train2017.json' is missing, and 3 more: .*or one with an"):
        load_coco(tmp_path)
    (tmp_path / "b.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images are missing: .*b.jpg"):
        load_coco(write(instances()))


def test_an_image_that_its_exif_turns_is_as_it_will_be_decoded(tmp_path, write):
    """`datasets` turns it, so boxes of the file's own pixels would lie elsewhere."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif)

    with pytest.raises(ValueError, match="states 20×10 pixels, but .*a.jpg' has 10×20"):
        load_coco(write(instances()))
    content = changed("images", 0, width=10, height=20)
    content["annotations"] = []
    assert load_coco(write(content))["train"][0]["image"].size == (10, 20)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../secret.png", "..\\secret.png"])
def test_images_outside_the_folder(write, name):
    """Prevents: an instances file that makes the loader open a file anywhere on the machine."""
    content = instances()
    content["images"][0]["file_name"] = name
    with pytest.raises(ValueError, match=r"instances\.json, image .* names the file .*, outside the folder"):
        load_coco(write(content))
