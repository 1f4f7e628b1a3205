"""The classes that a store explains, and those of the student."""

import datasets
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset

from hf_e2kd import TeacherReference, explain
from hf_e2kd.explainers import GradCAM
from hf_e2kd.store import StoreError
from tests.models import CLASS_NAMES, CLASSES, build, images
from tests.references.test_teacher import name_classes, reordered
from tests.store.stores import store
from tests.training import samples


def test_classes_that_the_student_lacks(tmp_path):
    """Prevents: a class explained that the student has not; the remedy `classes` must be what the live teacher does."""
    names = ["class 4", "bird", "class 1", "fish", "class 0"]
    data = samples(16, seed=5)
    batch = {"pixel_values": torch.stack([sample["pixel_values"] for sample in data])}
    live = TeacherReference(name_classes(build("vit", seed=1), names))
    live.setup(build("vit"), GradCAM())
    expected = live(batch)

    def reference_output(folder, **options):
        reference = store(
            name_classes(build("vit", seed=1), names), data, tmp_path / folder, dtype="float32", **options
        )
        reference.setup(build("vit"), GradCAM())
        attached = reference.attach(data)
        loaded = next(iter(DataLoader(attached, batch_size=16)))
        return reference({name: loaded[name] for name in reference.columns})

    with pytest.warns(UserWarning, match="of the explained classes .* are not classes of the student"):
        assert (reference_output("all").target == -1).any()
    output = reference_output("shared", classes=CLASS_NAMES)
    assert torch.equal(output.target, expected.target)
    torch.testing.assert_close(output.maps, expected.maps)
    torch.testing.assert_close(output.logits, expected.logits)


def test_targets_by_label(tmp_path, teacher):
    """Prevents: the data's classes taken for the teacher's, whose order may be another."""
    data = samples(8)
    labels = [sample["labels"] for sample in data]
    feature = datasets.Features(
        {
            "pixel_values": datasets.Array3D((3, 32, 32), "float32"),
            "label": datasets.ClassLabel(names=CLASS_NAMES[::-1]),
        }
    )
    named = datasets.Dataset.from_dict(
        {"pixel_values": [sample["pixel_values"].numpy() for sample in data], "label": labels}, features=feature
    ).with_format("torch")
    targets = {}
    for name, source in (("plain", data), ("named", named)):
        reference = store(teacher, source, tmp_path / name, target="label")
        assert reference.target == "label"
        attached = reference.attach(source)
        targets[name] = [int(attached[row]["reference_target"]) for row in range(8)]
    assert targets["plain"] == labels
    assert targets["named"] == [CLASSES - 1 - label for label in labels]
    with pytest.raises(StoreError, match="needs one label a sample"):
        store(teacher, samples(4, labels=False), tmp_path / "unlabelled", target="label")


@pytest.mark.parametrize(
    ("label", "message"), [(7, r"numbers \[7\].*0 to 4"), (-1, r"numbers \[-1\]"), (True, "type bool")]
)
def test_labels_that_are_no_classes(tmp_path, teacher, label, message):
    """Prevents: labels from 1 to N that explain the teacher's top class instead, without a word."""
    data = [{**sample, "labels": label} for sample in samples(4)]
    with pytest.raises(ValueError, match=message):
        store(teacher, data, tmp_path / "store", target="label")
    data = [{**sample, "labels": -100} for sample in samples(4)]
    assert len(store(teacher, data, tmp_path / "store", target="label").attach(data)) == 4


def test_a_teacher_with_more_logits_than_names(tmp_path):
    """Prevents: a store that is called damaged when it is opened; a failed build that blocks its folder."""
    teacher = build("vit", seed=1)
    teacher.config.id2label = dict(enumerate(CLASS_NAMES[:3]))
    with pytest.raises(StoreError, match="gives 5 logits, and its configuration names 3 classes.*num_labels=3"):
        store(teacher, samples(4), tmp_path / "store")
    assert len(store(build("vit", seed=1), samples(4), tmp_path / "store").attach(samples(4))) == 4


def test_one_map_for_each_positive(tmp_path, teacher):
    """Prevents: one object of several explained, or maps of one class under another's number."""
    positives = [[1], [0, 3], [], [0, 1, 4], [2], [2, 3]]
    data = [
        {"pixel_values": image, "labels": torch.eye(CLASSES)[own].sum(0)}
        for image, own in zip(images(6), positives, strict=True)
    ]
    reference = store(teacher, data, tmp_path / "store", target="positives", rows_per_shard=2)
    student = reordered(build("vit"))
    reference.setup(student, GradCAM())
    batch = next(iter(DataLoader(reference.attach(data), batch_size=6)))
    output = reference(batch)
    assert output.target.shape == (6, 3) and output.maps.shape == (6, 3, 4, 4)
    student_names = [student.config.id2label[index] for index in range(CLASSES)]
    for row, own in enumerate(positives):
        assert output.target[row].tolist() == [
            *(student_names.index(CLASS_NAMES[c]) for c in own),
            *[-1] * (3 - len(own)),
        ]
        for number, wanted in enumerate(own):
            expected = explain(teacher, images(6)[row : row + 1], target=wanted).maps[0]
            torch.testing.assert_close(output.maps[row, number], expected, rtol=2e-3, atol=1e-4)
        assert not output.maps[row, len(own) :].any()
    assert output.shared_labels is None
    assert (reference({**batch, "explained": torch.arange(6) > 2}).target[:3] == -1).all()
    with pytest.raises(StoreError, match=r"needs labels of shape \(4, 5\)"):
        store(teacher, samples(4), tmp_path / "single", target="positives")


def test_stores_of_differently_many_positives_make_no_batch(tmp_path, teacher):
    """Prevents: torch's "stack expects each tensor to be equal size" at whichever batch first joins both stores."""
    data = [
        [{"pixel_values": image, "labels": torch.eye(CLASSES)[:count].sum(0)} for image in images(2)]
        for count in (1, 2)
    ]
    reference = store(teacher, data[0], tmp_path / "one", target="positives")
    store(teacher, data[1], tmp_path / "two", target="positives")
    parts = [reference.attach(data[0]), reference.attach(data[1], folder=tmp_path / "two")]
    with pytest.raises(StoreError, match="1 in .*one and 2 in .*two. They make no common batch. Build one store"):
        reference.check_data(ConcatDataset([Subset(parts[0], [0]), parts[1]]), explains=True)
    reference.check_data(ConcatDataset([parts[1], parts[1]]), explains=True)
