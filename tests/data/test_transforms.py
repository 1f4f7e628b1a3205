"""The same augmented image for student, teacher and mask."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from transformers import BitImageProcessor, ViTImageProcessor

from hf_e2kd.data.transforms import DistillationTransform

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


def test_mask_values_are_kept():
    """Prevents: a mask of class ids blurred into ids that don't exist."""
    image, mask = spotted()
    ids = Image.fromarray((np.asarray(mask) > 0).astype(np.uint8) * 7)

    out = DistillationTransform(squash(32))({"image": [image], "mask": [ids]})

    assert set(out["mask"][0].unique().tolist()) == {0, 7}


@pytest.mark.parametrize("kind", ["bool array", "tensor", "image"])
def test_masks_of_every_kind(kind):
    """Prevents: a mask that can't be read for its type."""
    image, mask = spotted()
    array = np.asarray(mask) > 0
    given = {"bool array": array, "tensor": torch.tensor(array), "image": mask}[kind]

    out = DistillationTransform(squash(32))({"image": [image], "mask": [given]})

    assert overlap(out["mask"][0] > 0, white(out["pixel_values"][0])) > 0.8


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
