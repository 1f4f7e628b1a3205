"""The fidelity metrics of `evaluate` and `predict`, against the same quantities computed by hand."""

import numpy as np
import pytest
import torch
from accelerate.data_loader import IterableDatasetShard
from datasets import Array3D, ClassLabel, Dataset, Features, Value
from torch.utils.data import DataLoader, IterableDataset
from transformers import TrainingArguments

from hf_e2kd import explain
from hf_e2kd.metrics import boxes_to_masks, energy_pointing_game, explanation_similarity
from tests.models import CLASS_NAMES, CLASSES, build
from tests.references.test_teacher import name_classes
from tests.store.stores import store
from tests.training import Unregistered, distiller, samples


def expected_metrics(student, teacher, data):
    """The metrics over the whole data set as one batch."""
    pixels = torch.stack([sample["pixel_values"] for sample in data])
    taught = explain(teacher, pixels)
    own = explain(student.eval(), pixels, target=taught.logits.argmax(1))
    similarity, valid = explanation_similarity(own.maps, taught.maps, pixels.shape[-2:])
    metrics = {
        "agreement": (own.logits.argmax(1) == taught.logits.argmax(1)).float().mean(),
        "explanation_similarity": similarity[valid].mean(),
        "zero_teacher_maps": (~valid).float().mean(),
    }
    if "labels" in data[0]:
        labels = torch.tensor([sample["labels"] for sample in data])
        metrics["accuracy"] = (own.logits.argmax(1) == labels).float().mean()
        metrics["teacher_accuracy"] = (taught.logits.argmax(1) == labels).float().mean()
    masks = None
    if "boxes" in data[0]:
        masks = boxes_to_masks(torch.stack([sample["boxes"] for sample in data]), pixels.shape[-2:])
    if "mask" in data[0]:
        masks = torch.stack([sample["mask"] for sample in data]) > 0
    if masks is not None:
        annotated = masks.flatten(1).any(1)
        metrics["energy_pointing_game"] = energy_pointing_game(own.maps, masks)[annotated].mean()
        metrics["teacher_energy_pointing_game"] = energy_pointing_game(taught.maps, masks)[annotated].mean()
    return {name: value.item() for name, value in metrics.items()}


@pytest.mark.parametrize(
    ("student", "teacher", "columns"),
    [
        ("vit", "vit", {"mask": True}),
        ("convnext", "vit", {"boxes": True}),
        ("resnet", "convnext", {"labels": False}),
        ("wrapped_efficientnet", "resnet", {}),
    ],
)
@pytest.mark.parametrize("with_compute_metrics", [False, True])
def test_exact_on_an_uneven_last_batch(tiny, tmp_path, student, teacher, columns, with_compute_metrics):
    """Averaging batch means would weigh the one sample of the last batch as four (13 samples in batches of 4)."""
    data, teacher = samples(13, seed=7, **columns), build(teacher, seed=1)
    keywords = {"compute_metrics": lambda p: {"kept": float(len(p.predictions))}} if with_compute_metrics else {}
    if columns.get("labels") is False:
        keywords = {}
    with np.errstate(all="raise"):
        trainer = distiller(tiny(student), teacher, tmp_path, eval_dataset=data, **keywords)
        metrics = trainer.evaluate()
    for name, value in expected_metrics(trainer.student, teacher, data).items():
        assert metrics[f"eval_{name}"] == pytest.approx(value, abs=1e-6), name
    assert metrics.get("eval_kept") == (13 if keywords else None)
    assert ("eval_accuracy" in metrics) == ("labels" in data[0])
    assert ("eval_energy_pointing_game" in metrics) == bool({"mask", "boxes"} & data[0].keys())


def test_samples_without_an_object_do_not_count(tiny, tmp_path):
    """An image without annotation would enter the pointing game as a miss."""
    data = samples(6, mask=True)
    for sample in data[:2]:
        sample["mask"].zero_()
    teacher = build("vit", seed=1)
    trainer = distiller(tiny("vit"), teacher, tmp_path, eval_dataset=data)
    expected = expected_metrics(trainer.student, teacher, data)
    assert trainer.evaluate()["eval_energy_pointing_game"] == pytest.approx(expected["energy_pointing_game"], abs=1e-6)


def test_ignored_labels_do_not_count(tiny, tmp_path):
    """Samples marked -100 (unlabelled among labelled ones) would count as wrong predictions."""
    data = samples(6)
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, eval_dataset=data)
    top = trainer.predict(data, metric_key_prefix="eval").metrics
    for sample in data[3:]:
        sample["labels"] = -100
    first = distiller(tiny("vit"), build("vit", seed=1), tmp_path, eval_dataset=data[:3]).evaluate()
    marked = trainer.evaluate()
    assert marked["eval_accuracy"] == first["eval_accuracy"]
    assert marked["eval_teacher_accuracy"] == first["eval_teacher_accuracy"]
    assert marked["eval_agreement"] == top["eval_agreement"]


def test_samples_whose_class_the_student_lacks_do_not_count(tiny, tmp_path):
    """Prevents: a similarity of 0, and an empty map, for stored samples of which the student explains nothing."""
    data, names = samples(8), [CLASS_NAMES[4], "bird", *CLASS_NAMES[:3]]
    stored = store(name_classes(build("vit", seed=1), names), data, tmp_path / "store")
    attached = [dict(sample) for sample in stored.attach(data)]
    for number, sample in enumerate(attached):
        sample["reference_target"] = torch.tensor(1 if number < 3 else 0)
    trainer = distiller(tiny("vit"), None, tmp_path, eval_dataset=attached, references={"teacher": stored})
    shown, all_of_them = trainer.evaluate(attached[3:]), trainer.evaluate()
    assert shown["eval_zero_student_maps"] < 1 and shown["eval_explanation_similarity"] > 0
    for name in ("explanation_similarity", "zero_student_maps", "zero_teacher_maps"):
        assert all_of_them[f"eval_{name}"] == pytest.approx(shown[f"eval_{name}"], abs=1e-6), name


def test_several_labels_that_are_shares_of_truth(tiny, tmp_path, caplog):
    """Prevents: a training that ends at its first evaluation, or before its card, as annotators' shares have no F1."""
    data = [{**sample, "labels": torch.full((CLASSES,), 0.25)} for sample in samples(8)]
    student, teacher = tiny("vit"), build("vit", seed=1)
    student.config.problem_type = teacher.config.problem_type = "multi_label_classification"
    settings = {"task_weight": 1.0, "max_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    trainer = distiller(student, teacher, tmp_path, settings, train_dataset=data, eval_dataset=data)
    trainer.train()
    metrics = trainer.evaluate()
    assert {"eval_agreement", "eval_loss"} <= metrics.keys() and metrics.keys().isdisjoint({"eval_f1", "eval_map"})
    assert "agreement" in trainer.measure_fidelity(costs=False).figures
    assert "Some labels lie between 0 and 1" in caplog.text


def test_predict_returns_logits_and_metrics(tiny, tmp_path):
    """`predict` must give what `Trainer.predict` gives, and the fidelity under its own prefix."""
    data, teacher = samples(13, seed=7), build("vit", seed=1)
    trainer = distiller(tiny("vit"), teacher, tmp_path)
    output = trainer.predict(data)
    with torch.no_grad():
        logits = trainer.student.eval()(torch.stack([sample["pixel_values"] for sample in data])).logits
    np.testing.assert_allclose(output.predictions, logits, atol=1e-5)
    assert output.label_ids.tolist() == [sample["labels"] for sample in data]
    assert output.metrics["test_agreement"] == pytest.approx(
        expected_metrics(trainer.student, teacher, data)["agreement"]
    )


def test_unlabelled_data_are_predicted_where_labels_are_explained(tiny, tmp_path):
    """Prevents: predictions for which the labels must be known."""
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, {"explanation_target": "label"})
    labelled, output = trainer.predict(samples(5, seed=7)), trainer.predict(samples(5, labels=False, seed=7))
    np.testing.assert_allclose(output.predictions, labelled.predictions, atol=1e-5)
    assert output.metrics["test_agreement"] == labelled.metrics["test_agreement"]
    assert "test_explanation_similarity" in labelled.metrics.keys() - output.metrics.keys()


def test_users_metric_of_the_same_name_stays(tiny, tmp_path):
    """A user's own `accuracy` (balanced, say) must not be overwritten by ours."""
    trainer = distiller(
        tiny("vit"), build("vit", seed=1), tmp_path, compute_metrics=lambda prediction: {"accuracy": -1.0}
    )
    metrics = trainer.evaluate()
    assert metrics["eval_accuracy"] == -1.0
    assert "eval_agreement" in metrics


def test_several_evaluation_sets(tiny, tmp_path):
    """Metrics of one set would leak into the other's, or both be written under one name."""
    sets = {"seen": samples(5), "unseen": samples(6, seed=3)}
    teacher = build("vit", seed=1)
    trainer = distiller(tiny("vit"), teacher, tmp_path, eval_dataset=sets)
    metrics = trainer.evaluate()
    for name, data in sets.items():
        expected = expected_metrics(trainer.student, teacher, data)
        assert metrics[f"eval_{name}_agreement"] == pytest.approx(expected["agreement"])
        assert metrics[f"eval_{name}_explanation_similarity"] == pytest.approx(
            expected["explanation_similarity"], abs=1e-6
        )


@pytest.mark.parametrize(
    "settings",
    [
        {"eval_accumulation_steps": 1},
        {"include_for_metrics": ["inputs", "loss"]},
        {"batch_eval_metrics": True},
        {"eval_do_concat_batches": False},
        {"prediction_loss_only": True},
        {"eval_accumulation_steps": 2, "include_for_metrics": ["inputs"]},
    ],
    ids=lambda settings: "-".join(settings),
)
@pytest.mark.parametrize("student", ["vit", "unregistered"])
def test_trainers_evaluation_options(tiny, tmp_path, settings, student):
    """Options of the parent's loop, also for a student read by a hook, whose logits would carry a graph into numpy."""
    seen = []

    def compute_metrics(prediction, compute_result=True):
        seen.append(prediction)
        return {"mine": 1.0} if compute_result else {}

    teacher = build("vit", seed=1)
    model = tiny("vit") if student == "vit" else Unregistered(tiny("resnet"))
    trainer = distiller(model, teacher, tmp_path, settings, compute_metrics=compute_metrics)
    metrics = trainer.evaluate()
    plain = distiller(model, teacher, tmp_path).evaluate()
    assert metrics["eval_agreement"] == plain["eval_agreement"]
    assert metrics["eval_explanation_similarity"] == pytest.approx(plain["eval_explanation_similarity"])
    assert metrics["eval_loss"] == pytest.approx(plain["eval_loss"])
    if "prediction_loss_only" not in settings:
        assert metrics["eval_mine"] == 1.0
    if "inputs" in settings.get("include_for_metrics", []):
        assert seen[0].inputs.shape == (13, 3, 32, 32)


def test_workers_that_persist_read_the_set_that_is_given(tiny, tmp_path):
    """Prevents: the figures of the first evaluation set for any other one, which the parent gives with such workers."""
    teacher = build("vit", seed=1)
    workers = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    trainer, plain = (distiller(tiny("vit"), teacher, tmp_path, settings) for settings in (workers, {}))
    others = {"one": samples(6, seed=3), "other": samples(5, seed=4)}
    assert trainer.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"])
    kept = trainer._eval_dataloaders["eval"]
    found, expected = trainer.evaluate(others), plain.evaluate(others)
    for name in others:
        assert found[f"eval_{name}_loss"] == pytest.approx(expected[f"eval_{name}_loss"])
    trainer.measure_fidelity(others["one"], costs=False)
    assert trainer.get_eval_dataloader() is kept


@pytest.mark.parametrize("several", [False, True])
def test_workers_that_persist_read_the_set_that_the_trainer_has_now(tiny, tmp_path, several):
    """Prevents: the figures of the evaluation set that the trainer had before, after it was given another one."""
    workers = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    trainer, plain = (distiller(tiny("vit"), build("vit", seed=1), tmp_path, each) for each in (workers, {}))
    for seed in (3, 4):
        data = samples(6, seed=seed)
        trainer.eval_dataset = plain.eval_dataset = {"test": data} if several else data
        name = "eval_test_loss" if several else "eval_loss"
        assert trainer.evaluate()[name] == pytest.approx(plain.evaluate()[name])


def of_classes(names):
    data = samples(6)
    return Dataset.from_dict(
        {
            "pixel_values": [sample["pixel_values"].tolist() for sample in data],
            "labels": [index % len(names) for index in range(6)],
        },
        Features(
            pixel_values=Array3D((3, 32, 32), "float32"),
            labels=ClassLabel(names=names) if names else Value("int64"),
        ),
    ).with_format("torch")


def test_labels_of_another_space_are_never_scored(tiny, tmp_path):
    """Distilling on photographs of furniture: their labels would be scored as birds, or index out of the logits."""
    furniture = of_classes(["table", "chair", "bed", "lamp", "desk", "sofa", "shelf", "stool"])
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, train_dataset=furniture, eval_dataset=furniture)
    trainer.train()
    metrics = trainer.evaluate()
    assert "eval_agreement" in metrics
    assert not {"eval_accuracy", "eval_teacher_accuracy"} & metrics.keys()
    assert "eval_accuracy" in trainer.evaluate(of_classes(CLASS_NAMES))


def test_foreign_evaluation_labels_do_not_enter_the_loss(tiny, tmp_path):
    """A student trained on labels and evaluated on another label space: `eval_loss` would score what isn't a class."""
    furniture = of_classes(["table", "chair", "bed", "lamp", "desk", "sofa", "shelf", "stool"])
    without = distiller(tiny("vit"), build("vit", seed=1), tmp_path).evaluate(furniture)
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, {"task_weight": 1.0})
    assert trainer.evaluate(furniture)["eval_loss"] == pytest.approx(without["eval_loss"])


@pytest.mark.parametrize("settings", [{"task_weight": 0.1}, {"explanation_target": "label"}])
def test_training_on_foreign_labels_is_refused(tiny, tmp_path, settings):
    """Labels of another space used as classes of the student would teach nonsense without an error."""
    with pytest.raises(ValueError, match="labels are not the student's classes"):
        distiller(
            tiny("vit"),
            build("vit", seed=1),
            tmp_path,
            settings,
            train_dataset=of_classes(["table", "chair", "bed", "lamp", "desk"]),
        )


def test_columns_of_a_datasets_dataset_reach_the_references(tiny, tmp_path):
    """`remove_unused_columns` drops what the student's forward doesn't name: masks, boxes and the teacher's images."""
    data = samples(4, mask=True)
    rows = Dataset.from_dict(
        {
            "pixel_values": [sample["pixel_values"].tolist() for sample in data],
            "teacher_pixel_values": [(2 * sample["pixel_values"]).tolist() for sample in data],
            "mask": [sample["mask"].tolist() for sample in data],
            "comment": ["dropped"] * 4,
        }
    ).with_format("torch")
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path, train_dataset=rows)
    assert isinstance(trainer.args, TrainingArguments) and trainer.args.remove_unused_columns
    batch = next(iter(trainer.get_train_dataloader()))
    assert set(batch) == {"pixel_values", "teacher_pixel_values", "mask"}
    trainer.train()


class Stream(IterableDataset):
    def __iter__(self):
        return iter(samples(5))


def test_repeated_samples_of_a_stream_are_warned_of(tiny, tmp_path, caplog):
    """Prevents: figures in which the stream's first samples, which fill up the last batches, silently count twice."""
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path)
    alone, shared = Stream(), IterableDatasetShard(Stream(), batch_size=4, num_processes=2, process_index=1)
    for stream, warned in ((alone, 0), (shared, 1)):
        trainer.evaluation_loop(DataLoader(stream, batch_size=4), "Evaluation")
        assert caplog.text.count("which count twice in every figure") == warned


def test_a_shared_stream_of_other_labels(tiny, tmp_path):
    """Prevents: the labels of another label space scored as the student's, as a process's share names no classes."""
    names = Features({"pixel_values": Array3D((3, 32, 32), "float32"), "labels": ClassLabel(names=list("abcde"))})
    rows = [{"pixel_values": s["pixel_values"].numpy(), "labels": s["labels"]} for s in samples(4)]
    stream = Dataset.from_list(rows, features=names).to_iterable_dataset().with_format("torch")
    shared = IterableDatasetShard(stream, batch_size=4, num_processes=2)
    trainer = distiller(tiny("vit"), build("vit", seed=1), tmp_path)
    metrics = trainer.evaluation_loop(DataLoader(shared, batch_size=4), "Evaluation").metrics
    assert "eval_agreement" in metrics and "eval_accuracy" not in metrics
