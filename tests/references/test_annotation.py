"""Annotations as a reference: which class is explained, and where its object is."""

import datasets
import pytest
import torch

from hf_e2kd.data import AnnotatedCollator
from hf_e2kd.references.annotation import AnnotationReference, annotated_classes, annotated_masks
from tests.models import CLASS_NAMES, build
from tests.training import distiller, samples

# Two dogs (class 1) and a cat (class 2); an image of a cat without boxes; one of a class whose box is another's.
BOXES = torch.tensor(
    [
        [[0, 0, 2, 2], [2, 2, 4, 4], [0, 2, 1, 4]],
        [[-1, -1, -1, -1]] * 3,
        [[0, 0, 4, 1], [-1, -1, -1, -1], [-1, -1, -1, -1]],
    ]
)
BOX_LABELS = torch.tensor([[1, 1, 2], [-1, -1, -1], [0, -1, -1]])
LABELS = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])


def batch(**columns):
    return {"pixel_values": torch.zeros(3, 3, 4, 4), "boxes": BOXES, **columns}


def test_annotated_classes():
    """Prevents: a class guided by another one's boxes, or by none."""
    several = annotated_classes(batch(box_labels=BOX_LABELS), LABELS)
    assert several.tolist() == [[False, True, True], [False] * 3, [False] * 3]
    assert annotated_classes(batch(box_labels=BOX_LABELS), torch.tensor([1, 2, 1])).tolist() == [True, False, False]
    assert annotated_classes(batch(box_labels=BOX_LABELS), torch.tensor([-100, -1, 0])).tolist() == [False, False, True]
    # Without classes of their own, the boxes are the image's label's.
    assert annotated_classes(batch(), torch.tensor([1, 2, 1])).tolist() == [True, False, True]
    assert annotated_classes(batch(), LABELS)[2].tolist() == [False, True, False]
    # A box of a class that isn't the model's, and numbers of another type.
    others = annotated_classes(batch(box_labels=BOX_LABELS.float() + 2), LABELS)
    assert not others.any()


def test_masks_are_of_the_explained_class():
    masks = annotated_masks(batch(box_labels=BOX_LABELS), torch.tensor([[1, 2], [-1, -1], [0, -1]]))
    assert masks.shape == (3, 2, 4, 4)
    dogs = torch.zeros(4, 4, dtype=torch.bool)
    dogs[:2, :2] = dogs[2:, 2:] = True
    assert torch.equal(masks[0, 0], dogs)
    assert masks[0, 1].nonzero().tolist() == [[2, 0], [3, 0]]
    assert not masks[1].any() and not masks[2, 1].any() and masks[2, 0].sum() == 4
    alone = annotated_masks(batch(box_labels=BOX_LABELS), torch.tensor([2, -1, 0]))
    assert torch.equal(alone, torch.stack([masks[0, 1], masks[1, 0], masks[2, 0]]))


def test_a_pixel_mask_serves_every_class():
    mask = torch.zeros(3, 4, 4, dtype=torch.uint8)
    mask[0, 1] = 255
    masks = annotated_masks({"mask": mask}, torch.tensor([[4, -1], [4, 5], [-1, -1]]))
    assert torch.equal(masks[0, 0], mask[0] > 127)
    assert not masks[0, 1].any() and not masks[1:].any()
    assert annotated_classes({"mask": mask}, torch.tensor([1, 1, -1])).tolist() == [True, False, False]


def test_masks_of_a_batch_follow_the_one_convention():
    """Prevents: a grey mask's faint values taken for the object where a batch isn't made by our transform."""
    grey = torch.tensor([0, 51, 128, 255], dtype=torch.uint8).expand(1, 4, 4)
    for mask in (grey, grey / 255, grey > 127, (grey > 127).long()):
        inputs = {"pixel_values": torch.zeros(1, 3, 4, 4), "mask": mask}
        assert annotated_masks(inputs, torch.tensor([2])).float().mean() == 0.5
    soft = {"mask": torch.full((1, 4, 4), 0.2)}
    assert not annotated_masks(soft, torch.tensor([2])).any()
    assert not annotated_classes(soft, torch.tensor([2])).any()


def test_masks_of_another_size_are_refused():
    """Prevents: a mask stretched over pixels that it wasn't drawn on."""
    inputs = {"pixel_values": torch.zeros(1, 3, 8, 8), "mask": torch.ones(1, 5, 9), "labels": torch.tensor([1])}
    with pytest.raises(ValueError, match="The masks have 5×9 pixels, and the model is shown 8×8"):
        AnnotationReference()(inputs)


@pytest.mark.parametrize("dilation", [0.0, 0.1])
@pytest.mark.parametrize(
    ("box", "message"),
    [([2, 2, 2, 5], "Box 1 of sample 0 is .*empty"), ([6, 6, 2, 2], "empty"), ([0, 0, float("nan"), 4], "NaN")],
)
@pytest.mark.parametrize("box_labels", [None, torch.tensor([[1, 2]])])
def test_faulty_boxes_are_refused(box, message, dilation, box_labels):
    """Prevents: an empty box that dilation, or another explained class, drops without a word."""
    inputs = batch(boxes=torch.tensor([[[0.0, 0.0, 4.0, 4.0], box]]), labels=torch.tensor([1]), box_labels=box_labels)
    with pytest.raises(ValueError, match=message):
        AnnotationReference(dilation=dilation)({k: v for k, v in inputs.items() if v is not None})


def test_dilation():
    """Prevents: padding that grows into a box, and a margin of the image's size instead of the box's."""
    boxes = torch.tensor([[[10, 10, 20, 14], [-1, -1, -1, -1]]])
    inputs = {"pixel_values": torch.zeros(1, 3, 32, 32), "boxes": boxes}
    inside = annotated_masks(inputs, torch.tensor([0]), dilation=0.5)[0].nonzero()
    assert inside.min(0).values.tolist() == [8, 5] and inside.max(0).values.tolist() == [15, 24]


def test_one_class_at_a_step_and_all_in_an_evaluation():
    reference = AnnotationReference()
    inputs = batch(box_labels=BOX_LABELS, labels=LABELS)
    reference_output = reference(inputs)
    assert reference_output.target.tolist() == [[1, 2], [-1, -1], [-1, -1]] and reference_output.annotation.shape == (
        3,
        2,
        4,
        4,
    )
    assert reference_output.logits is None and reference_output.maps is None
    reference.noise = torch.tensor([[0.6, 0.6, 0.6]])
    reference_output = reference(inputs)
    assert reference_output.target.tolist() == [2, -1, -1] and reference_output.annotation.shape == (3, 4, 4)
    assert reference(inputs, with_maps=False).annotation is None
    single = reference({**inputs, "labels": torch.tensor([1, 2, 0])})
    assert single.target.tolist() == [1, -1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"explanation_loss": "cosine"}, "Unknown guidance loss 'cosine'. Available: energy, l1, ppce, rrr"),
        ({"dilation": -0.1}, "dilation is -0.1"),
        ({"explanation_weight": -1.0}, "explanation_weight must be a finite number of at least 0, not -1"),
        ({"explanation_weight": float("nan")}, "explanation_weight must be a finite number of at least 0, not nan"),
    ],
)
def test_other_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AnnotationReference(**options)


def test_batches_without_annotations_are_refused():
    """Prevents: a guided training that guides nothing, for a column that was dropped on the way."""
    reference = AnnotationReference()
    reference.noise = torch.rand(1, 3)  # of a training step
    with pytest.raises(ValueError, match="has none. Its columns: .*'boxes', 'pixel_values'"):
        reference(batch())
    with pytest.raises(ValueError, match="no column `mask` or `boxes`. Its columns: .'labels'"):
        reference({"labels": LABELS})


def test_boxes_of_data_in_another_order_of_classes(tmp_path):
    """Prevents: labels numbered as the model's classes beside boxes numbered as the data's, which then never match."""
    pixels = [sample["pixel_values"].numpy() for sample in samples(4)]
    names = datasets.ClassLabel(names=CLASS_NAMES[::-1])
    features = datasets.Features(
        pixel_values=datasets.Array3D((3, 32, 32), "float32"),
        labels=names,
        boxes=datasets.List(datasets.List(datasets.Value("float32"))),
        box_labels=datasets.List(datasets.Value("int64")),
    )
    box = [0.0, 0.0, 16.0, 16.0]
    columns = {"labels": [0, 1, 2, 3], "boxes": [[box], [box, box], [], [box]], "box_labels": [[0], [0, 1], [], [2]]}
    data = datasets.Dataset.from_dict({"pixel_values": pixels, **columns}, features=features)
    trainer = distiller(
        build("vit"),
        None,
        tmp_path,
        references={"boxes": AnnotationReference()},
        data_collator=AnnotatedCollator(),
        train_dataset=data,
        eval_dataset=data,
    )
    made = trainer.collate([data[row] for row in range(4)], data)
    assert made["labels"].tolist() == [4, 3, 2, 1]
    assert made["box_labels"].tolist() == [[4, -1], [4, 3], [-1, -1], [2, -1]]
    assert trainer.references["boxes"](made).target.tolist() == [4, 3, -1, -1]
    wrong = data.map(lambda row: {"box_labels": [9] * len(row["boxes"])})
    with pytest.raises(ValueError, match=r"numbers \[9\].*0 to 4"):
        trainer.collate([wrong[row] for row in range(4)], wrong)
