"""The recipe of XDistillation, tried out on the embedded digits; what its measures count, by hand."""

import json
import re

import _xdistillation
import pytest
import torch
import xdistillation
from _explained_students import compare
from _xdistillation import Study
from _xdistillation_figures import draw_accuracies
from transformers import AutoModelForImageClassification

from hf_e2kd.models import XDistillationConfig, XDistillationForImageClassification
from hf_e2kd.store import StoredReference


def test_every_student_from_the_teacher_to_the_table(monkeypatch, tmp_path):
    """Prevents: a student without figures, undefined ones in the file, a student that can't be loaded, work that is
    done twice when an interrupted command is given again, a finished student without the code that is asked for then.
    """
    line = ["xdistillation", "--smoke", "--output_dir", str(tmp_path), "--disable_tqdm", "true", "--task_loss", "mse"]
    monkeypatch.setattr("sys.argv", [*line, "--students", "KD", "XDistillation"])
    monkeypatch.setattr("_xdistillation._SHOWN", 1)
    results = xdistillation.run_xdistillation(xdistillation.__doc__)
    monkeypatch.setattr("sys.argv", [*line, "--ablations", "superpixels", "--export_code", "true"])
    # Of the process, and not of this test alone.
    monkeypatch.setattr(XDistillationConfig, "_auto_class", None)
    monkeypatch.setattr(XDistillationForImageClassification, "_auto_class", None)
    trained, distil = [], Study.distil
    monkeypatch.setattr(Study, "draw", lambda self: None)
    monkeypatch.setattr(Study, "distil", lambda self, name: trained.append(name) or distil(self, name))
    more = xdistillation.run_xdistillation(xdistillation.__doc__)
    assert trained == ["baseline", "AT", "NST", "AB", "e²KD", "without superpixels"]
    students = more["summary"]["test"]
    assert list(students) == ["teacher", *xdistillation.STUDENTS, "without superpixels"]
    assert all(students[name] == figures for name, figures in results["summary"]["test"].items())
    assert students["teacher"]["autoencoder_mse"]["mean"] > 0
    sizes = {name: figures["parameters"]["mean"] for name, figures in students.items()}
    # The joint classifier reads 32×32 pixels for ten classes, and the small autoencoder of RGB images has 288 weights
    # more than that of grey ones.
    assert sizes["XDistillation"] == sizes["KD"] + 10 * 32 * 32 + 1_077 + 2 * 9 * 16
    for name in xdistillation.STUDENTS:
        assert {"accuracy", "agreement", "occlusion_similarity"} <= set(students[name])
        assert len(more["accuracy_by_epoch"]["42"][name]) == 1
    assert "NaN" not in (tmp_path / "results.json").read_text()
    assert json.loads((tmp_path / "results.json").read_text())["options"]["superpixels"] == 19
    assert {"accuracy.png", "table.md"} <= {path.name for path in tmp_path.iterdir()}
    study = tmp_path / "seed-42"
    assert {"representations.png", "students.png"} <= {path.name for path in study.iterdir()}
    assert (study / "models" / "XDistillation" / "x_distillation.py").is_file()
    student = AutoModelForImageClassification.from_pretrained(study / "models" / "XDistillation")
    assert student.approximate_explanation(torch.rand(2, 3, 32, 32)).shape == (2, 32, 32)
    store = StoredReference(study / "explanations" / "gradcam")
    assert store.description["key"]["explainer"]["options"]["method"]["name"] == "gradcam"


def test_networks_that_a_cpu_carries():
    """Prevents: a teacher that stays wide, an uneven division, the paper's networks changed by no option."""
    options = xdistillation.Options(data="cifar10", folder="CIFAR", teacher_depth=11, width_divisor=4)
    setting, paper = options.setting, xdistillation.SETTINGS["cifar10"]
    assert setting.teacher.stage_widths == [[16], [32], [64, 64], [128, 128], [128, 128]]
    assert setting.student.stage_widths == [[16], [16, 32], [64, 64], [64, 64, 64]]
    assert (setting.autoencoder, setting.image_size) == ("large", 32)
    assert xdistillation.Options(data="cifar10", folder="CIFAR").setting == paper
    paper_widths = paper.student.stage_widths
    shallow = xdistillation.Options(data="cifar10", folder="CIFAR", teacher_depth=7).setting
    assert shallow.teacher.stage_widths == shallow.student.stage_widths == [list(each) for each in paper_widths]


def test_measured_without_the_trainings_precision(monkeypatch, tmp_path):
    """Prevents: an autoencoder that can't be trained in bfloat16, students explained in the precision that the training
    left, a teacher that is trained as long as the students where it has epochs of its own.
    """
    line = ["xdistillation", "--smoke", "--bf16", "--output_dir", str(tmp_path), "--disable_tqdm", "true"]
    monkeypatch.setattr("sys.argv", [*line, "--students", "XDistillation", "--teacher_epochs", "3"])
    monkeypatch.setattr(Study, "draw", lambda self: None)
    epochs, teach = [], _xdistillation.train_on_labels
    monkeypatch.setattr(
        _xdistillation, "train_on_labels", lambda model, args, *rest: epochs.append(args) or teach(model, args, *rest)
    )
    explained, own_maps = [], _xdistillation.own_maps
    monkeypatch.setattr(
        _xdistillation, "own_maps", lambda model, *rest: explained.append(model) or own_maps(model, *rest)
    )
    xdistillation.run_xdistillation(xdistillation.__doc__)
    assert [args.num_train_epochs for args in epochs] == [3]
    # Accelerate puts autocast around a model's forward.
    assert explained and not any("forward" in vars(model) for model in explained)


def test_curves_can_be_told_apart(tmp_path):
    """Prevents: a curve of one epoch that isn't seen, and two students of one colour."""
    curves = {"42": {name: [0.5] for name in [*xdistillation.STUDENTS, *xdistillation.VARIANTS]}}
    lines = draw_accuracies(curves, tmp_path / "accuracy.png").axes[0].lines
    assert all(line.get_marker() == "o" for line in lines)
    assert len({line.get_color() for line in lines}) == 14


def test_which_samples_count():
    """The MSE where both classify alike, the overlap where both are right, the cosine of occlusion's maps."""
    maps, other = torch.tensor([[[2.0, 1.0]]] * 3), torch.tensor([[[1.0, 2.0]], [[2.0, 3.0]], [[9.0, 9.0]]])
    maps, other = ({"shap": each, "occlusion": each[:2]} for each in (maps, other))
    own, theirs, labels = torch.tensor([[0, 1, 1], [0, 1, 0], [0, 0, 0]])
    figures = compare(other, maps, torch.tensor([[[0, 1]]] * 3), own, theirs, labels)
    assert figures == {
        "accuracy": pytest.approx(1 / 3),
        "agreement": pytest.approx(2 / 3),
        "shap_mse": pytest.approx((1 + 2) / 2),  # of two samples
        "shap_error": pytest.approx(1.5 / 2.5),
        "shap_overlap": 1.0,  # of the first alone
        "occlusion_similarity": pytest.approx((4 / 5 + 7 / (5 * 13) ** 0.5) / 2),
    }
    other["shap"] = -other["shap"]
    assert compare(other, maps, torch.tensor([[[0, 1]]] * 3), own, theirs, labels)["shap_overlap"] == 0.0


def test_plans_of_ablations():
    """Prevents: an ablation that changes nothing, or more than its name says."""
    options = xdistillation.Options(ablations=list(xdistillation.ABLATIONS))
    plans = {name: xdistillation.plan_of(name, options, None) for name in ["XDistillation", *options.names[7:]]}
    term = {name: plan.loss["terms"]["feature_reduction"] for name, plan in plans.items()}
    assert {name: (plan.superpixels, *term[name].values()) for name, plan in plans.items()} == {
        "XDistillation": (19, 5e-4, "features"),
        "without superpixels": (None, 5e-4, "features"),
        "k = 5": (5, 5e-4, "features"),
        "k = 10": (10, 5e-4, "features"),
        "λ = 0": (19, 0.0, "features"),
        "λ = 0.005": (19, 0.005, "features"),
        "λ = 0.05": (19, 0.05, "features"),
        "all columns": (19, 5e-4, "all"),
    }


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--data", "mnist"], "Give --folder, where the files of mnist lie"),
        (["--students", "LS"], "Unknown students .'LS'.. Available: baseline, KD, AT"),
        (["--ablations", "depth"], "Unknown ablations .'depth'.. Available: superpixels, k, penalty, columns"),
        (["--alpha", "2"], "--alpha must lie between 0 and 1, not 2.0"),
        (["--background", "0"], "--background must be at least 1, not 0"),
        (["--columns", "feature"], "invalid choice: 'feature'"),
        (["--superpixels", "50"], "--superpixels must lie between 3 and 20, not 50"),
        (["--penalty", "-1"], "--penalty must be 0 or more"),
        (["--teacher_epochs", "0"], "--teacher_epochs must be above 0, not 0.0"),
        (["--width_divisor", "0"], "--width_divisor must be at least 1, not 0"),
        (["--width_divisor", "9"], "--width_divisor must be at most 8, a layer's channels, not 9"),
        (["--teacher_depth", "12"], r"depth must be one of .7, 11, 16., not 12"),
        (["--data", "mnist", "--folder", "MNIST", "--width_divisor", "2"], "the networks of mnist are none"),
    ],
)
def test_refusals(monkeypatch, capsys, option, message):
    monkeypatch.setattr("sys.argv", ["xdistillation", *option])
    with pytest.raises(SystemExit):
        xdistillation.run_xdistillation("")
    assert re.search(message, capsys.readouterr().err)
