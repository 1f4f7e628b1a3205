"""The teacher stored: training without it, a store's whole life on disk, and everything that must not be believed."""

import errno
import json
import os
import pickle
import random
import signal

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset
from transformers import BitImageProcessor, DataCollatorWithPadding, ViTImageProcessor

from hf_e2kd import TeacherReference, TextCollator, explain
from hf_e2kd.explainers import GradCAM
from hf_e2kd.losses import distillation_loss
from hf_e2kd.references import StoredReference, StoredTextCollator, StoreError
from hf_e2kd.references.stored import files, ids
from hf_e2kd.references.stored.build import StoreBuilder
from hf_e2kd.references.stored.ids import IdIndex
from tests.models import CLASS_NAMES, CLASSES, build, images
from tests.references.test_teacher import name_classes, reordered
from tests.text_models import build_text
from tests.tokenizers import SENTENCES, tokenizer
from tests.training import Gradients, distiller, logged, relative_error, samples

TERMS = ("loss", "loss_task", "loss_logits", "loss_explanation")


@pytest.fixture
def teacher():
    return build("vit", seed=1)


def rows(count=16, start=0, **settings):
    """Samples with an id each; number 3 is "image-3", whatever the number of samples."""
    return [
        {**sample, "image_id": f"image-{start + number}"} for number, sample in enumerate(samples(count, **settings))
    ]


def store(teacher, data, folder, **options):
    return StoredReference.build(teacher, data, folder, **{"batch_size": 4, "progress": False, **options})


class Calls:
    """Counts the teacher's forward passes and the samples in them."""

    def __init__(self, module):
        self.batches = []
        module.register_forward_hook(lambda _, inputs, output: self.batches.append(len(output)))


def train(folder, reference, data, student=None, settings=None, **keywords):
    """Logged terms and gradients of a training from one reference."""
    gradients = Gradients()
    trainer = distiller(
        build("vit") if student is None else student,
        None,
        folder,
        {"max_steps": 4, "task_weight": 0.5, **(settings or {})},
        train_dataset=data,
        references={"teacher": reference},
        callbacks=[gradients],
        **keywords,
    )
    trainer.train()
    return {name: logged(trainer, name) for name in TERMS}, gradients.steps, trainer


# ---- Training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-3), ("float32", 1e-6)])
def test_training_equals_the_live_teachers(tmp_path, teacher, dtype, tolerance):
    """Prevents: a row joined to another sample, a map at another scale or grid, logits of another class order."""
    live, live_steps, _ = train(tmp_path, TeacherReference(build("vit", seed=1)), samples(16))
    reference = store(teacher, samples(16), tmp_path / "store", dtype=dtype)
    found, steps, trainer = train(tmp_path, reference, reference.attach(samples(16)))
    for name in TERMS:
        assert len(found[name]) == 4
        assert found[name] == pytest.approx(live[name], rel=tolerance)
    for one, other in zip(steps, live_steps, strict=True):
        assert relative_error(one, other) < tolerance
    metrics = trainer.evaluate(reference.attach(samples(16)))
    assert {"eval_agreement", "eval_explanation_similarity", "eval_teacher_accuracy"} <= metrics.keys()


def test_workers_and_an_evaluation_set_of_its_own(tmp_path, teacher):
    """Prevents: mapped files that don't reach the workers, and an evaluation on the training set's rows."""
    reference = store(teacher, rows(), tmp_path / "train", id_column="image_id", num_workers=2, rows_per_shard=6)
    store(teacher, rows(13, 100, seed=7), tmp_path / "eval", id_column="image_id")
    data = {"eval_dataset": reference.attach(rows(13, 100, seed=7), folder=tmp_path / "eval")}
    alone, _, _ = train(tmp_path, reference, reference.attach(rows()), **data)
    shared, _, _ = train(tmp_path, reference, reference.attach(rows()), settings={"dataloader_num_workers": 2}, **data)
    assert shared == alone
    spawned = pickle.loads(pickle.dumps(reference.attach(rows())))
    assert torch.equal(spawned[7]["reference_map"], reference.attach(rows())[7]["reference_map"])
    expected = distiller(build("vit"), teacher, tmp_path).evaluate()
    found = distiller(build("vit"), None, tmp_path, references={"teacher": reference}, **data).evaluate()
    for name in ("eval_agreement", "eval_explanation_similarity", "eval_teacher_accuracy"):
        assert found[name] == pytest.approx(expected[name], rel=1e-3)


def test_without_its_store_the_evaluation_says_so(tmp_path, teacher):
    """Prevents: an evaluation that silently measures no fidelity, or a KeyError."""
    reference = store(teacher, samples(8), tmp_path / "store")
    trainer = distiller(build("vit"), None, tmp_path, references={"teacher": reference})
    with pytest.raises(StoreError, match=r"no column \['reference_logits'.*folder=\.\.\."):
        trainer.evaluate()


def test_the_teacher_is_left_as_it_was(tmp_path, teacher):
    """Prevents: a store of a teacher with dropout, or a teacher that can't be trained any more."""
    expected = explain(teacher, images(4))
    teacher.train()
    reference = store(teacher, [{"pixel_values": image} for image in images(4)], tmp_path / "store", dtype="float32")
    assert teacher.training and all(parameter.requires_grad for parameter in teacher.parameters())
    found = [reference.attach([{"pixel_values": image} for image in images(4)])[row] for row in range(4)]
    torch.testing.assert_close(torch.stack([row["reference_map"] for row in found]), expected.maps)
    torch.testing.assert_close(torch.stack([row["reference_logits"] for row in found]), expected.logits)


def test_label_order_differs(tmp_path):
    """Prevents: "cat" taught as "dog" because a store knows classes by number alone."""
    plain = store(build("vit", seed=1), samples(16), tmp_path / "plain", dtype="float32")
    other = store(reordered(build("vit", seed=1)), samples(16), tmp_path / "other", dtype="float32")
    found = [train(tmp_path, reference, reference.attach(samples(16)))[0] for reference in (plain, other)]
    for name in TERMS:
        assert found[1][name] == pytest.approx(found[0][name], rel=1e-5)


def test_classes_that_the_student_lacks(tmp_path):
    """Prevents: a class explained that the student has not; the remedy `classes` must be what the live teacher does."""
    names = ["class 4", "bird", "class 1", "fish", "class 0"]
    data = samples(16, seed=5)
    batch = {"pixel_values": torch.stack([sample["pixel_values"] for sample in data])}
    live = TeacherReference(name_classes(build("vit", seed=1), names))
    live.bind(build("vit"), GradCAM())
    expected = live(batch)

    def said(folder, **options):
        reference = store(
            name_classes(build("vit", seed=1), names), data, tmp_path / folder, dtype="float32", **options
        )
        reference.bind(build("vit"), GradCAM())
        attached = reference.attach(data)
        loaded = next(iter(DataLoader(attached, batch_size=16)))
        return reference({name: loaded[name] for name in reference.columns})

    with pytest.warns(UserWarning, match="of the explained classes .* are not classes of the student"):
        assert (said("all").target == -1).any()
    output = said("shared", classes=CLASS_NAMES)
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
        attached = store(teacher, source, tmp_path / name, target="label").attach(source)
        targets[name] = [int(attached[row]["reference_target"]) for row in range(8)]
    assert targets["plain"] == labels
    assert targets["named"] == [CLASSES - 1 - label for label in labels]
    with pytest.raises(StoreError, match="needs one label a sample"):
        store(teacher, samples(4, labels=False), tmp_path / "unlabelled", target="label")


def test_one_map_for_each_positive(tmp_path, teacher):
    """Prevents: one object of several explained, or maps of one class under another's number."""
    positives = [[1], [0, 3], [], [0, 1, 4], [2], [2, 3]]
    data = [
        {"pixel_values": image, "labels": torch.eye(CLASSES)[own].sum(0)}
        for image, own in zip(images(6), positives, strict=True)
    ]
    reference = store(teacher, data, tmp_path / "store", target="positives", rows_per_shard=2)
    student = reordered(build("vit"))
    reference.bind(student, GradCAM())
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


def test_the_largest_logits(tmp_path, teacher):
    """Prevents: probabilities of the stored classes that change because the others are left out."""
    data = samples(6)
    full = store(teacher, data, tmp_path / "full", dtype="float32").attach(data)
    few = store(teacher, data, tmp_path / "few", top_k=2, dtype="float32").attach(data)
    expected = torch.stack([full[row]["reference_logits"] for row in range(6)])
    found = torch.stack([few[row]["reference_logits"] for row in range(6)])
    kept = expected.topk(2).indices
    torch.testing.assert_close(found.softmax(1).gather(1, kept), expected.softmax(1).gather(1, kept))
    assert found.shape == (6, CLASSES) and torch.equal(found.argmax(1), expected.argmax(1))
    others = found.softmax(1).scatter(1, kept, 0)
    torch.testing.assert_close(others.amax(1), others.sum(1) / (CLASSES - 2))
    assert distillation_loss(torch.randn(6, CLASSES), found).isfinite().all()
    with pytest.raises(StoreError, match="top_k=5 of 5 classes saves nothing"):
        store(teacher, data, tmp_path / "all", top_k=5)


def test_faint_maps_keep_their_shape(tmp_path, teacher):
    """Prevents: maps that half precision rounds to nothing, and so teach nothing."""
    with torch.no_grad():
        teacher.classifier.weight.mul_(1e-9)
    data = samples(4)
    attached = store(teacher, data, tmp_path / "store").attach(data)
    expected = explain(teacher, torch.stack([sample["pixel_values"] for sample in data])).maps
    assert expected.max() < 1e-7
    for row in range(4):
        error = (attached[row]["reference_map"] - expected[row]).abs().max()
        assert error < 1e-3 * expected[row].max()


# ---- Kinds of data ---------------------------------------------------------------------------------------------------


def photographs(count=6):
    noise = np.random.default_rng(0).integers(0, 255, (count, 40, 32, 3), dtype=np.uint8)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.Value("int64"), "key": datasets.Value("int64")}
    )
    return datasets.Dataset.from_dict(
        {
            "image": [Image.fromarray(one) for one in noise],
            "label": [n % CLASSES for n in range(count)],
            "key": [7 * n for n in range(count)],
        },
        features=features,
    )


PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def test_images_with_a_transform(tmp_path, teacher):
    """Prevents: ids lost because a transform drops their column, or `remove_unused_columns` that drops the rest."""
    from hf_e2kd.data.transforms import DistillationTransform

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


class Stream(IterableDataset):
    def __init__(self, samples):
        self.samples = samples

    def __iter__(self):
        return iter(self.samples)


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


def test_size_of_a_sample(tmp_path):
    """1000 classes and a 7×7 map must fit into 2.2 kB, or ImageNet takes gigabytes more than it must."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 4], depths=[1, 1], layer_type="basic", num_labels=1000)
    teacher = ResNetForImageClassification(config).eval()
    data = [{"pixel_values": image, "image_id": f"n01440764_{n:05d}.JPEG"} for n, image in enumerate(images(64, 56))]
    reference = store(teacher, data, tmp_path / "store", id_column="image_id", batch_size=32)
    assert reference.attach(data)[0]["reference_map"].shape == (7, 7)
    total = sum(path.stat().st_size for path in (tmp_path / "store").glob("shard-*.arrow"))
    assert total / 64 <= 2200
    # datasets opens a shard as it is.
    shard = datasets.Dataset.from_file(str(tmp_path / "store" / "shard-00000.arrow"))
    assert shard[3]["id"] == "n01440764_00003.JPEG" and len(shard[3]["logits"]) == 2000


# ---- Several processes, interruptions --------------------------------------------------------------------------------


def test_two_processes(tmp_path, teacher):
    """Prevents: shards left out or made twice when the work is divided, or a description before the last is done."""
    single = store(teacher, samples(10), tmp_path / "single", rows_per_shard=3)
    options = {"batch_size": 2, "rows_per_shard": 3, "progress": False}
    calls = Calls(teacher.vit.embeddings)
    for rank in (1, 0):
        builder = StoreBuilder(teacher, samples(10), tmp_path / "shared", **options)
        assert not builder.finish() if rank == 0 else True
        builder.run(rank, 2)
    assert sum(calls.batches) == 10
    with pytest.raises(StoreError, match="is not finished: 4 shards are there"):
        StoredReference(tmp_path / "shared")
    assert builder.finish()
    shared = StoredReference(tmp_path / "shared", verify=True)
    assert [info.rows for info in shared.shards.infos] == [3, 3, 3, 1]
    assert len(list((tmp_path / "shared").iterdir())) == 5
    for row in range(10):
        one, other = single.attach(samples(10))[row], shared.attach(samples(10))[row]
        torch.testing.assert_close(one["reference_map"], other["reference_map"])


def test_goes_on_after_a_failure(tmp_path, teacher):
    """Prevents: hours of finished shards made anew, or a half-written shard taken for a whole one."""
    data = samples(10)
    broken = [*data[:7], {"labels": 1}, *data[8:]]
    with pytest.raises((StoreError, KeyError)):
        store(teacher, broken, tmp_path / "store", rows_per_shard=4, batch_size=2)
    done = tmp_path / "store" / "shard-00000.arrow"
    (tmp_path / "store" / "shard-00001.arrow.7.tmp").write_bytes(b"half")
    before = done.stat().st_mtime_ns
    with pytest.raises(StoreError, match="is not finished: 1 shards"):
        StoredReference(tmp_path / "store")
    calls = Calls(teacher.vit.embeddings)
    reference = store(teacher, data, tmp_path / "store", rows_per_shard=4, batch_size=2)
    assert done.stat().st_mtime_ns == before
    assert calls.batches == [2, 2, 2]
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [
        "shard-00000.arrow",
        "shard-00001.arrow",
        "shard-00002.arrow",
        "store.json",
    ]
    store(teacher, data, tmp_path / "store")  # finished: nothing is computed
    assert len(calls.batches) == 3
    assert len(reference.shards) == 10


def test_goes_on_after_a_kill(tmp_path, teacher):
    """The same where nothing had time to tidy up."""
    folder = tmp_path / "store"
    child = os.fork()
    if child == 0:
        seen = []

        def stop(*_):
            seen.append(1)
            if len(seen) == 6:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            teacher.vit.embeddings.register_forward_hook(stop)
            store(teacher, samples(16), folder, batch_size=2, rows_per_shard=4)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.arrow")}
    assert sorted(times) == ["shard-00000.arrow", "shard-00001.arrow"]
    calls = Calls(teacher.vit.embeddings)
    reference = store(teacher, samples(16), folder, batch_size=2, rows_per_shard=4)
    assert sum(calls.batches) == 8
    assert times == {name: (folder / name).stat().st_mtime_ns for name in times}
    whole = store(teacher, samples(16), tmp_path / "whole", batch_size=2, rows_per_shard=4)
    assert [info.sha256 for info in reference.shards.infos] == [info.sha256 for info in whole.shards.infos]


def test_full_disk(tmp_path, teacher, monkeypatch):
    """Prevents: a partial shard that fills the disk for good, and a message without the size that is needed."""

    def on_a_full_disk(path, *mode, **encoding):
        file = open(path, *mode, **encoding)  # noqa: SIM115
        if "shard-00001.arrow" not in str(path):
            return file
        file.close()
        # Linux's device that is always full: as on a disk, the buffer fails when it is flushed, and again on closing.
        return open("/dev/full", *mode)

    monkeypatch.setattr(files, "open", on_a_full_disk, raising=False)
    with pytest.raises(
        OSError, match=r"shard-00001\.arrow: this shard needs about \d+ bytes, and the shards after"
    ) as error:
        store(teacher, samples(12), tmp_path / "store", rows_per_shard=4)
    assert error.value.errno == errno.ENOSPC
    assert not list((tmp_path / "store").glob("*.tmp"))
    monkeypatch.undo()
    calls = Calls(teacher.vit.embeddings)
    replace = os.replace

    def full_at_the_end(source, path):
        if path.name == "store.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, path)

    monkeypatch.setattr(os, "replace", full_at_the_end)
    with pytest.raises(OSError, match=r"store\.json: it needs \d{4} bytes; \d+ are free"):
        store(teacher, samples(12), tmp_path / "store", rows_per_shard=4)
    monkeypatch.undo()
    assert not list((tmp_path / "store").glob("*.tmp"))
    store(teacher, samples(12), tmp_path / "store", rows_per_shard=4)
    assert sum(calls.batches) == 8


def test_goes_on_with_the_same_alone(tmp_path, teacher):
    """Prevents: a building that goes on with another teacher or with data that shrank, and mixes the two."""
    data = rows(10)
    broken = [*data[:7], {**data[7], "pixel_values": torch.full((3, 32, 32), torch.inf)}, *data[8:]]
    options = {"rows_per_shard": 4, "id_column": "image_id"}
    with pytest.raises(StoreError, match="of the sample 'image-7' holds NaN or infinite"):
        store(teacher, broken, tmp_path / "store", **options)
    with pytest.raises(StoreError, match=r"ids\.count is 10 in the store and 9 here"):
        store(teacher, data[:9], tmp_path / "store", **options)
    with pytest.raises(StoreError, match=r"ids\.fingerprint is .* in the store and .* here"):
        store(teacher, data[::-1], tmp_path / "store", **options)
    with pytest.raises(StoreError, match=r"ids\.rows_per_shard is 4 in the store and 5 here"):
        store(teacher, data, tmp_path / "store", **{**options, "rows_per_shard": 5})
    with pytest.raises(StoreError, match=r"teacher\.weights is"):
        store(build("vit", seed=2), data, tmp_path / "store", **options)
    assert len(store(teacher, data, tmp_path / "store", **options).shards) == 10


# ---- What must not be believed ---------------------------------------------------------------------------------------


def test_many_record_batches(tmp_path, teacher, monkeypatch):
    """Prevents: rows of large maps, which make a shard of several batches, looked for in the first alone."""
    expected = store(teacher, samples(7), tmp_path / "one", batch_size=2)
    monkeypatch.setattr(files, "_BATCH_BYTES", 1)
    reference = store(teacher, samples(7), tmp_path / "many", batch_size=2)
    for row in (0, 3, 6, 1):
        one, other = expected.attach(samples(7))[row], reference.attach(samples(7))[row]
        assert all(torch.equal(one[name], other[name]) for name in reference.columns)


def test_another_teacher_processor_or_explainer(tmp_path, teacher):
    """Prevents: explanations of one teacher passed off as another's. Both values must be shown."""
    reference = store(teacher, samples(4), tmp_path / "store", processing_class=PROCESSOR)
    reference.check(build("vit", seed=1), PROCESSOR, GradCAM())
    with pytest.raises(StoreError, match=r"teacher\.weights is '\w{64}' in the store and '\w{64}' here"):
        reference.check(build("vit", seed=2))
    bigger = ViTImageProcessor(size={"height": 48, "width": 48}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    with pytest.raises(StoreError, match=r"size\.height is 32 in the store and 48 here"):
        reference.check(processing_class=bigger)
    reference.check(student_processing_class=bigger)
    cropping = BitImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    with pytest.raises(StoreError, match="'keeps_ratio': False, .* student's processor shows {'keeps_ratio': True"):
        reference.check(student_processing_class=cropping)
    with pytest.raises(
        StoreError, match=r"explainer\.options\.target_layer is None in the store and 'vit\.layers\.1' here"
    ):
        reference.check(explainer=GradCAM("vit.layers.1"))
    with pytest.raises(StoreError, match=r"explainer\.name is 'gradcam' in the store and 'saliency' here"):
        reference.check(explainer="saliency")
    with pytest.raises(StoreError, match=r"teacher\.weights is .* or build into another folder"):
        store(build("vit", seed=2), samples(4), tmp_path / "store", processing_class=PROCESSOR)
    with pytest.raises(StoreError, match=r"ids\.count is 4 in the store and 5 here"):
        store(teacher, samples(5), tmp_path / "store", processing_class=PROCESSOR)
    with pytest.raises(StoreError, match="holds explanations by 'gradcam', and the student is explained by 'saliency'"):
        train(tmp_path, reference, reference.attach(samples(4)), explainer="saliency")
    freely = StoredReference(tmp_path / "store", other_explainer=True)
    train(tmp_path, freely, freely.attach(samples(4)), explainer="saliency", settings={"max_steps": 1})


def test_another_order(tmp_path, teacher):
    """Prevents: every row given to another sample after a shuffle, the worst that a store by position can do."""
    data = photographs(40)
    reference = store(teacher, data, tmp_path / "rows", processing_class=PROCESSOR)
    reference.attach(data)
    reference.attach(data.select(range(30)))  # a data set that shrank at its end
    reference.attach(data.remove_columns(["key"]).add_column("other", list(range(40))))
    for other in (
        data.shuffle(seed=0),
        data.sort("label"),
        data.select(range(1, 40)),
        data.filter(lambda r: r["key"] != 70),
    ):
        with pytest.raises(
            StoreError, match="not in the order in which the store .* attach the store first|Attach the store first"
        ):
            reference.attach(other)
    with pytest.raises(StoreError, match="Sample 40 of the data is not in the store .* 41 samples, and 40 are stored"):
        reference.attach(datasets.concatenate_datasets([data, data.select([0])]))
    with pytest.raises(StoreError, match="Attach the store first"):
        store(teacher, data.shuffle(seed=0), tmp_path / "rows", processing_class=PROCESSOR)
    listed = store(teacher, samples(16), tmp_path / "list")
    with pytest.raises(StoreError, match="sample .* has another 'labels'"):
        listed.attach(samples(16)[::-1])


def test_ids(tmp_path, teacher):
    """Prevents: a sample given another's row because an id is missing, occurs twice or is no id."""
    data = rows(12)
    calls = Calls(teacher.vit.embeddings)
    twice = [*data, {**data[0], "image_id": "image-5"}]
    with pytest.raises(StoreError, match=r"1 ids occur more than once, such as \['image-5'\]"):
        store(teacher, twice, tmp_path / "twice", id_column="image_id")
    assert not calls.batches  # found before the teacher is asked
    with pytest.raises(StoreError, match=r"1 ids occur more than once, such as \['image-5'\]"):
        store(teacher, Stream(twice), tmp_path / "stream", id_column="image_id")
    with pytest.raises(StoreError, match="no column 'key' of ids. Their columns: .*'image_id'"):
        store(teacher, data, tmp_path / "key", id_column="key")
    with pytest.raises(StoreError, match="of sample 0 is 0.5; ids are whole numbers or texts"):
        store(teacher, [{**data[0], "image_id": 0.5}], tmp_path / "half", id_column="image_id")
    reference = store(teacher, data, tmp_path / "store", id_column="image_id")
    part = [data[7], data[2], data[7]]
    assert torch.equal(reference.attach(part)[1]["reference_map"], reference.attach(data)[2]["reference_map"])
    with pytest.raises(StoreError, match="the id 'image-99' is not in the store"):
        reference.attach([*data, *rows(1, 99)])
    with pytest.raises(StoreError, match="the id 3 is not in the store.*ids are text"):
        reference.attach([{**data[0], "image_id": 3}])

    class Computed(torch.utils.data.Dataset):
        def __len__(self):
            return 13

        def __getitem__(self, row):
            return rows(13)[row]

    attached = reference.attach(Computed())
    assert torch.equal(attached[2]["reference_map"], reference.attach(data)[2]["reference_map"])
    with pytest.raises(StoreError, match="'image-12' is not in the store"):
        attached[12]
    with pytest.raises(StoreError, match="was built without an `id_column`"):
        store(teacher, samples(4), tmp_path / "rows").attach(data, id_column="image_id")


def test_keys_that_two_ids_share(tmp_path, teacher, monkeypatch):
    """Prevents: one in 2⁶⁴ turned into a wrong row."""

    reference = store(teacher, rows(8), tmp_path / "store", id_column="image_id")
    monkeypatch.setattr(ids, "_key", lambda value: 7)
    assert IdIndex(reference.shards).rows(["image-5", "image-0"]).tolist() == [5, 0]


def test_damaged_files(tmp_path, teacher):
    """Prevents: a shard that was cut short, changed or never finished, read as if it were whole."""
    reference = store(teacher, samples(12), tmp_path / "store", rows_per_shard=4)
    shard, description = tmp_path / "store" / "shard-00001.arrow", tmp_path / "store" / "store.json"
    content, text = shard.read_bytes(), description.read_text()
    shard.write_bytes(content[:-10])
    with pytest.raises(StoreError, match=r"shard-00001\.arrow is damaged: it has \d+ bytes instead of \d+"):
        StoredReference.load(tmp_path / "store")
    changed = bytearray(content)
    changed[len(content) // 2] ^= 255
    shard.write_bytes(changed)
    StoredReference(tmp_path / "store")
    with pytest.raises(StoreError, match=r"shard-00001\.arrow is damaged: its SHA-256 is"):
        StoredReference(tmp_path / "store", verify=True)
    shard.write_bytes(bytes(len(content)))
    with pytest.raises(StoreError, match=r"shard-00001\.arrow is damaged"):
        StoredReference(tmp_path / "store").attach(samples(12))[5]
    shard.rename(shard.with_name(f"{shard.name}.7.tmp"))
    with pytest.raises(StoreError, match=r"shard-00001\.arrow is missing; it was only half written"):
        StoredReference(tmp_path / "store")
    shard.write_bytes(content)
    StoredReference(tmp_path / "store", verify=True)
    description.write_text(text[:100])
    with pytest.raises(StoreError, match=r"store\.json is damaged"):
        StoredReference(tmp_path / "store")
    description.write_text(json.dumps({**json.loads(text), "count": 11}))
    with pytest.raises(StoreError, match="states 11 samples, and its shards hold 12"):
        StoredReference(tmp_path / "store")
    description.write_text(json.dumps({**json.loads(text), "format": 99}))
    with pytest.raises(StoreError, match="has the format 99"):
        StoredReference(tmp_path / "store")
    with pytest.raises(StoreError, match="There is no store in"):
        StoredReference(tmp_path / "nothing")
    assert len(reference.shards) == 12


def test_data_that_can_not_be_stored(tmp_path, teacher):
    """Prevents: a store of random views, of NaN, or of nothing; each must be named before it costs hours."""

    class Augmented(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, row):
            return {"pixel_values": torch.randn(3, 32, 32)}

    with pytest.raises(StoreError, match="Sample 0 is another one each time it is read"):
        store(teacher, Augmented(), tmp_path / "augmented")
    data = rows(4)
    data[2]["pixel_values"] = torch.full((3, 32, 32), float("nan"))
    with pytest.raises(StoreError, match="logits of the sample 'image-2' holds NaN"):
        store(teacher, data, tmp_path / "nan", id_column="image_id")
    with pytest.raises(StoreError, match="The data set is empty"):
        store(teacher, [], tmp_path / "empty")
    with pytest.raises(StoreError, match="no 'pixel_values' for the teacher. Their columns: .*'other'"):
        store(teacher, [{"other": 1}], tmp_path / "columns")
    with pytest.raises(StoreError, match="must be a model, not str"):
        store("google/vit-base-patch16-224", samples(4), tmp_path / "name")
    with pytest.raises(StoreError, match="Unknown target 'top'. Available: teacher_top, label, positives"):
        store(teacher, samples(4), tmp_path / "target", target="top")
    sizes = [{"pixel_values": image} for size in (32, 48) for image in images(4, size)]
    with pytest.raises(StoreError, match="Show the teacher images of one size"):
        store(build("resnet"), sizes, tmp_path / "sizes")


# ---- Texts -----------------------------------------------------------------------------------------------------------

STUDENT, TEACHER = tokenizer("wordpiece", model_max_length=24), tokenizer("byte_bpe", model_max_length=24)


def text_model(name, own, seed=0):
    return build_text(name, seed, vocab_size=len(own), pad_token_id=own.pad_token_id)


def texts(count=12, pair=False):
    words, draw = " ".join(SENTENCES).split(), random.Random(0)
    columns = ("text", "second") if pair else ("text",)
    return datasets.Dataset.from_list(
        [
            {
                **{column: " ".join(draw.choices(words, k=draw.randint(2, 12))) for column in columns},
                "label": n % CLASSES,
            }
            for n in range(count)
        ]
    )


@pytest.mark.parametrize("pair", [False, True])
def test_texts_for_another_tokenizer(tmp_path, pair):
    """Prevents: scores summed to other words than with the teacher at hand; the student's tokenizer is not known
    when the store is built."""
    teacher, columns = text_model("roberta", TEACHER, 1), ("text", "second") if pair else "text"
    data = texts(pair=pair)
    options = {"processing_class": TEACHER, "text_columns": columns, "explainer": "saliency"}
    reference = store(teacher, data, tmp_path / "store", dtype="float32", **options)
    live = TeacherReference(teacher)
    settings = {"explainer": "saliency", "settings": {"max_steps": 3, "logging_steps": 1}}
    collator = TextCollator(STUDENT, text_columns=columns)
    found, steps, trainer = train(
        tmp_path,
        reference,
        reference.attach(data),
        text_model("bert", STUDENT).eval(),
        data_collator=StoredTextCollator(collator),
        **settings,
    )
    expected, live_steps, _ = train(
        tmp_path,
        live,
        data,
        text_model("bert", STUDENT).eval(),
        data_collator=TextCollator(STUDENT, TEACHER, text_columns=columns),
        **settings,
    )
    for name in TERMS:
        assert found[name] == pytest.approx(expected[name], rel=1e-4)
    for one, other in zip(steps, live_steps, strict=True):
        assert relative_error(one, other) < 1e-4
    batch = next(iter(trainer.get_train_dataloader()))
    assert {"word_ids", "reference_map", "reference_mask", "labels"} <= batch.keys()


def test_positives_of_texts(tmp_path):
    """Prevents: one target's scores read as the next one's, or a text without positives that ends the batch."""
    teacher = text_model("bert", TEACHER, 1)
    positives = [[1], [], [0, 3], [2]]
    data = [
        {"text": row["text"], "labels": torch.eye(CLASSES)[own].sum(0).tolist()}
        for row, own in zip(texts(4), positives, strict=True)
    ]
    options = {"processing_class": TEACHER, "explainer": "saliency", "dtype": "float32"}
    several = store(teacher, data, tmp_path / "several", target="positives", **options)
    batch = StoredTextCollator(TextCollator(STUDENT))(list(several.attach(data)))
    assert batch["reference_target"].tolist() == [[1, -1], [-1, -1], [0, 3], [2, -1]]
    assert batch["labels"].shape == (4, CLASSES)
    for number, wanted in enumerate((0, 3)):
        single = [{"text": row["text"], "labels": wanted} for row in data]
        one = store(teacher, single, tmp_path / f"single{wanted}", target="label", **options)
        expected = StoredTextCollator(TextCollator(STUDENT))(list(one.attach(single)))
        torch.testing.assert_close(batch["reference_map"][2, number], expected["reference_map"][2])
    assert not batch["reference_map"][1].any()


def test_texts_that_changed(tmp_path):
    """Prevents: scores laid on other words because the text, or the collator, isn't the one that was stored."""
    teacher, data = text_model("bert", TEACHER, 1), texts(4)
    reference = store(teacher, data, tmp_path / "store", processing_class=TEACHER)
    assert reference.description["key"]["explainer"]["name"] == "integrated_gradients"
    collator = StoredTextCollator(TextCollator(STUDENT))
    attached = reference.attach(data)
    batch = collator([attached[0], attached[1]])
    assert batch["reference_map"].shape == batch["reference_mask"].shape
    with pytest.raises(StoreError, match="is not the one that the teacher read"):
        collator([{**attached[0], "text": "Another text."}])
    with pytest.raises(StoreError, match="has no column 'reference_spans'"):
        collator([data[0]])
    with pytest.raises(StoreError, match="A stored teacher needs no tokenizer"):
        StoredTextCollator(TextCollator(STUDENT, TEACHER))
    reference.bind(text_model("bert", STUDENT), None)
    with pytest.raises(StoreError, match="make batches by StoredTextCollator"):
        reference({"input_ids": torch.zeros(2, 3)})
    with pytest.raises(StoreError, match="The column 'sentence' holds nothing; the columns are"):
        store(teacher, data, tmp_path / "column", processing_class=TEACHER, text_columns="sentence")
    tokens = [{"input_ids": TEACHER(row["text"], truncation=True)["input_ids"]} for row in data]
    with pytest.raises(StoreError, match="give the teacher's tokenizer as `processing_class`, and no collator"):
        store(teacher, tokens, tmp_path / "tokens", collator=DataCollatorWithPadding(TEACHER), explainer="saliency")
