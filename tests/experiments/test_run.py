"""Experiments: without a download, on a user's own data, over several seeds, with wrong arguments."""

import json
import sys
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List
from huggingface_hub import ModelCard
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
)

from hf_e2kd import load_student
from hf_e2kd.data import DistillationTransform
from hf_e2kd.experiments import draw_explanations, run_experiment
from hf_e2kd.experiments import images as images_module
from hf_e2kd.experiments.demos import DEMOS
from hf_e2kd.experiments.distillation import Distillation, train_on_labels, use_one_thread
from hf_e2kd.experiments.results import markdown_table, summarise
from hf_e2kd.experiments.student_card import write_card
from hf_e2kd.explainers import build_explainer
from tests.cards.records import image_record
from tests.models import build
from tests.training import arguments, samples, weights

TINY = {"teacher_train": 64, "student_train": 64, "validation": 0, "test_id": 16, "test_ood": 16}


def run(name: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> dict:
    """Run an embedded setting in this process, on a handful of images."""
    monkeypatch.setitem(DEMOS[name].data, "sizes", TINY)
    monkeypatch.setattr(sys, "argv", [name, "--pictures", "0", *options, "--max_steps", "2", "--use_cpu", "true"])
    return run_experiment(DEMOS[name], f"distill_{name}", "")


def test_an_embedded_setting_trains_measures_and_writes(monkeypatch, tmp_path):
    """A demonstration that needs a download, or leaves out a file that the README promises."""
    results = run("vit", monkeypatch, "--output_dir", str(tmp_path), "--pictures", "2")
    assert {"student", "student-kd", "teacher", "results.json", "explanations.png"} <= {
        p.name for p in tmp_path.iterdir()
    }
    written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert written["summary"] == results["summary"]
    assert set(written["summary"]["out_of_distribution"]) == {"teacher", "KD", "e²KD"}
    figures = written["summary"]["out_of_distribution"]["e²KD"]
    assert set(figures) == {"accuracy", "agreement", "explanation_similarity", "energy_pointing_game"}
    assert all(0 <= figure["mean"] <= 1 for figure in figures.values())
    student = AutoModelForImageClassification.from_pretrained(tmp_path / "student")
    assert student.config.id2label[3] == "digit 3"
    assert AutoImageProcessor.from_pretrained(tmp_path / "student").size
    record = load_student(tmp_path / "student").fidelity
    assert record.figures["agreement"].value == pytest.approx(figures["agreement"]["mean"])
    assert {"agreement", "explanation_similarity"} <= set(record.compared["plain KD"])
    card = (tmp_path / "student" / "README.md").read_text(encoding="utf-8")
    assert "plain KD" in card and "explanations.png" in card and "parchamiaraghi2024good" in card


@pytest.mark.parametrize("threads", [None, "2"])
def test_an_embedded_setting_computes_on_one_thread(threads, monkeypatch):
    """Threads that wait for one another on a busy machine, or a user's number of them that is overruled."""
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if threads:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    use_one_thread()
    assert chosen == ([] if threads else [1])


def test_both_students_start_from_the_same_weights_and_see_the_same_batches(monkeypatch, tmp_path):
    """A comparison whose sides differ in more than the explanation term."""
    results = run("vit", monkeypatch, "--output_dir", str(tmp_path), "--explanation_weight", "0")
    (sides,) = results["runs"]
    assert sides["KD"] == sides["e²KD"]


def test_seeds_are_summed_up_with_their_spread(monkeypatch, tmp_path):
    """A mean of several seeds that hides how far they lie apart."""
    results = run("resnet", monkeypatch, "--output_dir", str(tmp_path), "--seeds", "2", "--no_compare")
    assert [one["seed"] for one in results["runs"]] == [42, 43]
    values = [one["e²KD"]["in_distribution"]["explanation_similarity"] for one in results["runs"]]
    figure = results["summary"]["in_distribution"]["e²KD"]["explanation_similarity"]
    assert figure["mean"] == pytest.approx(np.mean(values))
    assert figure["std"] == pytest.approx(np.std(values, ddof=1))
    assert "±" in markdown_table(results["summary"])


def test_a_group_that_one_seed_alone_has():
    """Prevents: hours of training that end in a KeyError, as another seed holds other samples out; a group left out."""
    runs = [{"seed": 0, "KD": {"land": {"accuracy": 0.5}}}, {"seed": 1, "KD": {"sea": {"accuracy": 1.0}, "land": {}}}]
    summary = summarise(runs)
    assert summary["land"]["KD"]["accuracy"] == {"mean": 0.5, "std": 0.0}
    assert summary["sea"]["KD"]["accuracy"] == {"mean": 1.0, "std": 0.0}


@pytest.fixture
def own_sources(tmp_path):
    """A teacher's folder, a student's configuration file, and a folder of unlabelled images."""
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
    config.id2label = {0: "cat", 1: "dog", 2: "owl"}
    ResNetForImageClassification(config).save_pretrained(tmp_path / "teacher")
    ViTImageProcessor(size={"height": 48, "width": 48}).save_pretrained(tmp_path / "teacher")
    student = {"model_type": "convnext", "num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]}
    (tmp_path / "student.json").write_text(json.dumps(student))
    for split, count in [("train", 8), ("validation", 4)]:
        (tmp_path / "images" / split).mkdir(parents=True)
        for index in range(count):
            pixels = np.random.default_rng(index).integers(0, 255, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / split / f"{index}.png")
    return [
        *("--teacher", str(tmp_path / "teacher")),
        *("--student", str(tmp_path / "student.json"), "--student_init", "random"),
        *("--dataset", str(tmp_path / "images"), "--per_device_train_batch_size", "4"),
    ]


def test_the_users_own_models_and_unlabelled_images(own_sources, monkeypatch, tmp_path):
    """Labels invented from the splits' folder names, or a student saved without the processor that it needs."""
    results = run("convnext", monkeypatch, *own_sources, "--augment", "--output_dir", str(tmp_path / "out"))
    assert set(results["summary"]["evaluation"]["e²KD"]) == {"agreement", "explanation_similarity"}
    student = AutoModelForImageClassification.from_pretrained(tmp_path / "out" / "student")
    assert list(student.config.id2label.values()) == ["cat", "dog", "owl"]
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out" / "student")
    pixels = processor(Image.new("RGB", (60, 40)), return_tensors="pt")["pixel_values"]
    assert student(pixels).logits.shape == (1, 3)
    assert pixels.shape == torch.Size([1, 3, 48, 48])


def test_a_student_of_a_teacher_of_several_labels(own_sources, monkeypatch, tmp_path):
    """Prevents: a teacher that decides each class for itself, distilled by a softmax over them, one class an image."""
    config = json.loads((tmp_path / "teacher" / "config.json").read_text(encoding="utf-8"))
    config["problem_type"] = "multi_label_classification"
    (tmp_path / "teacher" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    run("convnext", monkeypatch, *own_sources, "--output_dir", str(tmp_path / "out"))
    student = AutoModelForImageClassification.from_pretrained(tmp_path / "out" / "student")
    assert student.config.problem_type == "multi_label_classification"
    assert "f1" not in load_student(tmp_path / "out" / "student").fidelity.figures  # of no labels


def test_images_of_several_labels(own_sources, monkeypatch, tmp_path):
    """Prevents: lists of classes' numbers that no option could say the number of, or an end at the picture, after all
    trainings, as the labels are vectors."""
    config = json.loads((tmp_path / "teacher" / "config.json").read_text(encoding="utf-8"))
    config["problem_type"] = "multi_label_classification"
    (tmp_path / "teacher" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    features = Features(image=datasets.Image(), label=List(ClassLabel(names=["owl", "cat", "dog"])))
    images = [Image.new("RGB", (60, 40), (40 * number, 90, 0)) for number in range(4)]
    rows = Dataset.from_dict({"image": images, "label": [[0], [1, 2], [0, 1], [2]]}, features)
    DatasetDict(train=rows, validation=rows).save_to_disk(tmp_path / "data")
    sources = [str(tmp_path / "data") if each == str(tmp_path / "images") else each for each in own_sources]
    panel, shown = images_module.explanation_panel, {}
    monkeypatch.setattr(
        images_module, "explanation_panel", lambda *each, **own: shown.update(own) or panel(*each, **own)
    )
    options = ("--output_dir", str(tmp_path / "out"), "--task_weight", "1", "--pictures", "4")
    run("convnext", monkeypatch, *sources, *options)
    assert {"f1", "map"} <= set(load_student(tmp_path / "out" / "student").fidelity.figures)
    assert set(shown["labels"]) == {"owl", "cat, dog", "cat, owl", "dog"}
    classes = {"cat", "dog", "owl", "none"}
    assert all(set(named.split(", ")) <= classes for column in shown["predictions"].values() for named in column)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--teacher", "somewhere"], "--teacher, --student and --dataset belong together"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--student_init", "foo"], "invalid choice: 'foo'"),
        (["--explainer", "limes"], "Unknown explainer 'limes'. Available: "),
    ],
)
def test_wrong_arguments_say_what_to_do(options, message, monkeypatch, capsys):
    """A traceback, or a long training, where a sentence would do."""
    with pytest.raises(SystemExit):
        run("vit", monkeypatch, *options)
    assert message in capsys.readouterr().err


def test_a_missing_split_lists_those_that_exist(own_sources, monkeypatch, tmp_path):
    """A KeyError in place of the splits' names."""
    with pytest.raises(ValueError, match="no split 'training'. Its splits: train, validation"):
        run("vit", monkeypatch, *own_sources, "--train_split", "training", "--output_dir", str(tmp_path / "o"))


def test_no_teacher_teaches_the_teacher(tmp_path):
    """Prevents: terms of the students' training that ask for a teacher of the teacher."""
    settings = {"terms": {"hint": {}}, "explanation_weight": 1.0, "max_steps": 1}
    teacher = train_on_labels(build("resnet"), arguments(tmp_path, **settings), samples(8), None)
    assert not torch.equal(weights(teacher), weights(build("resnet")))


@pytest.mark.parametrize(("repo_id", "title"), [(None, "food101"), ("me/student", "student")])
def test_a_card_bears_its_repositorys_name(tmp_path, repo_id, title):
    """Prevents: a card on the Hub that is called as the folder on the machine that trained; and an earlier student's
    picture beside it, which `hf-e2kd card` would show and an upload would publish."""
    folder = tmp_path / "food101" / "student"
    folder.mkdir(parents=True)
    (folder / "explanations.png").write_bytes(b"of an earlier student")
    trainer = SimpleNamespace(
        args=SimpleNamespace(seed=0),
        measure_fidelity=lambda *_, **__: image_record(),
        is_world_process_zero=lambda: True,
    )
    evaluated = Dataset.from_dict({"label": [0]})
    distillation = Distillation(*[None] * 4, {"evaluation": evaluated}, lambda *_: None)
    run = {name: {"evaluation": {}} for name in ("teacher", "e²KD", "KD", "int8")}
    write_card(distillation, trainer, {}, run, folder, repo_id)
    assert ModelCard.load(folder / "README.md").data.model_name == title
    assert not (folder / "explanations.png").exists()


def test_a_picture_of_students_explained_at_a_layer_that_the_teacher_lacks(tmp_path):
    """Prevents: a training that ends in an error before its results are written, as its teacher can't be drawn."""
    teacher, student = build("resnet"), build("vit")
    transform = DistillationTransform(ViTImageProcessor(size={"height": 32, "width": 32}))
    images = [np.random.default_rng(row).integers(0, 255, (32, 32, 3), dtype=np.uint8) for row in range(3)]
    data = Dataset.from_dict({"image": [Image.fromarray(pixels) for pixels in images]}).with_transform(transform)
    explainer = build_explainer("gradcam", target_layer="vit.layers.0")
    draw_explanations(teacher, {"e²KD": student}, data, transform, explainer, 2, tmp_path / "explanations.png")
    assert (tmp_path / "explanations.png").is_file()
