"""The papers' recipes, tried out on generated data in the layouts of the real ones."""

import doctest
import json
import math
import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path

import distill_waterbirds as waterbirds
import numpy as np
import pytest
import timm
import torch
from _common import find_images, load_published, smoke_bcos, smoke_processor, unlabelled_images
from _generated import write_imagenet, write_sun397, write_waterbirds
from _limited_data import load_splits as few_images
from _splits import choose_per_class, hold_out
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from distill_imagenet import PRESETS, ImageNetSources, imagenet_experiment, shot_splits
from distill_waterbirds import GROUPS, STUDENTS, waterbirds_experiment
from guide_tiny_imagenet import BoxStudy
from guide_tiny_imagenet import Options as BoxOptions
from PIL import Image
from safetensors.torch import save_file
from search_weight import MEASURES, run_search
from shift_equivariance import named_source, run_shift_test, summarise_shifts
from timm.data import ImageNetInfo
from torchvision.transforms import v2
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    TimmWrapperConfig,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_e2kd import ExplanationDistillArguments, StoredReference, explain
from hf_e2kd.alignment.inputs import image_view
from hf_e2kd.alignment.labels import align_labels, is_multi_label
from hf_e2kd.callbacks import AdaptiveClipping
from hf_e2kd.data import MixingCollator, load_imagenet
from hf_e2kd.data.image_files import png_cell
from hf_e2kd.data.imagenet import class_names
from hf_e2kd.data.images import load_images
from hf_e2kd.experiments import create_student, run_experiment
from hf_e2kd.experiments import run as side_by_side
from hf_e2kd.experiments.sources import load_classifier as load_for_command
from hf_e2kd.fidelity import FidelityRecord
from hf_e2kd.models import bcos_config
from tests.models import CLASSES, build, images, randomise
from tests.training import distiller, samples


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a recipe in this process as its command line does; its results go to `tmp_path`."""

    def run_recipe(name: str, *options: str) -> dict:
        monkeypatch.setattr(sys, "argv", [name, *options, "--output_dir", str(tmp_path)])
        module = import_module(name)
        if name == "shift_equivariance":
            return run_shift_test(module.__doc__)
        if name == "search_weight":
            return run_search(module.EXPERIMENT, name, module.__doc__)
        experiment = getattr(module, f"{name.removeprefix('distill_')}_experiment")()
        return run_experiment(experiment, name, module.__doc__)

    return run_recipe


def trial(name: str, *options: str) -> list[str]:
    return [name, "--smoke", "--disable_tqdm", "true", "--pictures", "0", *options]


def assert_measured(summary: dict, splits: set[str], metrics: set[str]) -> None:
    assert set(summary) == splits
    for sides in summary.values():
        assert set(sides) == {"teacher", "KD", "e²KD"}
        assert set(sides["e²KD"]) == metrics
        for side in sides.values():
            for metric, figure in side.items():
                low = -1 if metric == "explanation_similarity" else 0
                assert low <= figure["mean"] <= 1 + 1e-6, metric


# --- Waterbirds ------------------------------------------------------------------------------------------------------


def test_waterbirds_by_group_with_a_teacher_that_was_guided_here(run, tmp_path):
    """A worst group that is no group's figure, groups mixed up, or a teacher that isn't saved for the next run."""
    results = run(*trial("distill_waterbirds", "--pictures", "2"))

    summary = results["summary"]
    worst = summary.pop("worst_group")
    fidelity = {"accuracy", "agreement", "explanation_similarity", "energy_pointing_game"}
    assert_measured(summary, {*GROUPS, "in_distribution", "out_of_distribution", "test"}, fidelity)
    for side in ("teacher", "KD", "e²KD"):
        accuracies = [summary[group][side]["accuracy"]["mean"] for group in GROUPS]
        assert worst[side]["accuracy"]["mean"] == min(accuracies)
        # As many images in each generated group.
        inside = summary["in_distribution"][side]["accuracy"]["mean"]
        assert inside == pytest.approx((accuracies[0] + accuracies[3]) / 2)
        assert summary["test"][side]["accuracy"]["mean"] == pytest.approx(sum(accuracies) / 4)
    assert {"student", "student-kd", "teacher", "results.json", "explanations.png"} <= names_in(tmp_path)
    record = FidelityRecord.load(tmp_path / "student")
    assert record.groups.columns == ["label", "place"] and set(record.groups.figures) == set(GROUPS)
    for group in GROUPS:
        assert record.groups.figures[group]["accuracy"].value == summary[group]["e²KD"]["accuracy"]["mean"]
    teacher = AutoModelForImageClassification.from_pretrained(tmp_path / "teacher")
    assert list(teacher.config.id2label.values()) == ["landbird", "waterbird"]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_mixed_images_are_trained_on_and_never_measured_on(run, tmp_path):
    """Evaluations on mixed images, which have no accuracy; or a regime that changes nothing."""
    results = run(*trial("distill_waterbirds", "--regime", "patient", "--no_compare"))

    assert "accuracy" in results["summary"]["out_of_distribution"]["e²KD"]
    assert results["arguments"]["num_train_epochs"] == 3500
    mixing = MixingCollator(v2.MixUp(alpha=1.0, num_classes=CLASSES))
    trainer = distiller(build("vit"), build("vit", 1), tmp_path, data_collator=mixing)
    loaders = trainer.get_train_dataloader(), trainer.get_eval_dataloader(), trainer.get_test_dataloader(samples(4))
    assert [next(iter(loader))["labels"].is_floating_point() for loader in loaders] == [True, False, False]


@pytest.mark.parametrize(("regime", "epochs"), [("epochs", 700), ("mixup", 700), ("patient", 3500)])
def test_regimes(regime, epochs, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recipe", "--regime", regime])
    training = waterbirds_experiment().student_training
    assert training["num_train_epochs"] == epochs
    assert training["warmup_steps"] * epochs == pytest.approx(5)


def test_the_real_data_needs_a_teacher_or_annotations(run, tmp_path, capsys):
    """Hours of loading before it is found that nothing guides the teacher."""
    folder = str(write_waterbirds(tmp_path / "data"))
    with pytest.raises(SystemExit):
        run("distill_waterbirds", "--dataset", folder)
    assert "give --segmentations or --cub, or --teacher" in capsys.readouterr().err


@pytest.fixture
def published(tmp_path):
    """A classifier of ImageNet as timm publishes it on the Hub, and as transformers does."""
    torch.manual_seed(0)
    views = {"input_size": [3, 32, 32], "crop_pct": 1.0, "crop_mode": "center", "interpolation": "bilinear"}
    norm = {"mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"architecture": "test_resnet", "num_classes": 1000, "pretrained_cfg": {**views, **norm}}
    folder = tmp_path / "timm"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(timm.create_model("test_resnet").state_dict(), folder / "model.safetensors", {"format": "pt"})
    labels = TimmWrapperConfig.from_dict(config).id2label
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
    model = ResNetForImageClassification(ResNetConfig(**sizes, id2label=labels, problem_type=SEVERAL))
    model.save_pretrained(tmp_path / "transformers")
    smoke_processor(is_bcos=False).save_pretrained(tmp_path / "transformers")
    return tmp_path


SEVERAL = "multi_label_classification"


class Enough(Exception):
    """Ends a recipe before its students are trained."""


@pytest.mark.parametrize(
    ("base", "student", "annotations"),
    [("timm", "transformers", "cub"), ("transformers", "timm/test_resnet", "segmentations")],
)
def test_a_teacher_of_birds_from_a_published_one(base, student, annotations, published, run, monkeypatch):
    """A base that keeps its 1,000 classes or chooses several, a teacher lost with its first student or saved without
    its own processor, its checkpoints among the students', or boxes that count for the bird's own class alone."""
    data = write_waterbirds(published / "data", per_group=1)
    cub = published / "data" / "cub"
    cub.mkdir()
    birds = sorted(path.relative_to(data) for path in data.rglob("*.jpg"))
    (cub / "images.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(birds)))
    (cub / "bounding_boxes.txt").write_text("".join(f"{number} 5 5 20 20\n" for number in range(len(birds))))
    tasks = []

    def stop(task, args):
        tasks.append(task)
        raise Enough

    monkeypatch.setattr(side_by_side, "train_student", stop)
    monkeypatch.setattr(side_by_side, "create_repo", lambda args: "me/student")
    source = published / student if (published / student).exists() else student
    with pytest.raises(Enough):
        run(
            *("distill_waterbirds", "--dataset", str(data), f"--{annotations}", str(published / "data" / annotations)),
            *("--teacher_base", str(published / base), "--student", str(source), "--use_cpu", "true"),
            *("--student_init", "random" if student.startswith("timm/") else "pretrained", "--disable_tqdm", "true"),
            *("--max_steps", "1", "--save_strategy", "steps", "--save_steps", "1", "--push_to_hub", "true"),
        )
    assert not list(published.glob("checkpoint-*"))
    teacher, processor = load_published(str(published / "teacher"), None)
    assert teacher.config.id2label == {0: "landbird", 1: "waterbird"} == tasks[0].student.config.id2label
    assert not is_multi_label(teacher) and not is_multi_label(tasks[0].student)
    assert teacher(pixel_values=images(2, 32)).logits.shape == (2, 2)
    assert image_view(processor) == image_view(AutoImageProcessor.from_pretrained(published / base))
    shown = set(tasks[0].evaluations["in_distribution"].column_names)
    assert "box_labels" not in shown and ("boxes" in shown) == (annotations == "cub")


def test_a_students_name_is_read_before_its_teacher_is_trained(run, tmp_path, monkeypatch):
    """Hours of training before a misspelt name."""
    monkeypatch.setattr(waterbirds, "guided_teacher", lambda *_: pytest.fail("the teacher is trained"))
    data = write_waterbirds(tmp_path / "data", per_group=1)
    smoke_bcos(["cat", "dog"]).save_pretrained(tmp_path / "base")
    options = ("--dataset", str(data), "--segmentations", str(tmp_path / "data" / "segmentations"))
    with pytest.raises(Exception, match="resnet19"):
        run("distill_waterbirds", *options, "--teacher_base", str(tmp_path / "base"), "--student", "timm/resnet19")


@pytest.mark.parametrize("name", STUDENTS)
def test_students_of_the_table_are_explained_and_saved(name, tmp_path):
    """A student of the table that has no target layer, or that can't be loaded again (ShuffleNet, from torchvision)."""
    torch.manual_seed(0)
    student = create_student(STUDENTS[name], "random", ["landbird", "waterbird"], None).eval()
    pixels = images(2, 64)
    explanation = explain(student, pixels)
    assert explanation.maps.shape == (2, 2, 2) and explanation.logits.shape == (2, 2)
    student.save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(again(pixels).logits, student(pixels).logits)
    assert again.config.id2label[1] == "waterbird"


# --- ImageNet --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_imagenet_live_and_frozen_give_the_same_kinds_of_figures(preset, run, tmp_path):
    """A preset whose stored explanations say something else than the teacher at hand."""
    live = run(*trial("distill_imagenet", "--preset", preset, "--shots", "50"))
    frozen = run(*trial("distill_imagenet", "--preset", preset, "--shots", "50", "--frozen"))

    for results in (live, frozen):
        fidelity = {"accuracy", "agreement", "explanation_similarity"}
        assert_measured(results["summary"], {"held_out", "validation"}, fidelity)
    assert live["arguments"]["explainer"] == ("bcos" if preset.startswith("bcos") else "gradcam")
    # Three classes: three shots, one image held out, three of `val`.
    stores = {name: StoredReference(tmp_path / "store" / name) for name in ("train", "held_out", "validation")}
    assert {name: store.description["count"] for name, store in stores.items()} == {
        **{"train": 9, "held_out": 3, "validation": 9},
    }
    assert ("reference_vectors" in stores["train"].columns) == preset.startswith("bcos")
    # With the seed the untrained teacher is the same, measured at hand and from the store.
    for split in ("held_out", "validation"):
        assert live["summary"][split]["teacher"] == frozen["summary"][split]["teacher"]


def test_what_is_stored_is_used_again(run, tmp_path):
    """A second run that computes the explanations anew, or learns something else from them."""
    options = trial("distill_imagenet", "--shots", "200", "--frozen", "--no_compare")
    first = run(*options)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.arrow")}
    assert run(*options)["runs"] == first["runs"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.arrow")} == before


def test_published_weights_are_of_imagenets_classes(tmp_path):
    """A teacher whose classes are called by their numbers, or take the names of the data's few classes."""
    weights = AutoModelForImageClassification.from_config(bcos_config("resnet18", num_labels=1000)).state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    teacher, processor = load_published("bcos/resnet18", str(tmp_path / "weights.pth"))
    assert (teacher.config.id2label[0], teacher.config.num_labels) == ("tench, Tinca tinca", 1000)
    assert torch.equal(teacher.state_dict()["conv1.linear.weight"], weights["conv1.linear.weight"])
    view = image_view(processor)
    assert (view.size, view.mean, view.std, view.fraction) == ((224, 224), (0, 0, 0), (1, 1, 1), 224 / 256)


@pytest.mark.parametrize("source", ["timm", "transformers"])
def test_a_published_teachers_classes_are_those_of_the_data(source, published):
    """Two classes called "crane", by which no data can be matched, or one of them lost in a few classes."""
    teacher, _ = load_published(str(published / source), None)
    few = smoke_bcos(class_names(["n01440764", "n03126707"]))
    assert align_labels(teacher, few).teacher.tolist() == [0, 517]
    every = smoke_bcos(class_names(ImageNetInfo().label_names()))
    assert align_labels(load_for_command(str(published / source)).model, every).is_identity


def test_images_that_cannot_be_decoded_are_left_out_or_named(tmp_path):
    """A training of days that ends at a file that was cut off, or doesn't say which."""
    for folder in ("imagenet", "folder"):
        write_imagenet(tmp_path / folder, train=3, validation=1)
        cut = tmp_path / folder / "train" / "n01440764" / "n01440764_1.JPEG"
        cut.write_bytes(cut.read_bytes()[:500])
    sources = ImageNetSources(dataset=str(tmp_path / "imagenet"), held_out=1, skip_undecodable=True)
    with pytest.warns(UserWarning, match="1 of 9 images can't be decoded and are left out: .*n01440764_1.JPEG"):
        train, evaluations = shot_splits(sources)
    assert (len(train), len(evaluations["held_out"])) == (5, 3)
    folder = str(tmp_path / "folder")
    with pytest.warns(UserWarning, match="1 of 9 images can't be decoded and are left out: .*n01440764_1.JPEG"):
        train, _ = load_images(folder, skip_undecodable=True)
    assert len(train) == 8
    for data in (load_images(folder)[0], load_imagenet(folder)["train"]):
        with pytest.raises(ValueError, match="n01440764_1.JPEG' can't be decoded"):
            data[:]["image"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {"num_train_epochs": 200, "per_device_train_batch_size": 64, "learning_rate": 0.01, "weight_decay": 1e-4}),
        (["--shots", "50"], {"num_train_epochs": 250, "per_device_train_batch_size": 32, "warmup_steps": 0.02}),
        (["--shots", "200"], {"num_train_epochs": 125, "per_device_train_batch_size": 64, "warmup_steps": 0.04}),
        (["--preset", "bcos-resnet34-resnet18"], {"learning_rate": 1e-3, "weight_decay": 0.0, "max_grad_norm": 0.0}),
        (
            ["--preset", "bcos-densenet169-vitti"],
            {"num_train_epochs": 150, "warmup_steps": 10_000, "explainer": "bcos"},
        ),
    ],
)
def test_the_papers_training_arguments(options, expected, monkeypatch):
    """A preset with another preset's epochs, or a warm-up that doesn't follow them."""
    monkeypatch.setattr(sys, "argv", ["recipe", *options])
    training = imagenet_experiment().student_training
    assert {name: training[name] for name in expected} == expected


def test_the_rate_rises_from_one_percent_and_falls_to_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recipe"])
    schedule = {
        name: imagenet_experiment().student_training[name] for name in ("lr_scheduler_type", "lr_scheduler_kwargs")
    }
    settings = {**schedule, "learning_rate": 0.01, "warmup_steps": 5, "max_steps": 20}
    trainer = distiller(build("vit"), build("vit", 1), tmp_path, settings)
    trainer.create_optimizer_and_scheduler(20)
    rates = []
    for _ in range(20):
        rates.append(trainer.lr_scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == pytest.approx(0.01) and np.argmax(rates) in (4, 5)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "Give --dataset, or --smoke"),
        (
            ["--dataset", "x", "--preset", "bcos-resnet34-resnet18"],
            "--teacher bcos/resnet34 needs its published weights",
        ),
        (["--dataset", "x", "--shots", "few"], "--shots is 'few'. Give a number"),
        (["--preset", "vit"], "invalid choice: 'vit'"),
        (["distill_waterbirds", "--smoke", "--mixup_alpha", "0"], "--mixup_alpha must be above 0, not 0.0"),
        (["distill_waterbirds", "--smoke", "--guidance_weight", "-1"], "--guidance_weight must be at least 0, not -1"),
        (["shift_equivariance", "--smoke", "--batch_size", "0"], "--batch_size must be at least 1, not 0"),
    ],
)
def test_wrong_arguments_say_what_to_do(options, message, run, capsys):
    """A traceback, or a long training, where a sentence would do."""
    with pytest.raises(SystemExit):
        run(*options) if options and not options[0].startswith("--") else run("distill_imagenet", *options)
    assert message in capsys.readouterr().err


class TestShots:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [9, 7, 12, 8]))

    def test_as_many_of_each_class_and_the_same_ones_again(self):
        rows = choose_per_class(self.labels, 3, seed=1)
        assert np.bincount(self.labels[rows]).tolist() == [3, 3, 3, 3]
        assert np.array_equal(rows, choose_per_class(self.labels, 3, seed=1))
        assert not np.array_equal(rows, choose_per_class(self.labels, 3, seed=2))
        assert set(rows) <= set(choose_per_class(self.labels, 5, seed=1))

    def test_what_is_held_out_is_not_trained_on(self):
        kept, held = hold_out(self.labels, 2)
        assert np.bincount(self.labels[held]).tolist() == [2, 2, 2, 2]
        assert sorted([*kept, *held]) == list(range(len(self.labels)))

    def test_too_few_images_are_named(self):
        with pytest.raises(ValueError, match="Class 1 has 7 images, and 8 a class are asked for"):
            choose_per_class(self.labels, 8)
        with pytest.raises(ValueError, match="class 1 has none left to train on"):
            hold_out(self.labels, 7)


def test_adaptive_clipping_bounds_each_row_by_its_own_weight():
    """Clipping by the whole gradient's norm, which small layers don't notice."""
    layer = torch.nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0]]))
    layer.weight.grad = torch.tensor([[0.0, 1.0, 0.0], [1e-6, 0.0, 0.0]])
    AdaptiveClipping().on_pre_optimizer_step(None, None, None, model=layer)
    # A hundredth of 5; the second row is below a hundredth of the smallest norm, 1e-3.
    assert torch.allclose(layer.weight.grad, torch.tensor([[0.0, 0.05, 0.0], [1e-6, 0.0, 0.0]]))
    with pytest.raises(ValueError, match="bf16 or fp32"):
        # Of `accelerate launch --mixed_precision fp16`, which leaves the argument fp16 as it is.
        AdaptiveClipping().on_train_begin(Namespace(fp16=False, mixed_precision="fp16"), None, None)


# --- Data-free -------------------------------------------------------------------------------------------------------


def test_data_free_trains_on_one_and_measures_on_the_other(run, tmp_path):
    """Labels of the unrelated images that enter the training, or figures of the wrong data."""
    results = run(*trial("distill_data_free"))

    assert_measured(results["summary"], {"teachers_data"}, {"accuracy", "agreement", "explanation_similarity"})
    student = AutoModelForImageClassification.from_pretrained(tmp_path / "student")
    assert student.config.id2label[0] == "tench, Tinca tinca"
    assert AutoImageProcessor.from_pretrained(tmp_path / "student").size


def test_data_free_the_other_way_round_from_folders(run, tmp_path):
    """SUN397's own layout and partition not recognised, or a teacher of a folder whose classes get lost."""
    sun, imagenet = write_sun397(tmp_path / "sun" / "SUN397"), write_imagenet(tmp_path / "imagenet")
    smoke_bcos(["abbey", "apartment_building/outdoor", "bazaar/outdoor"]).save_pretrained(tmp_path / "teacher")
    smoke_processor(is_bcos=True).save_pretrained(tmp_path / "teacher")
    student = {"model_type": "bcos_resnet", "depths": [1, 1], "embedding_size": 8, "small_inputs": True}
    (tmp_path / "student.json").write_text(json.dumps(student))
    results = run(
        "distill_data_free",
        *("--dataset", str(sun), "--train_data", str(imagenet), str(imagenet), "--teacher", str(tmp_path / "teacher")),
        *("--student", str(tmp_path / "student.json"), "--explainer", "bcos", "--no_compare", "--pictures", "0"),
        *("--max_steps", "1", "--use_cpu", "true", "--per_device_train_batch_size", "4", "--disable_tqdm", "true"),
    )
    assert set(results["summary"]["teachers_data"]) == {"teacher", "e²KD"}
    assert 0 <= results["summary"]["teachers_data"]["teacher"]["accuracy"]["mean"] <= 1
    assert results["sources"]["partition"] == 1


def test_tiny_imagenets_parquet_files_are_images_too(tmp_path, monkeypatch):
    """Parquet files taken for columns of any kind, without the classes' names and the names of broken images."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "classes.csv").write_text("label,wnid\n0,n01443537\n")
    cell = {**png_cell(np.zeros((8, 8, 3), np.uint8)), "path": "goldfish_0.png"}
    rows = {"image": [cell], "label": [0], "box": [[1.0, 2.0, 3.0, 4.0]]}
    for split in ("train", "validation"):
        features = Features(image=ImageFeature(), label=Value("int32"), box=List(Value("float32"), length=4))
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
    found = find_images(str(tmp_path))
    assert found["validation"].features["label"].names == ["goldfish, Carassius auratus"]
    assert unlabelled_images([str(tmp_path)] * 2).column_names == ["image"]


def test_cifar_10_is_images_too(tmp_path):
    """Prevents: CIFAR-10's files taken for a folder of images, so that it can't be unrelated data or be shifted."""
    record = bytes([3]) + bytes(3 * 32 * 32)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (tmp_path / f"{name}.bin").write_bytes(record)
    assert find_images(str(tmp_path))["test"]["label"] == [3]
    assert unlabelled_images([str(tmp_path)]).num_rows == 5


def test_tiny_imagenets_own_folders_are_read_by_every_recipe(tmp_path):
    """Prevents: its folders taken for ImageNet's, whose `val` has other classes, or Parquet files asked for."""
    root, wnid = tmp_path / "tiny-imagenet-200", "n01443537"
    for folder in (root / "train" / wnid / "images", root / "val" / "images"):
        folder.mkdir(parents=True)
        for number in range(30):
            Image.new("RGB", (64, 64)).save(folder / f"{number}.JPEG")
    boxes = [f"{number}.JPEG\t1\t5\t62\t63\n" for number in range(30)]
    (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("".join(boxes))
    (root / "val" / "val_annotations.txt").write_text("".join(row.replace("\t", f"\t{wnid}\t", 1) for row in boxes))
    (root / "wnids.txt").write_text(f"{wnid}\n")
    for folder in (root, tmp_path):
        assert find_images(str(folder))["validation"].num_rows == 30
    assert few_images("tiny_imagenet", str(root), 5)["train"].num_rows == 5
    study = BoxStudy(BoxOptions(data=str(root), shots=10, held_out=2), ExplanationDistillArguments("unused"))
    assert study.splits["train"]["boxes"][0] == [[1, 5, 63, 64]]


# --- Shifts ----------------------------------------------------------------------------------------------------------


def test_shifts_of_a_convolutional_network_and_of_one_with_patches(run, tmp_path):
    """An overlap cut from the wrong corner: a network of patches must come back at a whole patch, and at 0 all do."""
    results = run("shift_equivariance", "--smoke", "--use_cpu", "true")

    assert results["shifts"] == list(range(17))
    curves = {name: found["mean"] for name, found in results["models"].items()}
    assert set(curves) == {"resnet", "vit"}
    for name, curve in curves.items():
        assert len(curve) == 17 and all(math.isfinite(value) and -1 <= value <= 1 + 1e-9 for value in curve), name
        assert curve[0] == pytest.approx(1, abs=1e-9)
        assert results["models"][name]["images"] == 9
    # The smoke ViT's patches have 16 pixels.
    assert curves["vit"][16] > 0.9 > 0.5 > curves["vit"][8]
    # The smoke ResNet halves the grid once: it sees the same, but for the borders, at every other pixel.
    assert min(curves["resnet"][::2]) > 0.7
    assert {"shifts.json", "shifts.png"} <= names_in(tmp_path)


def test_shifts_by_other_methods_one_a_model(run, tmp_path):
    """A model explained by another's method, or GradCAM's coarse grid compared without regard to the shift."""
    data = write_imagenet(tmp_path / "data", train=1, validation=1)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=4
    )
    model = ViTForImageClassification(config)
    randomise(model)
    model.save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    results = run(
        *("shift_equivariance", "--dataset", str(data), "--use_cpu", "true", "--max_shift", "4", "--samples", "2"),
        *("--models", f"one={tmp_path / 'vit'}", str(tmp_path / "vit"), "--explainers", "gradcam", "attention_rollout"),
    )
    assert {name: found["explainer"] for name, found in results["models"].items()} == {
        **{"one": "gradcam", "vit": "attention_rollout"},
    }
    for found in results["models"].values():
        assert found["images"] + found["unexplained"] == 2
        assert found["mean"][0] == pytest.approx(1, abs=1e-9)


def test_a_models_folder_may_have_an_equals_sign(monkeypatch, tmp_path):
    """Prevents: `interpretability_table.py`'s own folders, such as KD_alpha=0.1-42, cut at the sign in their names."""
    assert named_source("KD=models/KD_alpha=0.1-42") == ("KD", "models/KD_alpha=0.1-42")
    assert named_source("facebook/deit-tiny") == ("deit-tiny", "facebook/deit-tiny")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "KD_alpha=0.1-42").mkdir(parents=True)
    assert named_source("models/KD_alpha=0.1-42") == ("KD_alpha=0.1-42", "models/KD_alpha=0.1-42")


def test_images_without_an_explanation_are_counted_and_left_out():
    """A mean that is NaN for one image whose map is all zero."""
    found = summarise_shifts(torch.tensor([[1.0, 0.5], [torch.nan, torch.nan], [1.0, 0.7]]))
    assert (found["images"], found["unexplained"]) == (2, 1)
    assert found["mean"] == pytest.approx([1.0, 0.6])
    with pytest.raises(ValueError, match="nothing to compare"):
        summarise_shifts(torch.full((2, 2), torch.nan))


# --- The search for λ ------------------------------------------------------------------------------------------------


def test_a_search_over_the_weights(run, tmp_path):
    """λ cut to whole numbers, an objective that sums all metrics up, or a split's figures under another's name."""
    results = run(*trial("search_weight")[:4], "--weights", "0", "0.25", "3000")

    assert [point["explanation_weight"] for point in results["points"]] == [0, 0.25, 3000]
    assert results["evaluation"] == "out_of_distribution" and results["measures"] == list(MEASURES)
    similarities = []
    for point in results["points"]:
        for split in ("in_distribution", "out_of_distribution"):
            assert all(0 <= point[split][measure] <= 1 for measure in MEASURES)
        similarities.append(point["out_of_distribution"]["explanation_similarity"])
    assert len(set(similarities)) == 3
    assert results["front"] and set(results["front"]) <= set(range(3))
    assert {"search.json", "search.md", "front.png"} <= names_in(tmp_path)
    lines = (tmp_path / "search.md").read_text().splitlines()
    assert len(lines) == 5 and sum("✓" in line for line in lines) == len(results["front"])


def test_a_search_at_random_between_two_weights(run):
    """Draws outside of the bounds, or the grid again."""
    options = ("--weights", "0.5", "2", "--sampler", "random", "--trials", "2", "--evaluation", "in_distribution")
    results = run(*trial("search_weight")[:4], *options)
    first, second = (point["explanation_weight"] for point in results["points"])
    assert 0.5 <= first < second <= 2
    assert results["evaluation"] == "in_distribution"


# --- Their docstrings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["_guide", "_splits", "_evidence", "_sst", "distill_waterbirds"])
def test_examples_of_the_docstrings(name):
    """An example that stopped working where pytest looks for none."""
    failed, tried = doctest.testmod(import_module(name))
    assert failed == 0 and tried > 0
