"""Trained from a store as from the live teacher: terms, vectors, resumed runs, batches by length, another view."""

import pickle

import datasets
import pytest
import torch
from transformers import BitImageProcessor, Trainer

from hf_e2kd import TeacherReference, TextCollator
from hf_e2kd.data import DistillationTransform
from hf_e2kd.explainers import Bcos
from hf_e2kd.fidelity import measure_fidelity
from hf_e2kd.store import StoredReference, StoredTextCollator, StoreError
from tests.bcos.networks import network, pixels
from tests.models import CLASSES, build
from tests.references.test_teacher import reordered
from tests.store.stores import (
    PROCESSOR,
    STUDENT,
    TEACHER,
    TERMS,
    Stream,
    photographs,
    rows,
    store,
    text_model,
    texts,
    train,
)
from tests.training import distiller, logged, relative_error, samples, weights


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
    # Its record and its card say of which class the explanations are.
    record = trainer.measure_fidelity(reference.attach(samples(16)), costs=False, chance=False)
    assert record.target == record.training.references["teacher"]["explains"] == "teacher_top"


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


def test_a_record_of_stored_explanations(tmp_path, teacher):
    """Prevents: groups and a fingerprint that can't be read of the data once a store's columns are joined with it."""
    data = photographs(24).add_column("place", ["land", "sea"] * 12)
    shown = data.with_transform(DistillationTransform(PROCESSOR))
    reference = store(teacher, data, tmp_path / "store", processing_class=PROCESSOR)
    keywords = {"processing_class": PROCESSOR, "settings": {"remove_unused_columns": False}}
    trainer = distiller(
        build("vit"),
        None,
        tmp_path,
        references={"teacher": reference},
        eval_dataset=reference.attach(shown),
        train_dataset=None,
        **keywords,
    )
    live = distiller(build("vit"), teacher, tmp_path, eval_dataset=shown, train_dataset=None, **keywords)
    found, expected = (
        measure_fidelity(each, samples=20, group_column="place", costs=False, chance=False) for each in (trainer, live)
    )
    assert found.data == expected.data and found.data.fingerprint is not None
    for group in ("land", "sea"):
        for name in ("agreement", "accuracy", "explanation_similarity"):
            own, its = found.groups.figures[group][name], expected.groups.figures[group][name]
            assert own.value == pytest.approx(its.value, abs=1e-3) and own.samples == its.samples


def test_stores_of_other_classes_are_no_evaluation_set(tmp_path, teacher):
    """Prevents: students measured on the labels' maps where they learn those of the teacher's top class."""
    reference = store(teacher, samples(8), tmp_path / "train")
    store(teacher, samples(8), tmp_path / "eval", target="label")
    with pytest.raises(StoreError, match="target.rule is 'teacher_top' in the store and 'label' here.*same class"):
        reference.attach(samples(8), folder=tmp_path / "eval")


def test_stores_of_another_view_are_no_evaluation_set(tmp_path, teacher):
    """Prevents: students measured at other places of the image than those that they learn from."""
    cropping = BitImageProcessor(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    reference = store(teacher, photographs(), tmp_path / "train", processing_class=PROCESSOR)
    store(teacher, photographs(), tmp_path / "eval", processing_class=cropping)
    with pytest.raises(StoreError, match="eval belong to the field of view {'keeps_ratio': True.*train to .*False"):
        reference.attach(photographs(), folder=tmp_path / "eval")


@pytest.mark.parametrize("id_column", [None, "key"])
def test_two_stores_of_one_data_set(tmp_path, teacher, id_column):
    """Prevents: ids that the first store's samples don't show; one teacher's maps in the place of the other's."""
    options = {"processing_class": PROCESSOR, "id_column": id_column}
    data, folders = photographs(), (tmp_path / "one", tmp_path / "two")
    one = store(teacher, data, folders[0], **options)
    same_columns = store(build("vit", seed=2), data, folders[1], **options)
    two = StoredReference(folders[1], prefix="second")
    data.set_transform(DistillationTransform(PROCESSOR))
    alone, both = two.attach(data), two.attach(one.attach(data))
    for row in range(6):
        assert torch.equal(both[row]["second_map"], alone[row]["second_map"])
        assert torch.equal(both[row]["reference_map"], one.attach(data)[row]["reference_map"])
    with pytest.raises(StoreError, match="bears the columns .*one already. .*two by StoredReference.folder, prefix="):
        same_columns.attach(one.attach(data))


def test_target_of_the_arguments_is_not_the_stores(tmp_path, teacher):
    """Prevents: a training that asks for the label's explanations and is given those of the teacher's top class."""
    data = samples(8)
    reference = store(teacher, data, tmp_path / "store")
    given = {"references": {"teacher": reference}, "train_dataset": reference.attach(data)}
    with pytest.raises(ValueError, match="explanation_target is 'label', and the references explain another class"):
        distiller(build("vit"), None, tmp_path, {"explanation_target": "label"}, **given)


def test_without_its_store_the_evaluation_says_so(tmp_path, teacher):
    """Prevents: an evaluation that silently measures no fidelity, or a KeyError."""
    reference = store(teacher, samples(8), tmp_path / "store")
    trainer = distiller(build("vit"), None, tmp_path, references={"teacher": reference})
    with pytest.raises(StoreError, match=r"no column \['reference_logits'.*folder=\.\.\."):
        trainer.evaluate()


def test_label_order_differs(tmp_path):
    """Prevents: "cat" taught as "dog" because a store knows classes by number alone."""
    plain = store(build("vit", seed=1), samples(16), tmp_path / "plain", dtype="float32")
    other = store(reordered(build("vit", seed=1)), samples(16), tmp_path / "other", dtype="float32")
    found = [train(tmp_path, reference, reference.attach(samples(16)))[0] for reference in (plain, other)]
    for name in TERMS:
        assert found[1][name] == pytest.approx(found[0][name], rel=1e-5)


def bcos_samples(count=4):
    return [{"pixel_values": image, "labels": n % CLASSES} for n, image in enumerate(pixels(count))]


def test_vectors_are_matched_as_the_live_teachers(tmp_path):
    """Prevents: scalar maps compared in place of W(x), which is another loss than the paper's."""
    options = {"explainer": "bcos", "dtype": "float32"}
    settings = {"explainer": "bcos", "max_steps": 2}
    live = TeacherReference(network("resnet"))
    expected, steps, _ = train(tmp_path, live, bcos_samples(), network("densenet", 1), settings)
    found = {}
    for name, own in (("vectors", {"vectors": True}), ("half", {"vectors": True, "dtype": "float16"}), ("maps", {})):
        reference = store(network("resnet"), bcos_samples(), tmp_path / name, **options | own)
        found[name] = train(tmp_path, reference, reference.attach(bcos_samples()), network("densenet", 1), settings)
    for name, tolerance in (("vectors", 1e-5), ("half", 5e-3)):
        terms, own_steps, trainer = found[name]
        assert terms["loss_explanation"] == pytest.approx(expected["loss_explanation"], rel=tolerance)
        for one, other in zip(own_steps, steps, strict=True):
            assert relative_error(one, other) < tolerance
        assert trainer.references["teacher"].shards.fields["vectors"].shape == (6, 32, 32)
    assert found["maps"][0]["loss_explanation"] != pytest.approx(expected["loss_explanation"], rel=0.01)
    reference = StoredReference(tmp_path / "half")
    assert reference.description["key"]["precision"]["vectors"]
    # The class's number and scales are next to nothing beside them.
    assert sum(info.bytes for info in reference.shards.infos) / 4 >= 7 * 32 * 32 * 2
    with pytest.raises(StoreError, match=r"precision\.vectors is True in the store and False here"):
        store(network("resnet"), bcos_samples(), tmp_path / "half", explainer="bcos")
    with pytest.raises(StoreError, match="explainer gives maps alone. Leave `vectors` out"):
        store(build("vit"), samples(4), tmp_path / "gradcam", vectors=True)


def test_vectors_of_several_targets(tmp_path):
    """Prevents: vectors of one class under another's number, or read past their own targets."""
    positives = [[1], [], [0, 3]]
    data = [
        {"pixel_values": image, "labels": torch.eye(CLASSES)[own].sum(0)}
        for image, own in zip(pixels(3), positives, strict=True)
    ]
    teacher = network("resnet")
    reference = store(
        teacher, data, tmp_path / "store", explainer="bcos", vectors=True, target="positives", dtype="float32"
    )
    attached = reference.attach(data)
    for row, own in enumerate(positives):
        found = attached[row]["reference_vectors"]
        assert found.shape == (2, 6, 32, 32) and not found[len(own) :].any()
        for number, wanted in enumerate(own):
            expected = Bcos()(teacher, {"pixel_values": pixels(3)[row : row + 1]}, torch.tensor([wanted])).vectors[0]
            torch.testing.assert_close(found[number], expected)


# ---- Resumed in the middle of an epoch -------------------------------------------------------------------------------


def streamed(data):
    """A stream in two shards, in another order in each epoch."""

    def read(numbers):
        for number in numbers:
            yield {**data[number], "pixel_values": data[number]["pixel_values"].numpy()}

    stream = datasets.IterableDataset.from_generator(read, gen_kwargs={"numbers": list(range(len(data)))})
    return stream.shuffle(seed=3, buffer_size=7).with_format("torch")


@pytest.mark.parametrize(
    ("kind", "workers", "step"),
    # In the first or the second epoch of five steps; of a stream, `Trainer` doesn't know where one ends.
    [("map", 0, 2), ("map", 2, 6), ("hub stream", 0, 2), ("hub stream", 1, 4), ("torch stream", 0, 2)],
)
def test_resume_in_the_middle_of_an_epoch(tmp_path, kind, workers, step):
    """Prevents: a resumed training that begins its epoch anew, or gives a sample the row of another."""
    data = rows(20)
    reference = store(build("vit", seed=1), data, tmp_path / "store", id_column="image_id", rows_per_shard=8)
    settings = {
        **{"max_steps": 7, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 2},
        **{"gradient_accumulation_steps": 2, "dataloader_num_workers": workers, "optim": "adamw_torch"},
        **{"learning_rate": 1e-2, "lr_scheduler_type": "linear", "explanation_warmup_ratio": 0.8},
    }

    def trainer(folder):
        made = {"map": lambda: data, "hub stream": lambda: streamed(data), "torch stream": lambda: Stream(data)}[kind]
        return distiller(
            build("vit"),
            None,
            tmp_path / folder,
            settings,
            train_dataset=reference.attach(made()),
            references={"teacher": reference},
        )

    whole, resumed = trainer("whole"), trainer("resumed")
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert logged(resumed, "loss_explanation") == logged(whole, "loss_explanation")


def test_a_streams_place_is_its_own(tmp_path):
    """Prevents: a place in a stream that can't be saved because rows are attached to it, or is promised and isn't."""
    data = rows(12)
    reference = store(build("vit", seed=1), data, tmp_path / "store", id_column="image_id")
    ids = [sample["image_id"] for sample in reference.attach(streamed(data))]
    stream = reference.attach(streamed(data))
    samples_of_it = iter(stream)
    read = [next(samples_of_it)["image_id"] for _ in range(5)]
    state = stream.state_dict()
    again = reference.attach(streamed(data))
    again.load_state_dict(state)
    assert ids[:5] == read and sorted(ids) == sorted(sample["image_id"] for sample in data)
    # The buffer of a shuffled stream is filled anew, so what follows are samples that were not read yet.
    assert not set(read) & {sample["image_id"] for sample in again}
    assert reference.attach(streamed(data)).features is None
    plain = reference.attach(Stream(data))
    assert not hasattr(plain, "state_dict") and not hasattr(plain, "set_epoch")
    stream.set_epoch(1)
    assert [sample["image_id"] for sample in stream] != ids


# ---- What the trainer asks -------------------------------------------------------------------------------------------


def test_group_by_length(tmp_path, monkeypatch):
    """Prevents: a data set with rows attached whose lengths can't be asked, or are found by reading the whole store."""
    data = texts(16)
    data = data.add_column("length", [len(text) for text in data["text"]])
    teacher = text_model("roberta", TEACHER, 1)
    reference = store(teacher, data, tmp_path / "store", processing_class=TEACHER, explainer="saliency")
    attached = reference.attach(data)
    settings = {"train_sampling_strategy": "group_by_length", "explainer": "saliency", "max_steps": 4}
    made = distiller(
        text_model("bert", STUDENT),
        None,
        tmp_path,
        settings,
        train_dataset=attached,
        eval_dataset=attached,
        references={"teacher": reference},
        data_collator=StoredTextCollator(TextCollator(STUDENT)),
    )
    read = []
    monkeypatch.setattr(type(attached), "__getitem__", lambda self, place: read.append(place))
    expected = Trainer._get_train_sampler(made, data)
    sampler = made._get_train_sampler()
    assert type(sampler).__name__ == "LengthGroupedSampler" and list(sampler.lengths) == list(data["length"])
    torch.manual_seed(0)
    order = list(sampler)
    torch.manual_seed(0)
    assert order == list(expected) and order[0] == max(range(16), key=lambda row: data["length"][row])
    assert not read
    monkeypatch.undo()
    made.train()
    assert made.evaluate()["eval_explanation_similarity"] > -1
    assert len(logged(made, "loss_explanation")) == 4


def test_another_field_of_view_is_refused(tmp_path):
    """Prevents: cells of a map laid on other places of the image, because the student's processor crops it."""
    data = photographs()
    reference = store(build("vit", seed=1), data, tmp_path / "store", processing_class=PROCESSOR)
    cropping = BitImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    given = {"train_dataset": reference.attach(data), "references": {"teacher": reference}}
    with pytest.raises(StoreError, match="'keeps_ratio': False, .* student's processor shows {'keeps_ratio': True"):
        distiller(build("vit"), None, tmp_path, processing_class=cropping, **given)
    for accepted in (PROCESSOR, STUDENT, None):
        distiller(build("vit"), None, tmp_path, processing_class=accepted, **given)
    # Where no maps are looked at, nothing is wrong.
    logits_only = {"explanation_weight": 0.0, "evaluate_explanations": False}
    distiller(build("vit"), None, tmp_path, logits_only, processing_class=cropping, **given)


def test_another_field_of_view_of_the_data_is_refused(tmp_path, teacher):
    """Prevents: cells of a map laid on other places of the image, where the trainer knows no processor to compare."""
    data = photographs()
    reference = store(teacher, data, tmp_path / "store", processing_class=PROCESSOR, id_column="key")
    cropping = BitImageProcessor(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    transform = DistillationTransform(cropping)
    stream = photographs().to_iterable_dataset().map(transform, batched=True, remove_columns=["image"])
    cropped = data.with_transform(transform)
    parts = torch.utils.data.ConcatDataset([reference.attach(cropped)])
    for shown in (cropped, torch.utils.data.Subset(cropped, [2]), stream, parts):
        attached = shown if shown is parts else reference.attach(shown)
        made = distiller(build("vit"), None, tmp_path, train_dataset=attached, references={"teacher": reference})
        with pytest.raises(StoreError, match="'keeps_ratio': False.*DistillationTransform shows {'keeps_ratio': True"):
            made.train()
        with pytest.raises(StoreError, match="DistillationTransform shows"):
            made.evaluate(attached)
    logits_only = {"explanation_weight": 0.0, "evaluate_explanations": False}
    attached = reference.attach(cropped)
    distiller(
        build("vit"), None, tmp_path, logits_only, train_dataset=attached, references={"teacher": reference}
    ).train()
