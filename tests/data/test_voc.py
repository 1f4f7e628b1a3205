"""VOC in the layout of its development kit, and annotations that aren't as they should be."""

import pickle

import numpy as np
import pytest
import torch
from datasets import Image as DatasetsImage
from datasets import concatenate_datasets, load_from_disk
from PIL import Image
from transformers import ViTImageProcessor

from hf_e2kd.data import DistillationTransform, load_voc, undecodable_images
from hf_e2kd.data.voc import CLASSES, parse_xml
from hf_e2kd.metrics import boxes_to_masks

SIZE = (20, 10)  # width, height
PROCESSOR = ViTImageProcessor(size={"height": 8, "width": 8})


def box(*corners, name="dog", difficult=0, rest=""):
    sides = "".join(f"<{side}>{x}</{side}>" for side, x in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox>{rest}</object>"


def annotation(*objects, size=SIZE):
    width, height = size
    return (
        f"<annotation><filename>x.jpg</filename><size><width>{width}</width><height>{height}</height></size>"
        f"{''.join(objects)}</annotation>"
    )


@pytest.fixture
def add(tmp_path):
    """Writes an image, its annotation and its line in a list."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)

    def write(name, xml, split="train", size=SIZE):
        (root / "Annotations" / f"{name}.xml").write_text(xml)
        Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
        with (root / "ImageSets/Main" / f"{split}.txt").open("a") as file:
            file.write(f"{name}\n")

    write("2008_000001", annotation(box(1, 1, 20, 10, name="person"), box(3, 2, 5, 4, difficult=1)))
    write("2008_000002", annotation(box(2, 2, 4, 4), box(6, 6, 9, 9)), split="val")
    return write


def test_columns(tmp_path, add):
    splits = load_voc(tmp_path)

    assert list(splits) == ["train", "validation"]
    assert splits["train"].features["labels"].feature.names == list(CLASSES)
    row = splits["train"][0]
    assert row["image"].size == SIZE
    assert {name: row[name] for name in row if name != "image"} == {
        "id": "2008_000001",
        "labels": [11, 14],
        "boxes": [[0, 0, 20, 10], [2, 1, 5, 4]],
        "box_labels": [14, 11],
        "difficult": [False, True],
    }
    # Two objects of one class are one label.
    assert splits["validation"]["labels"][:] == [[11]]


def test_images_are_not_decoded_as_they_are_loaded(tmp_path, add):
    cell = load_voc(tmp_path)["train"].with_format("arrow")["image"][:].to_pylist()[0]

    assert cell["bytes"] is None
    assert cell["path"].endswith("2008_000001.jpg")


def test_pixels_count_from_one_and_both_corners_belong_to_the_box(tmp_path, add):
    """The box from pixel 3 to pixel 3 is one pixel, in column 2 of an array."""
    add("one", annotation(box(3, 2, 3, 2)))
    rows = load_voc(tmp_path)["train"]

    mask = boxes_to_masks(torch.tensor([rows[1]["boxes"]]), size=(SIZE[1], SIZE[0]))[0]

    assert mask.nonzero().tolist() == [[1, 2]]


@pytest.mark.parametrize("inside", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_the_folder_is_found(tmp_path, add, inside):
    assert len(load_voc(tmp_path / inside)["train"]) == 1


def test_difficult_objects_can_be_left_out(tmp_path, add):
    add("all_difficult", annotation(box(1, 1, 2, 2, difficult=1)))

    rows = load_voc(tmp_path, difficult=False)["train"]

    assert rows["labels"][:] == [[14], []]
    assert rows["boxes"][:] == [[[0, 0, 20, 10]], []]


def test_an_image_without_objects_is_kept(tmp_path, add):
    add("empty", annotation())

    row = load_voc(tmp_path)["train"][1]

    assert (row["id"], row["labels"], row["boxes"]) == ("empty", [], [])


def test_parts_of_a_person_are_no_objects(tmp_path, add):
    """VOC 2012's layout task puts heads and hands into their person."""
    head = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></part>"
    add("parts", annotation(box(1.0, 1.0, 8.5, 9.0, name="person", rest=head)))

    row = load_voc(tmp_path)["train"][1]

    assert (row["box_labels"], row["boxes"]) == ([14], [[0, 0, 8.5, 9]])


def test_other_lists_and_years(tmp_path, add):
    add("t", annotation(box(1, 1, 2, 2)), split="test")
    add("tv", annotation(box(1, 1, 2, 2)), split="trainval")

    assert list(load_voc(tmp_path)) == ["train", "validation", "test"]
    assert list(load_voc(tmp_path, splits=["trainval"])) == ["trainval"]
    with pytest.raises(FileNotFoundError, match=r"minival.txt' is missing. In .* there is test.txt; train.txt"):
        load_voc(tmp_path, splits=["minival"])
    with pytest.raises(FileNotFoundError, match=r"There is no folder '.*VOC2007'. Give the folder 'VOCdevkit'"):
        load_voc(tmp_path / "VOCdevkit", year=2007)


def test_missing_files_are_named(tmp_path, add):
    root = tmp_path / "VOCdevkit/VOC2012"
    (root / "JPEGImages/2008_000001.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 1 images are missing: .*2008_000001.jpg"):
        load_voc(tmp_path)
    (root / "Annotations/2008_000001.xml").unlink()
    with pytest.raises(FileNotFoundError, match=r"2008_000001.xml' is missing"):
        load_voc(tmp_path)


@pytest.mark.parametrize(
    "entity",
    [
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file://{secret}">]>',
        '<!DOCTYPE a SYSTEM "file://{secret}">',
        '<!DOCTYPE a [<!ENTITY x "dog">]>',
        '<!DOCTYPE a [<!ENTITY y "ha"><!ENTITY x "&y;&y;&y;">]>',
    ],
)
def test_document_types_are_refused(tmp_path, add, entity):
    """Prevents: an annotation that reads other files, or that fills the memory with nested entities."""
    (tmp_path / "secret").write_text("dog")
    xml = annotation(box(1, 1, 2, 2, name="&x;"))
    add("evil", entity.format(secret=tmp_path / "secret") + xml)

    with pytest.raises(ValueError, match=r"evil.xml, line 1: a document type"):
        load_voc(tmp_path)


def test_entities_without_a_document_type_are_refused(tmp_path):
    (tmp_path / "a.xml").write_text("<annotation>&x;</annotation>")

    with pytest.raises(ValueError, match=r"a.xml: not XML \(undefined entity"):
        parse_xml(tmp_path / "a.xml")


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<annotation><object>", r"bad.xml: not XML \(no element found"),
        (annotation(box(1, 1, 2, 2, name="unicorn")), r"object 1 \(unicorn\): not a class of VOC.*aeroplane"),
        (annotation("<object></object>"), r"object 1 \(without a name\)"),
        (annotation("<object><name>dog</name></object>"), r"object 1 \(dog\): its <bndbox> has no <xmin>"),
        (annotation(box(1, "two", 3, 4)), r"object 1 \(dog\): <ymin> is 'two'. Expected a number"),
        (annotation(box(1, 1, 2, 2), box(5, 5, 4, 8)), r"bad.xml, object 2 \(dog\): the box .* has no area"),
        (annotation(box(1, "nan", 3, 4)), r"object 1 \(dog\): the box .*nan.* \(x0, y0, x1, y1\) isn't finite"),
        (annotation(box(1, 1, "inf", 4)), r"object 1 \(dog\): the box .*inf.* isn't finite"),
        ("<foo/>", r"bad.xml: the root element is <foo>. Expected VOC's <annotation>"),
        ('<?xml version="1.0" encoding="foo"?><annotation/>', r"bad.xml: its encoding can't be read .*as UTF-8"),
        ('<?xml version="1.0" encoding="gb18030"?><annotation/>', r"bad.xml: its encoding can't be read .*as UTF-8"),
        (annotation(box(30, 1, 40, 5)), r"object 1 \(dog\): the box .* lies outside the image of 20×10"),
        (annotation(size=(10, 20)), r"bad.xml states 10×20 pixels, but .*bad.jpg' has 20×10"),
        (annotation(size=("wide", 20)), "<width> is 'wide'. Expected a whole number"),
    ],
)
def test_bad_annotations_are_named(tmp_path, add, xml, message):
    add("bad", xml)

    with pytest.raises(ValueError, match=message):
        load_voc(tmp_path)


def test_a_size_of_zero_is_none(tmp_path, add):
    add("unknown", annotation(size=(0, 0)))

    assert len(load_voc(tmp_path)["train"]) == 2


def test_boxes_that_leave_the_image_are_cut_and_counted(tmp_path, add):
    add("out", annotation(box(-3, 5, 30, 8)))

    with pytest.warns(UserWarning, match=r"1 boxes that leave their image are cut: .*out.xml, object 1 \(dog\)"):
        rows = load_voc(tmp_path)["train"]

    assert rows[1]["boxes"] == [[0, 4, 20, 8]]
    with pytest.raises(ValueError, match=r"object 1 \(dog\).*leaves the image of 20×10 pixels. .*outside='clip'"):
        load_voc(tmp_path, outside="refuse")


def test_boxes_without_area_can_be_left_out(tmp_path, add):
    add("bad", annotation(box(5, 5, 4, 8), box(1, "nan", 3, 4), box(1, 1, 2, 2), box(30, 1, 40, 5)))

    with pytest.warns(UserWarning, match="3 boxes that aren't finite, or have no area in it, are left out"):
        rows = load_voc(tmp_path, faulty="drop")["train"]

    assert rows[1]["boxes"] == [[0, 0, 2, 2]]


def test_an_image_that_is_none_is_named_or_skipped(tmp_path, add):
    add("torn", annotation())
    (tmp_path / "VOCdevkit/VOC2012/JPEGImages/torn.jpg").write_bytes(b"not an image")

    with pytest.raises(ValueError, match=r"1 of 2 images can't be decoded: .*torn.jpg.*skip_undecodable=True"):
        load_voc(tmp_path)
    with pytest.warns(UserWarning, match=r"1 of 2 images can't be decoded and are left out: .*torn.jpg"):
        assert load_voc(tmp_path, skip_undecodable=True)["train"]["id"][:] == ["2008_000001"]


def test_an_image_that_is_cut_off_is_found(tmp_path, add):
    """Its header is sound, so it would stop the training, hours later and without its name."""
    path = add_noise(tmp_path, add, "cut")
    path.write_bytes(path.read_bytes()[:-1000])

    with pytest.raises(ValueError, match=r"1 of 2 images can't be decoded: .*cut.jpg' .*truncated.*skip_undecodable"):
        load_voc(tmp_path)
    with pytest.warns(UserWarning, match=r"left out: .*cut.jpg' \(OSError: image file is truncated"):
        assert len(load_voc(tmp_path, skip_undecodable=True)["train"]) == 1


def test_an_image_that_breaks_as_it_is_decoded_is_named(tmp_path, add):
    """Prevents: a training that stops by "broken data stream" without saying which."""
    path = add_noise(tmp_path, add, "torn")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000] + b"\xff\xd8" * 3 + whole[-1000:])  # begins and ends as it should

    rows = load_voc(tmp_path)["train"]

    assert undecodable_images(rows) == [1]
    with pytest.raises(ValueError, match=r"torn.jpg' can't be decoded \(.*skip_undecodable=True"):
        rows.select([1]).with_transform(DistillationTransform(PROCESSOR, label_column="labels", classes=20))[0]
    with pytest.warns(UserWarning, match=r"left out: .*torn.jpg"):
        assert load_voc(tmp_path, skip_undecodable=True)["train"]["id"][:] == ["2008_000001"]


def test_the_images_are_images_to_datasets(tmp_path, add):
    """Prevents: rows that can't be joined with saved ones, or are saved as something that only we can read."""
    rows = load_voc(tmp_path)["train"]
    rows.save_to_disk(tmp_path / "saved")

    saved = load_from_disk(tmp_path / "saved")

    assert type(saved.features["image"]) is DatasetsImage and saved.features == rows.features
    joined = concatenate_datasets([saved, pickle.loads(pickle.dumps(rows))])
    assert [row["image"].size for row in joined] == [SIZE, SIZE]


def test_an_image_with_more_behind_its_end_is_read(tmp_path, add):
    """Prevents: files refused that other programs have appended to."""
    path = add_noise(tmp_path, add, "longer")
    path.write_bytes(path.read_bytes() + bytes(200))

    assert undecodable_images(load_voc(tmp_path)["train"]) == []


def add_noise(tmp_path, add, name):
    """Adds an image that is larger than a header, and gives its path."""
    add(name, annotation(size=(64, 64)), size=(64, 64))
    path = tmp_path / f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg"
    Image.fromarray(np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)).save(path)
    return path


def test_an_image_that_is_listed_twice_is_refused(tmp_path, add):
    add("2008_000001", annotation())

    with pytest.raises(ValueError, match=r"1 ids occur more than once: 2008_000001 \(in .*2008_000001.xml\)"):
        load_voc(tmp_path)


def test_an_image_in_two_splits_is_refused(tmp_path, add):
    """Prevents: a test on images of the training."""
    with (tmp_path / "VOCdevkit/VOC2012/ImageSets/Main/val.txt").open("a") as file:
        file.write("2008_000001\n")

    with pytest.raises(ValueError, match=r"1 images of .*Main stand in more than .*: 2008_000001 \(train, val\)"):
        load_voc(tmp_path)
    assert list(load_voc(tmp_path, splits=["val"])) == ["validation"]


def test_a_list_in_another_encoding_is_named(tmp_path, add):
    (tmp_path / "VOCdevkit/VOC2012/ImageSets/Main/val.txt").write_bytes(b"\xe9\n")

    with pytest.raises(ValueError, match=r"val.txt: not UTF-8 .*Save it as UTF-8"):
        load_voc(tmp_path)


def test_an_empty_list_is_refused(tmp_path, add):
    (tmp_path / "VOCdevkit/VOC2012/ImageSets/Main/val.txt").write_text("\n")

    with pytest.raises(ValueError, match=r"val.txt names no image"):
        load_voc(tmp_path)


@pytest.mark.parametrize("argument", ["outside", "faulty"])
def test_other_choices_are_refused(tmp_path, add, argument):
    with pytest.raises(ValueError, match=f"{argument} is 'ignore'. Choose from: "):
        load_voc(tmp_path, **{argument: "ignore"})


@pytest.mark.parametrize("name", ["../../../secret", "/etc/passwd", "C:\\secret"])
def test_images_outside_the_folder(tmp_path, add, name):
    """Prevents: a list that makes the loader open a file anywhere on the machine."""
    with (tmp_path / "VOCdevkit/VOC2012/ImageSets/Main/train.txt").open("a") as file:
        file.write(f"{name}\n")
    with pytest.raises(ValueError, match=r"train\.txt names the file .*, outside the folder"):
        load_voc(tmp_path)
