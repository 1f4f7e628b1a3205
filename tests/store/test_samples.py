"""Kinds of data that are stored: with transforms, without a length, in parts."""

import random

import datasets
import pytest
import torch
from torchvision.transforms import v2
from transformers import BitImageProcessor, ViTImageProcessor

from hf_e2kd import explain
from hf_e2kd.data import DistillationTransform
from hf_e2kd.store import StoreError
from hf_e2kd.store.build import StoreBuilder
from tests.models import build
from tests.store.stores import PROCESSOR, Stream, photographs, rows, store, train
from tests.training import distiller, logged, samples


def test_images_with_a_transform(tmp_path, teacher):
    """Prevents: ids lost because a transform drops their column, or `remove_unused_columns` that drops the rest."""
    data = photographs()
    reference = store(teacher, data, tmp_path / "store", processing_class=PROCESSOR, id_column="key")
    data.set_transform(DistillationTransform(PROCESSOR))
    attached = reference.attach(data.shuffle(seed=0))
    part = torch.utils.data.Subset(data, [4, 1])
    assert reference.attach(torch.utils.data.Subset(attached, [1])).features == data.features
    with pytest.raises(StoreError, match="`transform` is set on a datasets.Dataset, not on a Subset"):
        store(teacher, part, tmp_path / "part", id_column="key", transform=DistillationTransform(PROCESSOR))
    assert attached.features["label"] and "reference_map" in attached.column_names
    assert {"pixel_values", "labels", "reference_map"} <= attached[0].keys()
    for row in range(len(attached)):
        expected = explain(teacher, attached[row]["pixel_values"][None])
        torch.testing.assert_close(attached[row]["reference_map"], expected.maps[0], rtol=2e-3, atol=1e-4)
    found, _, trainer = train(tmp_path, reference, attached, settings={"max_steps": 1}, processing_class=PROCESSOR)
    assert trainer.args.remove_unused_columns and found["loss_explanation"][0] > 0
    reference.check(teacher, PROCESSOR, "gradcam")
    again = store(teacher, photographs(), tmp_path / "store", processing_class=PROCESSOR, id_column="key")
    assert len(again.shards) == 6


def test_images_outside_of_datasets(tmp_path, teacher):
    """Prevents: a demand for the image processor that was given, for lists and streams of images."""
    data = photographs()
    expected = store(teacher, data, tmp_path / "data", processing_class=PROCESSOR, id_column="key").attach(data)
    streams = data.to_iterable_dataset(), Stream(list(data))
    for number, given in enumerate((list(data), torch.utils.data.Subset(data, range(6)), *streams)):
        options = {"processing_class": PROCESSOR, "id_column": "key", "num_workers": 0}
        found = store(teacher, given, tmp_path / str(number), **options).attach(data)
        assert all(torch.equal(found[row]["reference_map"], expected[row]["reference_map"]) for row in range(6))


def test_a_transform_of_another_processor(tmp_path, teacher):
    """Prevents: a store of the student's images under the name of the teacher's processor, and its field of view."""
    small = ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.2] * 3, image_std=[0.9] * 3)
    cropping = BitImageProcessor(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    data = photographs()
    data.set_transform(DistillationTransform(small))
    with pytest.raises(StoreError, match="shows the teacher 16×16 pixels.* processing_class makes 32×32 pixels"):
        store(teacher, data, tmp_path / "another", processing_class=PROCESSOR)
    # Of two processors the student's field of view is shown to both.
    data.set_transform(DistillationTransform(small, cropping))
    reference = store(teacher, data, tmp_path / "both", processing_class=cropping)
    reference.check_processor(small)
    with pytest.raises(StoreError, match="belong to the field of view"):
        reference.check_processor(cropping)


def test_columns_that_only_sound_like_the_teachers(tmp_path, teacher):
    """Prevents: "KeyError: 'pixel_values'" of data with a score of another teacher."""
    data = samples(4)
    expected = store(teacher, data, tmp_path / "store").attach(data)[3]["reference_map"]
    scored = [{**sample, "teacher_score": 0.5} for sample in data]
    assert torch.equal(store(teacher, scored, tmp_path / "scored").attach(scored)[3]["reference_map"], expected)
    made = distiller(build("vit"), teacher, tmp_path, {"remove_unused_columns": False}, train_dataset=scored)
    made.train()
    assert len(logged(made, "loss_explanation")) == 2


def test_streams_that_are_augmented(tmp_path, teacher):
    """Prevents: stored maps that stay where they were while a stream's images move, and a store of moved images."""
    data = photographs()

    def stream(**options):
        transform = DistillationTransform(PROCESSOR, **options)
        return data.to_iterable_dataset().map(transform, batched=True, remove_columns=["image", "label"])

    flipped = stream(augmentation=v2.RandomHorizontalFlip())
    with pytest.raises(StoreError, match="DistillationTransform has an augmentation"):
        store(teacher, flipped, tmp_path / "augmented", id_column="key")
    reference = store(teacher, stream(), tmp_path / "store", id_column="key")
    assert reference.description["field_of_view"] == {"keeps_ratio": False, "fraction": 1.0}
    with pytest.raises(StoreError, match="nothing says where in them the places of the stored maps are"):
        next(iter(reference.attach(flipped)))
    recorded = stream(augmentation=v2.RandomHorizontalFlip(1.0), record_view=True)
    assert next(iter(reference.attach(recorded)))["view_matrix"][0][0] == -1


def test_a_store_by_another_transform_is_not_taken(tmp_path, teacher):
    """Prevents: maps of the images as they were shown before a script was changed and run again."""
    data = photographs()
    data.set_transform(DistillationTransform(PROCESSOR))
    store(teacher, data, tmp_path / "store")
    store(teacher, data, tmp_path / "store")
    brighter = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.2] * 3, image_std=[0.5] * 3)
    with pytest.raises(StoreError, match="processor.mean is .0.5, 0.5, 0.5. in the store and .0.2, 0.2, 0.2. here"):
        store(teacher, photographs(), tmp_path / "store", transform=DistillationTransform(brighter))


def test_an_augmentation_of_the_users_own_is_said(tmp_path, teacher, caplog):
    """Prevents: maps laid on flipped and cropped images, where `set_transform` is given a script's own function."""

    def shown(augmentation):
        def transform(rows):
            pixels = DistillationTransform(PROCESSOR)({"image": rows["image"]})["pixel_values"]
            return {"pixel_values": [augmentation(image) for image in pixels], "labels": rows["label"]}

        return photographs().with_transform(transform)

    reference = store(teacher, photographs(), tmp_path / "store", processing_class=PROCESSOR)
    state = torch.random.get_rng_state()
    with caplog.at_level("WARNING"):
        reference.attach(photographs())
        reference.attach(shown(v2.Identity()))
        assert "is another one each time" not in caplog.text
        attached = reference.attach(shown(v2.RandomHorizontalFlip()))
    assert "nothing says how its image is moved" in caplog.text and len(attached) == 6
    assert torch.equal(state, torch.random.get_rng_state())


def test_images_of_which_some_have_no_label(tmp_path, teacher):
    """Prevents: torch's "could not infer dtype", if the first sample of a batch isn't the one without a label."""
    data = photographs()
    labels = [1, None, 2, None, None, 0]
    part = data.remove_columns("label").add_column("label", labels)
    found, expected = (
        store(teacher, each, tmp_path / name, processing_class=PROCESSOR).attach(each)
        for name, each in (("part", part), ("whole", data))
    )
    assert all(torch.equal(found[row]["reference_map"], expected[row]["reference_map"]) for row in range(6))
    with pytest.raises(
        StoreError, match="needs one label a sample, as whole numbers in a column `labels`, −100 for none"
    ):
        store(teacher, part, tmp_path / "label", processing_class=PROCESSOR, target="label")


def test_streams(tmp_path, teacher):
    """Prevents: a stream whose rows are those of other samples, since it knows no positions."""
    data = rows(10)
    reference = store(teacher, Stream(data), tmp_path / "store", id_column="image_id", rows_per_shard=4)
    listed = store(teacher, data, tmp_path / "listed", id_column="image_id", rows_per_shard=4)
    expected = listed.attach(data)
    shuffled = random.Random(0).sample(data, 7)
    hub = datasets.IterableDataset.from_generator(
        lambda: iter([{"image_id": sample["image_id"], "labels": sample["labels"]} for sample in shuffled])
    )
    for stream in (Stream(shuffled), hub):
        for sample, original in zip(reference.attach(stream), shuffled, strict=True):
            number = int(original["image_id"].removeprefix("image-"))
            for column in ("reference_map", "reference_logits", "reference_target"):
                assert torch.equal(sample[column], expected[number][column])
    train(tmp_path, reference, reference.attach(Stream(data)))
    builder = StoreBuilder(
        teacher, Stream(data[:6]), tmp_path / "short", id_column="image_id", rows_per_shard=4, progress=False
    )
    builder.run()
    with pytest.raises(StoreError, match=r"shard-00001\.arrow has 2 rows instead of 4: the data has changed"):
        store(teacher, Stream(data), tmp_path / "short", id_column="image_id", rows_per_shard=4)
    with pytest.raises(StoreError, match="'image-99' is not in the store"):
        list(reference.attach(Stream(rows(1, 99))))
    with pytest.raises(StoreError, match="streaming data set's samples have no positions"):
        store(teacher, Stream(data), tmp_path / "none")
