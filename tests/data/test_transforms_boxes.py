"""Annotated images as a model is shown them: boxes where the objects are, several labels, a fraction with boxes."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from transformers import ViTImageProcessor

from hf_e2kd.data import AnnotatedCollator, DistillationTransform, JointAugment, keep_annotations

PROCESSOR = ViTImageProcessor(size={"height": 64, "width": 64}, image_mean=[0.0] * 3, image_std=[1.0] * 3)
CROPPING = ViTImageProcessor(
    size={"height": 64, "width": 64}, do_center_crop=True, crop_size={"height": 32, "width": 32}
)


def picture(box, size=(96, 80)):
    """A white object on black."""
    x0, y0, x1, y1 = box
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[y0:y1, x0:x1] = 255
    return Image.fromarray(pixels)


def rows(*boxes):
    return {
        "image": [picture(box) for box in boxes],
        "boxes": [[list(map(float, box))] for box in boxes],
        "box_labels": [[3] for _ in boxes],
        "labels": [[3] for _ in boxes],
    }


AUGMENTATIONS = {
    "none": None,
    "flip": v2.RandomHorizontalFlip(1.0),
    "crop": v2.RandomResizedCrop(48, scale=(0.5, 1.0)),
    "pad": v2.Pad([10, 0, 3, 20]),
    "flip in RandAugment": JointAugment(v2.RandAugment(num_ops=1, magnitude=5)),
}


@pytest.mark.parametrize("record_view", [False, True])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_boxes_stay_on_their_objects(name, record_view):
    """Prevents: boxes in the pixels of the file, or left behind by a crop or a flip."""
    torch.manual_seed(0)
    transform = DistillationTransform(
        PROCESSOR, augmentation=AUGMENTATIONS[name], label_column="labels", record_view=record_view, classes=5
    )
    batch = transform(rows((30, 20, 60, 50), (24, 30, 70, 64), (40, 10, 56, 60)))
    for pixels, boxes in zip(batch["pixel_values"], batch["boxes"], strict=True):
        (x0, y0, x1, y1) = boxes[0].tolist()
        white = pixels[0] > 0.5 * pixels[0].max()
        inside = torch.zeros_like(white)
        inside[round(y0) : round(y1), round(x0) : round(x1)] = True
        assert (white & inside).sum() / (white | inside).sum() > (0.85 if "Rand" in name else 0.9)


def test_boxes_that_an_augmentation_removes():
    """Prevents: classes that are left of boxes that are gone, and an explanation map taken for boxes' masks."""
    sanitize = v2.SanitizeBoundingBoxes(min_size=12)
    data = {
        **rows((30, 20, 60, 50)),
        "boxes": [[[0.0, 0.0, 9.0, 9.0], [30.0, 20.0, 60.0, 50.0]]],
        "box_labels": [[1, 3]],
    }
    batch = DistillationTransform(PROCESSOR, augmentation=sanitize, label_column="labels", classes=5)(data)
    assert len(batch["boxes"][0]) == 1 and batch["box_labels"][0].tolist() == [3]
    with pytest.raises(ValueError, match="SanitizeBoundingBoxes takes.*Leave it out"):
        DistillationTransform(PROCESSOR, augmentation=v2.Compose([sanitize]), record_view=True)


def test_sanitizing_beside_a_mask_is_refused():
    """Prevents: an IndexError in a data loader's worker, as the one mask of an image is taken for one of each box."""
    masked = {**rows((30, 20, 60, 50)), "mask": [np.ones((80, 96), dtype=bool)]}
    augmentation = v2.Compose([v2.RandomCrop(10), v2.SanitizeBoundingBoxes()])
    with pytest.raises(ValueError, match="takes the image's mask for the masks of single boxes. Leave it out"):
        DistillationTransform(PROCESSOR, augmentation=augmentation, label_column="labels", classes=5)(masked)


@pytest.mark.parametrize("augmentation", [None, v2.RandomHorizontalFlip(1.0)])
@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([10.0, 5.0, 4.0, 3.0], r"Box 1 of id b, \[10.0, 5.0, 4.0, 3.0\] as x0, y0, x1, y1, has no area.*x, y, width"),
        ([0.0, 0.0, float("nan"), 3.0], "Box 1 of id b, .* isn't finite"),
        ([0.0, 0.0, float("inf"), 3.0], "isn't finite"),
        ([2.0, 2.0, 2.0, 5.0], "has no area"),
        ([2.0, 2.0, 2.0], "has 3 values"),
    ],
)
def test_faulty_boxes_are_refused(box, message, augmentation):
    """Prevents: boxes as x, y, width, height, or with NaN, that vanish without a word, and the guidance with them."""
    data = rows((30, 20, 60, 50), (24, 30, 70, 64)) | {"id": ["a", "b"]}
    data["boxes"][1].append(box)
    data["box_labels"][1].append(2)
    transform = DistillationTransform(PROCESSOR, augmentation=augmentation, label_column="labels", classes=5)
    with pytest.raises(ValueError, match=message):
        transform(data)
    del data["id"]
    with pytest.raises(ValueError, match="Box 1 of sample 1, "):
        transform(data)
    # Rows of padding are none.
    data["boxes"][1][1] = [-1.0] * 4
    assert len(transform(data)["boxes"][1]) == 1


def test_a_cropping_processor():
    """Prevents: boxes of the whole image on a view of its centre, and boxes of nothing."""
    batch = DistillationTransform(CROPPING, label_column="labels", classes=5)(
        {
            **rows((48, 40, 72, 60)),
            "boxes": [[[48.0, 40.0, 72.0, 60.0], [0.0, 0.0, 20.0, 15.0]]],
            "box_labels": [[3, 1]],
        }
    )
    torch.testing.assert_close(batch["boxes"][0], torch.tensor([[16.0, 16.0, 32.0, 32.0]]))
    assert batch["box_labels"][0].tolist() == [3]


def test_several_labels():
    transform = DistillationTransform(PROCESSOR, label_column="labels", classes=5)
    data = rows((30, 20, 60, 50), (24, 30, 70, 64)) | {"labels": [[0, 3], []]}
    assert torch.stack(transform(data)["labels"]).tolist() == [[1, 0, 0, 1, 0], [0] * 5]
    with pytest.raises(ValueError, match=r"several \(\[0, 3\]\). Give the number of `classes`"):
        DistillationTransform(PROCESSOR, label_column="labels")(data)


def test_collator():
    """Prevents: a box of one image that pads another one's."""
    samples = [
        {"pixel_values": torch.zeros(3, 2, 2), "labels": 1, "boxes": torch.ones(n, 4), "box_labels": torch.ones(n)}
        for n in (2, 0)
    ]
    batch = AnnotatedCollator()(samples)
    assert batch["boxes"].shape == (2, 2, 4) and batch["boxes"][1].eq(-1).all() and batch["boxes"][0].eq(1).all()
    assert batch["box_labels"].tolist() == [[1, 1], [-1, -1]]
    assert batch["labels"].tolist() == [1, 1] and batch["pixel_values"].shape == (2, 3, 2, 2)
    assert AnnotatedCollator()(samples[1:])["boxes"].shape == (1, 1, 4)


def test_a_fraction_keeps_its_boxes():
    """Prevents: labels lost with the boxes, images that are decoded and stored anew, another fraction's images."""
    data = datasets.Dataset.from_dict(
        {
            "image": [picture((1, 1, 5, 5 + n)) for n in range(40)],
            "labels": [[n % 3] for n in range(40)],
            "boxes": [[[1.0, 1.0, 5.0, 5.0 + n]] if n % 2 else [] for n in range(40)],
            "box_labels": [[n % 3] if n % 2 else [] for n in range(40)],
        },
        features=datasets.Features(
            {
                "image": datasets.Image(),
                "labels": datasets.List(datasets.Value("int64")),
                "boxes": datasets.List(datasets.List(datasets.Value("float32"))),
                "box_labels": datasets.List(datasets.Value("int64")),
            }
        ),
    )
    shown = data.with_transform(lambda batch: {"labels": batch["labels"], "boxes": batch["boxes"]})
    assert sum(bool(row["boxes"]) for row in keep_annotations(shown, 0.1)) == 2
    with pytest.raises(ValueError, match="has masks beside its boxes"):
        keep_annotations(data.add_column("mask", [None] * 40), 0.1)
    few, more = keep_annotations(data, 0.1), keep_annotations(data, 0.5)
    having = [{row for row, boxes in enumerate(own["boxes"]) if boxes} for own in (few, more)]
    assert [len(rows) for rows in having] == [2, 10] and having[0] < having[1]
    assert few["labels"] == data["labels"] and few.features == data.features
    assert all(few[row]["box_labels"] == data[row]["box_labels"] for row in having[0])
    assert few[0]["image"].tobytes() == data[0]["image"].tobytes()


def test_rows_of_which_some_are_annotated():
    """Prevents: an error at the first row without boxes, in the transform or in the collator."""
    data = rows((30, 20, 60, 50), (24, 30, 70, 64)) | {"boxes": [None, [[24.0, 30.0, 70.0, 64.0]]]}
    data["box_labels"] = [None, [3]]
    made = DistillationTransform(PROCESSOR, label_column="labels", classes=5)(data)
    assert [len(boxes) for boxes in made["boxes"]] == [0, 1] and made["box_labels"][1].tolist() == [3]
    samples = [{name: values[number] for name, values in made.items()} for number in (0, 1)]
    del samples[0]["boxes"], samples[0]["box_labels"]
    samples[1]["boxes"] = samples[1]["boxes"].tolist()
    batch = AnnotatedCollator()(samples)
    assert batch["boxes"][0].eq(-1).all() and batch["box_labels"].tolist() == [[-1], [3]]


def test_a_label_beyond_the_classes_is_refused():
    with pytest.raises(ValueError, match="the labels \\[3\\], and there are 3 classes"):
        DistillationTransform(PROCESSOR, label_column="labels", classes=3)(rows((30, 20, 60, 50)))


def test_boxes_in_shares_of_the_image_are_refused():
    """Prevents: boxes from 0 to 1, between the pixels' middles, by which nothing is annotated, without a word."""
    data = rows((30, 20, 60, 50)) | {"boxes": [[[0.2, 0.1, 0.9, 1.0]]]}
    with pytest.raises(ValueError, match="lies within the image's first pixel.*multiply shares"):
        DistillationTransform(PROCESSOR, label_column="labels", classes=5)(data)


@pytest.mark.parametrize(
    ("labels", "said"),
    [([1, 2], "There are 1 boxes of sample 0, and 2 box_labels"), (["dog"], r"'box_labels' holds \['dog'\]")],
)
def test_labels_that_are_not_the_boxes_are_refused(labels, said):
    """Prevents: an IndexError, or "too many dimensions 'str'"."""
    data = rows((30, 20, 60, 50)) | {"box_labels": [labels]}
    with pytest.raises(ValueError, match=said):
        DistillationTransform(PROCESSOR, label_column="labels", classes=5)(data)
