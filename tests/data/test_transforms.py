"""The same augmented image for student, teacher and mask."""

import io

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import v2
from transformers import BitImageProcessor, ViTImageProcessor

from hf_e2kd.data import AnnotatedCollator
from hf_e2kd.data.transforms import DistillationTransform
from hf_e2kd.metrics import energy_pointing_game
from hf_e2kd.references import AnnotationReference

HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


def squash(size, **settings):
    return ViTImageProcessor(size={"height": size, "width": size}, **{**HALVES, **settings})


def crop(edge, size):
    return BitImageProcessor(size={"shortest_edge": edge}, crop_size={"height": size, "width": size}, **HALVES)


def spotted(height=64, width=96, top=8, left=70, side=16):
    """A black image with one white square, and its mask."""
    pixels = np.zeros((height, width), dtype=np.uint8)
    pixels[top : top + side, left : left + side] = 255
    return Image.fromarray(np.stack([pixels] * 3, -1)), Image.fromarray(pixels)


def white(pixel_values):
    """Where an image is white, of pixel values in [−1, 1]."""
    return pixel_values.mean(0) > 0


def overlap(first, second):
    return ((first & second).sum() / (first | second).sum()).item()


def batch(count=1, **spot):
    image, mask = spotted(**spot)
    return {"image": [image] * count, "mask": [mask] * count, "label": list(range(count))}


def test_columns():
    """Prevents: a column that the trainer waits for missing, or one made up."""
    transform = DistillationTransform(squash(32), squash(48))

    full = transform(batch(2))
    bare = transform({"image": batch()["image"]})

    assert full.keys() == {"pixel_values", "teacher_pixel_values", "labels", "mask"}
    assert full["labels"] == [0, 1]
    assert full["pixel_values"][0].shape == (3, 32, 32)
    assert full["teacher_pixel_values"][0].shape == (3, 48, 48)
    assert full["mask"][0].shape == (32, 32)
    assert bare.keys() == {"pixel_values", "teacher_pixel_values"}


def test_same_view_needs_no_second_tensor():
    """Prevents: each image made and sent twice, where both sides see it alike."""
    assert DistillationTransform(squash(32), squash(32))(batch()).keys() == {"pixel_values", "labels", "mask"}


@pytest.mark.parametrize(
    "augmentation",
    [
        None,
        v2.RandomHorizontalFlip(1.0),
        v2.RandomVerticalFlip(1.0),
        v2.RandomResizedCrop(64, scale=(0.5, 1.0)),
        v2.RandomAffine(15, translate=(0.1, 0.1), scale=(0.8, 1.0)),
        v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(56), v2.ColorJitter(0.1)]),
    ],
    ids=["none", "flip", "vertical", "resized crop", "affine", "several"],
)
def test_student_teacher_and_mask_show_one_view(augmentation):
    """Prevents: an augmentation drawn anew for the teacher or the mask, so that maps are compared across places."""
    transform = DistillationTransform(squash(32), squash(48), augmentation)

    for _ in range(3):
        out = transform(batch(top=20, left=30, side=24))
        student, teacher = white(out["pixel_values"][0]), white(out["teacher_pixel_values"][0])
        mask = out["mask"][0] > 0
        enlarged = v2.functional.resize(student[None].float(), [48, 48])[0] > 0.5

        assert student.any()
        assert overlap(student, mask) > 0.75
        assert overlap(enlarged, teacher) > 0.75


@pytest.mark.parametrize(
    "augmentation",
    [
        None,
        v2.Resize((32, 32)),
        v2.RandomResizedCrop(32, scale=(1.0, 1.0), ratio=(1.0, 1.0)),
        v2.Compose([v2.RandomHorizontalFlip(1.0), v2.RandomVerticalFlip(1.0)]),
    ],
    ids=["none", "resize", "resized crop", "flips"],
)
def test_a_masks_pixel_shows_the_middle_of_what_it_covers(augmentation):
    """Prevents: masks that lie half a pixel, or more by a crop, beside their images; flipped ones on the other side."""
    middles = np.zeros((96, 96), dtype=np.uint8)
    middles[1::3, 1::3] = 255
    image = Image.fromarray(np.stack([middles] * 3, -1))

    found = DistillationTransform(squash(32), augmentation=augmentation)({"image": [image], "mask": [middles]})

    assert found["mask"][0].all()


def test_flip_is_a_flip():
    """Prevents: an augmentation that is drawn but not applied."""
    plain = DistillationTransform(squash(32))(batch(left=50, side=40))
    flipped = DistillationTransform(squash(32), augmentation=v2.RandomHorizontalFlip(1.0))(batch(left=50, side=40))

    torch.testing.assert_close(flipped["pixel_values"][0], plain["pixel_values"][0].flip(-1), atol=0.02, rtol=0)
    assert overlap(flipped["mask"][0] > 0, plain["mask"][0].flip(-1) > 0) > 0.8


def test_teacher_sees_the_students_field_of_view():
    """Prevents: a squashing teacher that sees what a cropping student doesn't."""
    out = DistillationTransform(crop(40, 32), squash(48))(batch(top=24, left=70))

    student, teacher = white(out["pixel_values"][0]), white(out["teacher_pixel_values"][0])
    # The square lies at columns 70 to 86 of 96, outside the crop's 22 to 73 but for its edge.
    assert student.float().mean().item() == pytest.approx(teacher.float().mean().item(), abs=0.01)
    assert student.float().mean() < 0.05


def test_normalisation_of_each_side():
    """Prevents: the student's statistics used for the teacher."""
    transform = DistillationTransform(squash(32), squash(32, image_mean=[0.2] * 3, image_std=[0.1] * 3))

    out = transform(batch())

    torch.testing.assert_close(out["teacher_pixel_values"][0], (out["pixel_values"][0] * 0.5 + 0.5 - 0.2) / 0.1)


def bands(dtype=np.uint8):
    """Columns of 0, 51, 102, 128, 204 and 255, eight of each."""
    return np.tile(np.repeat(np.array([0, 51, 102, 128, 204, 255], dtype), 8), (48, 1))


@pytest.mark.parametrize(
    ("mask", "columns"),
    [
        (Image.fromarray(bands()), 24),
        (bands(np.int64), 24),
        (bands(np.float32) / 255, 24),
        (Image.fromarray(bands() > 127), 24),  # mode 1
        ((bands() > 204).astype(np.uint8), 8),  # 0 and 1
        (bands() > 0, 40),
        (None, 0),
    ],
    ids=["grey", "int", "share", "mode 1", "0 and 1", "bool", "none"],
)
@pytest.mark.parametrize("augmentation", [None, v2.RandomHorizontalFlip(0.0), v2.RandomAffine(0, scale=(1.0, 1.0))])
def test_a_mask_is_what_is_above_a_half(mask, columns, augmentation):
    """Prevents: what one annotator of five took for the object counted as the object; a mask of 0 and 1 lost."""
    image = Image.new("RGB", (48, 48))
    out = DistillationTransform(squash(24), augmentation=augmentation)({"image": [image], "mask": [mask]})["mask"][0]

    assert out.dtype == torch.bool and type(out) is torch.Tensor
    assert out.sum(1).tolist() == [columns // 2] * 24


@pytest.mark.parametrize("augmentation", [None, v2.RandomRotation((30, 30)), v2.RandomResizedCrop(40)])
def test_grey_masks_reach_guidance_and_metrics_alike(augmentation):
    """Prevents: another object in the loss than in the pointing game, and grey made by a turned or resized mask."""
    image = Image.new("RGB", (48, 48))
    given = [Image.fromarray(bands()), Image.fromarray((bands() > 127).astype(np.uint8) * 255)]
    batches = []
    for mask in given:
        torch.manual_seed(3)
        transform = DistillationTransform(squash(24), augmentation=augmentation)
        rows = transform({"image": [image], "mask": [mask], "label": [1]})
        batches.append(AnnotatedCollator()([{name: values[0] for name, values in rows.items()}]))
    grey, object_alone = batches

    assert torch.equal(grey["mask"], object_alone["mask"]) and grey["mask"].any()
    annotation = AnnotationReference()(grey).annotation
    assert torch.equal(annotation, grey["mask"])
    where = energy_pointing_game(torch.ones(1, 6, 6), annotation)  # refuses other values than 0 and 1
    assert where.item() == pytest.approx(annotation.double().mean().item())


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (bands(np.int64) - 1, "holds values from -1 to 254. Give bool, 0 and 1, or a grey image's 0 to 255"),
        (bands(np.int64) * 2, "holds values from 0 to 510"),
        (np.full((48, 48), np.nan), "holds values from nan"),
        (Image.fromarray(bands()).convert("P"), "of mode P. Give a grey one, mask.convert.'L'.*mask. == id"),
        (Image.new("RGB", (48, 48)), "of mode RGB"),
    ],
)
def test_masks_of_other_values_are_refused(mask, message):
    """Prevents: class ids, or a palette's numbers, taken for how much an image shows the object."""
    with pytest.raises(ValueError, match=message):
        DistillationTransform(squash(24))({"image": [Image.new("RGB", (48, 48))], "mask": [mask]})


def test_a_mask_without_anything_above_a_half_is_said():
    """Prevents: a mask of class ids that guides nothing without a word."""
    ids = Image.fromarray((bands() > 127).astype(np.uint8) * 7)
    with pytest.warns(UserWarning, match="reaches 7 of 255, and what is above 127 is the object.*mask == id"):
        out = DistillationTransform(squash(24))({"image": [Image.new("RGB", (48, 48))], "mask": [ids]})
    assert not out["mask"][0].any()


@pytest.mark.parametrize("kind", ["bool array", "tensor", "image"])
def test_masks_of_every_kind(kind):
    """Prevents: a mask that can't be read for its type."""
    image, mask = spotted()
    array = np.asarray(mask) > 0
    given = {"bool array": array, "tensor": torch.tensor(array), "image": mask}[kind]

    out = DistillationTransform(squash(32))({"image": [image], "mask": [given]})

    assert overlap(out["mask"][0] > 0, white(out["pixel_values"][0])) > 0.8


@pytest.mark.parametrize("colour", [128, (124, 116, 104)])
@pytest.mark.parametrize(
    "make",
    [
        lambda **fill: v2.RandomRotation((30, 30), **fill),
        lambda **fill: v2.RandomAffine((0, 0), translate=(0.3, 0.3), **fill),
        lambda **fill: v2.RandomCrop((64, 96), padding=20, **fill),
        lambda **fill: v2.RandomZoomOut(p=1.0, **fill),
        lambda **fill: v2.RandomPerspective(p=1.0, **fill),
        lambda **fill: v2.Compose([v2.ElasticTransform(alpha=300.0, **fill), v2.Pad(9, **fill), v2.ColorJitter(0.1)]),
    ],
    ids=["rotation", "affine", "crop of padded", "zoom out", "perspective", "several"],
)
def test_a_mask_is_not_filled_with_the_images_colour(make, colour):
    """Prevents: corners that a rotation fills with grey taken for the object, and a colour that no mask can take."""
    masks = []
    for fill in ({}, {"fill": colour}):
        torch.manual_seed(0)
        masks.append(DistillationTransform(squash(32), augmentation=make(**fill))(batch())["mask"][0])
    assert torch.equal(*masks) and masks[0].any()


def test_mask_of_another_size_is_refused():
    """Prevents: a mask stretched over an image that it wasn't drawn on."""
    image, _ = spotted()

    with pytest.raises(ValueError, match=r"mask of shape \(10, 10\) doesn't fit its image of 64×96 pixels"):
        DistillationTransform(squash(32))({"image": [image], "mask": [np.zeros((10, 10))]})


def test_missing_column_lists_the_columns():
    """Prevents: a KeyError in a data loader's worker."""
    with pytest.raises(ValueError, match=r"no column 'image'. Its columns: \['img'\]"):
        DistillationTransform(squash(32))({"img": batch()["image"]})


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_images_of_other_modes(mode):
    """Prevents: a grey, transparent or palette image among colour ones that stops a training."""
    image, _ = spotted()

    assert DistillationTransform(squash(32))({"image": [image.convert(mode)]})["pixel_values"][0].shape == (3, 32, 32)


def test_as_transform_of_a_data_set():
    """Prevents: a transform that `datasets` can't apply row by row and in slices."""
    rows = batch(3)
    data = datasets.Dataset.from_dict(
        {"image": [np.asarray(image) for image in rows["image"]], "label": rows["label"]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")}),
    )
    data.set_transform(DistillationTransform(squash(32), squash(48)))

    assert data[0]["pixel_values"].shape == (3, 32, 32)
    assert len(data[:2]["teacher_pixel_values"]) == 2
    assert data[2]["labels"] == 2


def test_other_column_names():
    """Prevents: a data set that has to be renamed first."""
    image, mask = spotted()
    transform = DistillationTransform(
        squash(32), image_column="photo", label_column="species", mask_column="segmentation"
    )

    out = transform({"photo": [image], "species": [4], "segmentation": [mask]})

    assert out["labels"] == [4]
    assert out["mask"][0].shape == (32, 32)


# ---- Images and augmentations of other kinds (fault B13) -------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        ([1, 4], None, [1, 4]),
        ([[0, 2], [1]], 3, [[1, 0, 1], [0, 1, 0]]),
        ([[0, 2], [1]], None, None),
        (["a text", "another"], None, None),
    ],
)
def test_a_column_that_is_called_labels(labels, classes, expected):
    """Prevents: labels dropped without a word, or with the advice to give their column the name that it has."""
    batch = {"image": [Image.new("RGB", (8, 8))] * 2, "labels": labels}
    shown = DistillationTransform(ViTImageProcessor(), classes=classes)(batch)
    assert expected == (None if "labels" not in shown else [torch.as_tensor(own).tolist() for own in shown["labels"]])
    # The column that is named goes first.
    assert DistillationTransform(ViTImageProcessor())({**batch, "label": [3, 3]})["labels"] == [3, 3]


def test_images_that_were_not_decoded():
    """Prevents: an AttributeError of a dictionary, for data cast to `Image(decode=False)`."""
    image, _ = spotted()
    decoded = datasets.Dataset.from_dict({"image": [image]}, features=datasets.Features(image=datasets.Image()))
    encoded = decoded.cast_column("image", datasets.Image(decode=False))
    shown = [data.with_transform(DistillationTransform(squash(32)))[0]["pixel_values"] for data in (decoded, encoded)]
    assert torch.equal(*shown)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (None, "of sample 1 is None"),
        ("photo.png", "is builtins.str"),
        (np.zeros((4, 4, 3)), r"is numpy.ndarray \(4, 4, 3\)"),
        ({"bytes": None, "path": None}, "is builtins.dict"),
    ],
    ids=["none", "path", "array", "empty"],
)
def test_what_is_no_image_is_named(image, said):
    """Prevents: an AttributeError for a sample without an image, or with something else."""
    with pytest.raises(ValueError, match=f"{said}.*images of PIL.*cast_column"):
        DistillationTransform(squash(32))({"image": [spotted()[0], image]})


@pytest.mark.parametrize(
    ("augmentation", "kind"), [(v2.ToImage(), r"torchvision.Image \(3, 64, 96\)"), (np.asarray, "numpy.ndarray")]
)
def test_augmentation_to_something_else_is_refused(augmentation, kind):
    """Prevents: an error from inside the resizing, or intensities normalised twice."""
    with pytest.raises(ValueError, match=f"augmentation made {kind}.* of a PIL image.*leave out ToTensor"):
        DistillationTransform(squash(32), augmentation=augmentation)({"image": [spotted()[0]]})


class Mirror:
    """A flip as albumentations calls it: by name, on arrays."""

    def __call__(self, *, image, mask=None):
        return {"image": image[:, ::-1].copy()} | ({} if mask is None else {"mask": mask[:, ::-1]})


Mirror.__module__ = "albumentations.augmentations"


def test_albumentations_flip_the_image_and_its_mask():
    """Prevents: a positional call, which albumentations refuses; a mask that stays where the object was."""
    image, mask = spotted()
    plain, mirrored = (
        DistillationTransform(squash(32), augmentation=augmentation)({"image": [image], "mask": [mask]})
        for augmentation in (v2.RandomHorizontalFlip(1.0), Mirror())
    )
    assert torch.equal(plain["pixel_values"][0], mirrored["pixel_values"][0])
    assert torch.equal(plain["mask"][0], mirrored["mask"][0]) and plain["mask"][0].any()


def test_albumentations_with_boxes_are_refused():
    """Prevents: boxes left where their objects no longer are."""
    transform = DistillationTransform(squash(32), augmentation=Mirror())
    with pytest.raises(ValueError, match="this view has box_labels, boxes too"):
        transform({"image": [spotted()[0]], "boxes": [[[0, 0, 4, 4]]]})


def test_masks_that_were_not_decoded():
    """Prevents: "can't convert np.ndarray of type numpy.object_" for masks beside images that are opened."""
    _, mask = spotted()
    file = io.BytesIO()
    mask.save(file, format="PNG")
    transform, rows = DistillationTransform(squash(32)), batch()

    found = transform(rows | {"mask": [{"bytes": file.getvalue(), "path": None}]})

    assert torch.equal(found["mask"][0], transform(rows)["mask"][0])
    with pytest.raises(ValueError, match="'masks/1.png' is a path.*cast_column"):
        transform(rows | {"mask": ["masks/1.png"]})


@pytest.mark.parametrize("augmentation", [v1.RandomHorizontalFlip(), v1.Compose([v1.RandomHorizontalFlip()])])
def test_transforms_of_images_alone_are_refused_beside_masks_and_boxes(augmentation):
    """Prevents: "takes 2 positional arguments but 3 were given" of torchvision's first transforms."""
    transform, rows = DistillationTransform(squash(32), augmentation=augmentation), batch()
    boxes = {"image": rows["image"], "boxes": [[[4.0, 4.0, 20.0, 20.0]]]}

    assert transform({"image": rows["image"]})["pixel_values"][0].shape == (3, 32, 32)
    for given, what in ((rows, "mask"), (boxes, "boxes")):
        with pytest.raises(ValueError, match=f"has {what} to move with it.*torchvision.transforms.v2"):
            transform(given)
