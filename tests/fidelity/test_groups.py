"""Figures by group are those of the group's samples alone, and the worst group is the worst one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn

from hf_e2kd import ExplanationDistillTrainer, TextCollator
from hf_e2kd.fidelity import Faithfulness, FidelityRecord, MetricValue, measure_fidelity
from hf_e2kd.fidelity.groups import is_lower_better, worst_groups
from hf_e2kd.fidelity.intervals import mean_with_interval
from hf_e2kd.fidelity.verify import verify
from tests.models import CLASSES, build
from tests.text_models import build_text
from tests.tokenizers import tokenizer
from tests.training import arguments, distiller, samples

PLACES = ("sea", "land", "sea", "land", "land")


def birds(count=25):
    """Images with labels, masks and a place each; one of them is at the lake."""
    data = samples(count, mask=True, seed=7)
    places = [PLACES[number % 5] for number in range(count - 1)] + ["lake"]
    return [{**sample, "place": place, "night": place == "sea"} for sample, place in zip(data, places, strict=True)]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A trainer, its data and its record by place, with another student beside."""
    data = birds()
    trainer = distiller(build("vit"), build("resnet", seed=1), tmp_path_factory.mktemp("out"), eval_dataset=data)
    record = measure_fidelity(trainer, compared={"other": build("vit", seed=3)}, group_column="place", costs=False)
    return trainer, data, record


def test_figures_are_those_of_the_group_alone(measured):
    """Prevents: a group's figure that counts other samples, or is another than without groups."""
    trainer, data, record = measured
    assert record.groups.columns == ["place"] and list(record.groups.figures) == ["lake", "land", "sea"]
    for place, figures in record.groups.figures.items():
        rows = [row for row in record.data.samples if data[row]["place"] == place]
        alone = trainer.evaluate([data[row] for row in rows])
        for name, figure in figures.items():
            assert figure.samples <= len(rows), name
            if f"eval_{name}" in alone:
                assert figure.value == pytest.approx(alone[f"eval_{name}"], abs=1e-6), (place, name)
    assert {"accuracy", "agreement", "explanation_similarity", "negative_flips"} <= set(figures)
    assert set(record.groups.chance["sea"]) == {"shuffled", "untrained"}


def test_intervals_by_hand(measured):
    """Prevents: an interval over the samples of all groups."""
    trainer, data, record = measured
    batch = trainer.data_collator([{k: v for k, v in data[row].items() if k != "place"} for row in record.data.samples])
    with torch.no_grad():
        right = (trainer.student.eval()(batch["pixel_values"]).logits.argmax(1) == batch["labels"]).double().numpy()
    for place in ("land", "sea"):
        own = right[[data[row]["place"] == place for row in record.data.samples]]
        assert record.groups.figures[place]["accuracy"] == mean_with_interval(own, np.ones(len(own)), seed=0)
    lake = record.groups.figures["lake"]["accuracy"]
    assert lake.samples == 1 and lake.low is None


def test_worst_group_of_every_student(measured):
    """Prevents: the lake's one sample as the worst group; the fewest flips called the worst; a plain student's lost."""
    record = measured[2]
    for figures in (record.figures, record.compared["other"]):
        assert figures["worst_group_accuracy"].detail in ("land", "sea")
    groups = {place: record.groups.figures[place] for place in ("land", "sea")}
    for name, choose in (("accuracy", min), ("explanation_similarity", min), ("negative_flips", max)):
        worst = choose(groups, key=lambda place: groups[place][name].value)
        assert record.figures[f"worst_group_{name}"] == replace(groups[worst][name], detail=worst)
    names = set(record.figures)
    assert not any(f"worst_group_{each}" in names for each in ("teacher_accuracy", "agreement_where_teacher_errs"))


def test_other_methods_and_levels_are_those_of_the_group_alone(tmp_path, monkeypatch):
    """Prevents: held-out methods, random orders and controls of which a record has the mean of all groups alone."""
    monkeypatch.setattr("hf_e2kd.fidelity.intervals.RESAMPLES", 20)
    data = birds()
    trainer = distiller(build("resnet"), build("resnet", seed=1), tmp_path, eval_dataset=data)
    options = {"explainers": ["saliency"], "faithfulness": Faithfulness(steps=1), "control": "shift", "costs": False}
    record = measure_fidelity(trainer, group_column="place", **options)
    held_out = record.held_out[0]
    rows = [row for row in record.data.samples if data[row]["place"] == "land"]
    alone = measure_fidelity(trainer, rows=rows, chance=False, **options)
    for found, expected in (
        (held_out.groups.figures["land"], alone.held_out[0].figures),
        (record.control.groups["land"], alone.control.figures),
    ):
        values = {name: (each.value, each.samples) for name, each in found.items()}
        assert values == {name: (pytest.approx(each.value, abs=1e-5), len(rows)) for name, each in expected.items()}
    assert set(record.faithfulness.groups["land"]) == {"deletion", "insertion"}
    assert held_out.groups.chance["land"].keys() == {"shuffled", "untrained"}
    lowest = min(("land", "sea"), key=lambda place: held_out.groups.figures[place]["explanation_similarity"].value)
    worst = held_out.figures["worst_group_explanation_similarity"]
    assert worst == replace(held_out.groups.figures[lowest]["explanation_similarity"], detail=lowest)

    assert all(check.holds is not False for check in verify(record, record))
    bare = replace(record, held_out=[replace(held_out, groups=None)], control=replace(record.control, groups={}))
    failed = {check.name for check in verify(record, bare) if check.holds is False}
    names = ("saliency, land, explanation similarity", "saliency, sea, chance, shuffled", "control, sea, kl")
    assert failed >= {*names} and not any(name.startswith("random order") for name in failed)


def test_small_groups_are_named(tmp_path, caplog):
    """Prevents: a group that is silently no candidate for the worst one, and no worst group where all are small."""
    trainer = distiller(build("resnet"), build("resnet", seed=1), tmp_path, eval_dataset=birds(8))
    record = measure_fidelity(trainer, group_column=("place", "night"), chance=False, costs=False)
    assert "fewer than 10 samples don't count as the worst one: lake × False, land × False, sea × True" in caplog.text
    assert not any(name.startswith("worst_group") for name in record.figures) and record.groups.chance == {}


def test_evaluation_by_group(measured):
    """Prevents: metrics of groups that differ from the record's; a grouping that lasts into the next evaluation."""
    trainer, data, record = measured
    metrics = trainer.evaluate([data[row] for row in record.data.samples], group_column="place")
    for place, figures in record.groups.figures.items():
        for name in ("accuracy", "agreement", "explanation_similarity", "energy_pointing_game"):
            assert metrics[f"eval_{name}/{place}"] == pytest.approx(figures[name].value, abs=1e-6)
    assert metrics["eval_worst_group_accuracy"] == pytest.approx(record.figures["worst_group_accuracy"].value)
    assert metrics["eval_accuracy"] == pytest.approx(record.figures["accuracy"].value)
    assert not any("/" in name or "worst" in name for name in trainer.evaluate())


def test_predictions_by_group(tmp_path):
    """Prevents: no figures of groups beside predictions, and no predictions of data that doesn't know the groups."""
    trainer = distiller(build("resnet"), build("resnet", seed=1), tmp_path, {"group_column": "place"})
    data = birds(24)
    evaluated = {name: value for name, value in trainer.evaluate(data).items() if "/" in name or "worst" in name}
    found, unknown = trainer.predict(data).metrics, trainer.predict(samples(4)).metrics
    assert (
        evaluated
        and {name.replace("eval_", "test_"): value for name, value in evaluated.items()}.items() <= found.items()
    )
    assert "test_agreement" in unknown and not any("/" in name for name in unknown)
    assert "test_agreement/True" in trainer.predict(data, group_column="night").metrics
    with pytest.raises(ValueError, match="no column 'nigth' to group the samples by"):
        trainer.predict(data, group_column="nigth")


def test_a_checkpoint_is_chosen_by_its_worst_group(tmp_path):
    """Prevents: `metric_for_best_model` that isn't there at an evaluation in the training."""
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "worst_group_accuracy", "group_column": "place"}
    trainer = distiller(
        build("resnet"), build("resnet", seed=1), tmp_path, {**settings, **best}, eval_dataset=birds(25)
    )
    trainer.train()
    logged = [entry["eval_worst_group_accuracy"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert logged == [trainer.state.best_metric] and trainer.args.group_column == ["place"]


def test_several_labels_by_group(tmp_path, monkeypatch):
    """Prevents: F1 and mAP of all samples under a group's name."""
    monkeypatch.setattr("hf_e2kd.fidelity.intervals.POOLED_RESAMPLES", 5)
    student, teacher = build("resnet"), build("resnet", seed=1)
    for model in (student, teacher):
        model.config.problem_type = "multi_label_classification"
    data = birds(12)
    for sample in data:
        sample["labels"] = nn.functional.one_hot(torch.tensor(sample["labels"]), CLASSES).float()
    trainer = distiller(student, teacher, tmp_path, eval_dataset=data)
    record = measure_fidelity(trainer, group_column="place", chance=False, costs=False)
    metrics = trainer.evaluate(group_column="place")
    alone = trainer.evaluate([sample for sample in data if sample["place"] == "land"])
    for name in ("f1", "map"):
        assert record.groups.figures["land"][name].value == pytest.approx(alone[f"eval_{name}"])
        assert metrics[f"eval_{name}/land"] == pytest.approx(alone[f"eval_{name}"])


def test_one_label_of_a_multi_label_student(tmp_path):
    """Prevents: an error about axes at the end of a measurement of a student trained by binary cross-entropy, on images
    with one class each or without labels."""
    student, teacher = build("resnet"), build("resnet", seed=1)
    for model in (student, teacher):
        model.config.problem_type = "multi_label_classification"
    data = birds(12)
    trainer = distiller(student, teacher, tmp_path, eval_dataset=data)
    record = measure_fidelity(trainer, group_column="place", chance=False, costs=False)
    metrics = trainer.evaluate(group_column="place")
    pixels, labels = torch.stack([each["pixel_values"] for each in data]), [each["labels"] for each in data]
    with torch.no_grad():
        right = student.eval()(pixels.to(student.device)).logits.argmax(1).cpu() == torch.tensor(labels)
    assert record.figures["accuracy"].value == metrics["eval_accuracy"] == pytest.approx(right.float().mean().item())
    assert not {"f1", "map"} & {*record.figures, *record.groups.figures["land"]} and "eval_f1/land" not in metrics
    bare = [{name: value for name, value in each.items() if name not in ("labels", "mask")} for each in data]
    assert "eval_agreement/land" in trainer.evaluate(bare, group_column="place")


def test_texts_by_group(tmp_path):
    """Prevents: a column that a `Trainer` drops from a data set of texts before it is read."""
    own = tokenizer("wordpiece")
    texts = ["a fine film", "it is a very dull and long film", "good", "a warm story of a good man"]
    data = Dataset.from_dict({"text": texts, "label": [0, 1, 0, 1], "source": ["b", "a", "a", "b"]})
    trainer = ExplanationDistillTrainer(
        build_text("bert", 0, vocab_size=len(own)),
        arguments(tmp_path, explainer="input_x_gradient"),
        eval_dataset=data,
        data_collator=TextCollator(own),
        processing_class=own,
        teacher_model=build_text("bert", 1, vocab_size=len(own)),
    )
    metrics = trainer.evaluate(group_column="source")
    for source, rows in (("a", [1, 2]), ("b", [0, 3])):
        alone = trainer.evaluate(data.select(rows))
        for name in ("explanation_similarity", "agreement", "accuracy"):
            assert metrics[f"eval_{name}/{source}"] == pytest.approx(alone[f"eval_{name}"], abs=1e-5)
    with pytest.raises(ValueError, match="no column 'place'.*Columns of the data: text, label, source"):
        trainer.evaluate(group_column="place")


def test_groups_are_verified(measured, tmp_path):
    """Prevents: a made-up figure of a group that passes, or one that a verification didn't measure."""
    record = measured[2]
    record.save(tmp_path)
    assert FidelityRecord.load(tmp_path) == record
    assert all(check.holds is not False for check in verify(record, record))
    figures = {**record.groups.figures, "sea": {**record.groups.figures["sea"], "accuracy": MetricValue(0.99)}}
    faked = replace(record, groups=replace(record.groups, figures=figures))
    assert [check.name for check in verify(faked, record) if check.holds is False] == ["sea, accuracy"]
    failed = [check.name for check in verify(record, replace(record, groups=None)) if check.holds is False]
    assert "sea, chance, shuffled" in failed and "land, agreement" in failed


def test_directions():
    """Prevents: a worst group by the lowest share of mistakes."""
    assert is_lower_better("worst_group_negative_flips") and is_lower_better("mae") and not is_lower_better("accuracy")
    # Beside several references figures bear their names.
    for mae in ("mae", "mae_teacher"):
        groups = {"a": {mae: MetricValue(0.1, samples=10)}, "b": {mae: MetricValue(0.3, samples=10)}, "c": {}}
        assert worst_groups(groups) == {f"worst_group_{mae}": MetricValue(0.3, samples=10, detail="b")}
