"""The study of boxes on Tiny ImageNet, tried out on drawn shapes; its tables, and what it refuses."""

import json
import math

import evidence_tables
import guide_tiny_imagenet
import pytest
import torch
from _annotated import load_box_classifier
from _guided_arms import ARMS, STUDIES, GuidedArm
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTImageProcessor

from hf_e2kd.terms import available_guidance_losses
from tests.models import build

LINE = ["guide_tiny_imagenet", "--smoke", "--disable_tqdm", "true", "--seeds", "1", "--shots", "8"]
CHOSEN = ["--studies", "losses", "mid", "--arms", "unguided", "l1", "energy, mid"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished trial run: its folder and results."""
    folder = tmp_path_factory.mktemp("boxes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [*LINE, *CHOSEN, "--pictures", "2", "--output_dir", str(folder)])
        return folder, guide_tiny_imagenet.run_guide_tiny_imagenet(guide_tiny_imagenet.__doc__)


def test_every_model_is_guided_chosen_and_measured(finished):
    """Prevents: models that are trained alike, a choice off the front, figures of the split that chose."""
    folder, results = finished
    rows = {row["model"]: row for row in results["rows"]}
    assert list(rows) == ["unguided", "l1", "energy, mid"]
    for row in rows.values():
        assert all(math.isfinite(row[name]) for name in guide_tiny_imagenet.TABLE)
        assert set(row["validation"]) == {"step", "accuracy", "energy_pointing_game", "localization_iou"}
        assert row["validation"]["energy_pointing_game"] != row["energy_pointing_game"]
        assert 0 <= row["accuracy"] <= 1 and row["accuracy"] * 12 == pytest.approx(round(row["accuracy"] * 12))
    assert rows["unguided"]["arm"]["weight"] == 0 < rows["l1"]["arm"]["weight"]
    assert len({row["energy_pointing_game"] for row in rows.values()}) == 3
    (saved,) = (folder / "models").glob("l1-*")
    model = AutoModelForImageClassification.from_pretrained(saved)
    assert model.config.problem_type == "single_label_classification" and model.config.num_labels == 3
    assert AutoImageProcessor.from_pretrained(saved).size["height"] == 64
    assert not list((folder / "fronts").iterdir())
    with Image.open(folder / "explanations.png") as picture:
        assert picture.width > 300
    table = (folder / "table.md").read_text(encoding="utf-8")
    assert evidence_tables.TABLES["guide_tiny_imagenet"](results, "losses") in table
    assert "| l1 | 1 |" in table and "EPG − unguided's" in table


def test_a_longer_command_goes_on(finished, monkeypatch):
    """Prevents: models that are trained twice, results of other options that are mixed."""
    folder, results = finished
    line = [*LINE, *CHOSEN, "--pictures", "0", "--output_dir", str(folder)]
    monkeypatch.setattr("sys.argv", line)
    monkeypatch.setattr(guide_tiny_imagenet, "guide", None)  # nothing is left to train
    assert guide_tiny_imagenet.run_guide_tiny_imagenet(guide_tiny_imagenet.__doc__)["rows"] == results["rows"]
    monkeypatch.setattr("sys.argv", [*line, "--learning_rate", "1"])
    with pytest.raises(ValueError, match="other arguments"):
        guide_tiny_imagenet.run_guide_tiny_imagenet(guide_tiny_imagenet.__doc__)


def test_weights_are_chosen_on_validation_images():
    """Prevents: λ chosen by the test images."""
    validation = {"step": 1, "accuracy": 0.5, "energy_pointing_game": 0.25}
    row = {"seed": 0, "accuracy": 0.9, "energy_pointing_game": 0.9, "validation": validation}
    rows = [{"model": "energy, λ = 2", **row}, {"model": "unguided", **row}]
    lines = guide_tiny_imagenet.study_table({"rows": rows}, "weight").splitlines()
    assert lines[2:] == ["| unguided | 1 | .500 | .250 |  |", "| energy, λ = 2 | 1 | .500 | .250 | +.000 |"]


def test_all_losses_depths_and_shares_are_compared():
    """Prevents: a loss that is no part of the study, and two trainings by one name."""
    assert {arm.loss for arm in STUDIES["losses"].values()} == set(available_guidance_losses())
    assert {arm.annotated for arm in STUDIES["boxes"].values()} == {1.0, 0.1, 0.01}
    assert {arm.dilation for arm in STUDIES["dilation"].values()} == {0.0, 0.1, 0.25, 0.5}
    assert {arm.layer for arm in ARMS.values()} == {None, "mid", "input"}
    assert all(next(iter(study.values())).weight == 0 for study in STUDIES.values())
    assert all(STUDIES[study][name] == arm for study in STUDIES for name, arm in ARMS.items() if name in STUDIES[study])
    assert len(set(ARMS.values()) - {GuidedArm()}) >= len(ARMS) - 5  # some λ of the grids are the studies' own


def test_a_classifier_keeps_its_head_for_the_datas_classes(tmp_path):
    """Prevents: a pretrained classifier of the data's own classes that begins with a random head, or is trained in
    half precision."""
    model = build("wrapped_resnet").to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 40, "width": 40}).save_pretrained(tmp_path)
    names = [model.config.id2label[2], model.config.id2label[0]]
    kept, _ = load_box_classifier(str(tmp_path), "own-head", names, 64, problem="single_label_classification")
    assert kept.config.problem_type == "single_label_classification"
    head, own = ((each.timm_model.get_classifier().weight) for each in (model, kept))
    assert own.dtype == torch.float32 and (own == head[[2, 0]]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--studies", "loss"], "Did you mean 'losses'"),
        (["--arms", "energie"], "Unknown training 'energie'"),
        (["--arms", "l1", "--studies", "mid"], "Give --studies whose --arms"),
        (["--held_out", "0"], "--held_out must be at least 1, not 0"),
    ],
)
def test_wrong_options_are_refused(run, capsys, options, message):
    """Prevents: hours of training before an option is found wrong."""
    with pytest.raises(SystemExit):
        run(guide_tiny_imagenet, "--smoke", *options)
    assert message in capsys.readouterr().err


def test_results_are_json(finished):
    """Prevents: figures that can't be read again."""
    folder, results = finished
    assert json.loads((folder / "results.json").read_text(encoding="utf-8")) == results
