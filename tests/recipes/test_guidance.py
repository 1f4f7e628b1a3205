"""The recipes of model guidance, tried on drawn shapes in the layouts of VOC and COCO, and what they are made of."""

import json
import math
import sys
from importlib import import_module

import pytest
import torch
from _annotated import CocoSource, VocSource, explainer_at, load_box_classifier
from _guide import run_guidance
from _guided_students import run_guided_distillation
from _shapes import SHAPES, write_coco, write_voc
from torchvision.transforms.functional import pil_to_tensor
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTImageProcessor

from hf_e2kd import ExplanationDistillArguments
from hf_e2kd.alignment.inputs import image_view
from hf_e2kd.data import load_coco, load_voc
from hf_e2kd.data.voc import CLASSES
from hf_e2kd.explainers import GradCAM, InputXGradient
from hf_e2kd.models import bcos_config
from tests.models import build

QUICK = ("--smoke", "--num_train_epochs", "2", "--use_cpu", "true", "--disable_tqdm", "true")


def run(name: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> dict:
    """A recipe in this process."""
    recipe = import_module(name)
    monkeypatch.setattr(sys, "argv", [name, *options])
    run_setting = run_guided_distillation if name == "distill_voc" else run_guidance
    return run_setting(recipe.SETTING, name, recipe.__doc__)


def check_figures(figures: dict[str, float], expected: set[str]) -> None:
    assert set(figures) == expected
    for name, value in figures.items():
        assert math.isfinite(value), name
        assert (-1 if name == "explanation_similarity" else 0) <= value <= 1, name


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("guide_voc", ("--pictures", "0")),
        (
            "guide_coco",
            ("--pictures", "2", "--layer", "mid", "--guidance_loss", "l1", "--annotated", "0.1", "--dilation", "0.25"),
        ),
    ],
)
def test_guidance_trains_selects_measures_and_writes(name, options, monkeypatch, tmp_path):
    """Prevents: a model that isn't trained, checkpoints off the front, or figures of the split that selected."""
    results = run(name, monkeypatch, *QUICK, "--output_dir", str(tmp_path), *options)
    written = {path.name for path in tmp_path.iterdir()}
    assert {"baseline-42", "guided-42", "results.json", "table.md", "front.png"} <= written
    assert ("explanations.png" in written) == ("0" not in options)
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["summary"] == results["summary"]
    assert set(results["summary"]["test"]) == {"baseline", "guided"}
    for front in results["fronts"]:
        folder = tmp_path / "fronts" / f"{front['side']}-{front['seed']}"
        kept = {int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")}
        assert kept == {point["step"] for point in front["front"]}
        (chosen,) = [point for point in front["front"] if point["step"] == front["chosen"]]
        check_figures(chosen["test"], {"f1", "map", "energy_pointing_game", "localization_iou"})
        assert results["runs"][0][front["side"]]["test"] == chosen["test"]
    baseline, guided = results["fronts"]
    assert baseline["front"] != guided["front"]
    assert "EPG" in (tmp_path / "table.md").read_text(encoding="utf-8")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "guided-42")
    assert model.config.problem_type == "multi_label_classification"
    assert len(model.config.id2label) == 20
    assert AutoImageProcessor.from_pretrained(tmp_path / "guided-42").size["height"] == 64


def test_distillation_measures_teacher_and_students(monkeypatch, tmp_path):
    """Prevents: a teacher measured by the students' labels alone, or students that differ in more than one term."""
    line = (*QUICK, "--labels", "--pictures", "2", "--output_dir", str(tmp_path))
    results = run("distill_voc", monkeypatch, *line)
    written = {path.name for path in tmp_path.iterdir()}
    assert {"student", "student-kd", "results.json", "table.md", "explanations.png"} <= written
    own = {"f1", "map", "energy_pointing_game", "localization_iou"}
    (sides,) = results["runs"]
    for split in ("validation", "test"):
        check_figures(sides["teacher"][split], own)
        for student in ("labels", "KD", "e²KD"):
            check_figures(sides[student][split], own | {"agreement", "explanation_similarity"})
    tested = [sides[student]["test"] for student in ("labels", "KD", "e²KD")]
    assert tested[0] != tested[1] != tested[2]
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["runs"] == results["runs"]
    # Started again, nothing is trained anew, and nothing of other options is mixed in.
    monkeypatch.setattr("_guided_students.ExplanationDistillTrainer", None)
    assert run("distill_voc", monkeypatch, *line)["runs"] == results["runs"]
    with pytest.raises(ValueError, match="other options, arguments or another version"):
        run("distill_voc", monkeypatch, *line, "--temperature", "2")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("guide_voc", (), "Give --data, --model, or --smoke"),
        ("distill_voc", ("--data", "somewhere"), "Give --teacher, --student, or --smoke"),
        ("guide_coco", ("--guidance_loss", "foo"), "invalid choice: 'foo'"),
        ("guide_voc", ("--smoke", "--seeds", "0"), "--seeds must be at least 1"),
        ("guide_voc", ("--smoke", "--annotated", "2"), "--annotated must lie in (0, 1], not 2.0"),
        ("guide_coco", ("--smoke", "--dilation", "-0.1"), "--dilation must be at least 0"),
        ("guide_coco", ("--smoke", "--image_size", "0"), "--image_size must be at least 1"),
        ("guide_voc", ("--smoke", "--held_out", "0"), "--held_out must lie in (0, 1)"),
        ("guide_voc", ("--smoke", "--explanation_loss", "l1"), "maps are held in boxes by --guidance_loss"),
        ("distill_voc", ("--smoke", "--resume_from_checkpoint", "true"), "none of them is resumed"),
        ("guide_voc", ("--smoke", "--model_weights", "a.pth"), "give --model bcos/NAME too"),
    ],
)
def test_wrong_arguments_say_what_to_do(name, options, message, monkeypatch, capsys):
    """Prevents: a traceback where a sentence would do."""
    with pytest.raises(SystemExit):
        run(name, monkeypatch, *options)
    assert message in capsys.readouterr().err


def test_a_teacher_of_one_class_an_image_is_refused_before_the_training(monkeypatch, tmp_path):
    """Prevents: students that are trained for hours, and lost because their teacher can't be measured."""
    write_voc(tmp_path, sizes={"train": 6, "val": 2})
    build("resnet").save_pretrained(tmp_path / "teacher")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "teacher")
    teacher = str(tmp_path / "teacher")
    options = ("--teacher", teacher, "--student", teacher, "--output_dir", str(tmp_path / "out"), "--use_cpu", "true")
    with pytest.raises(ValueError, match="chooses one class an image"):
        run("distill_voc", monkeypatch, "--data", str(tmp_path), *options)


@pytest.mark.parametrize("layout", ["voc", "coco"])
def test_drawn_shapes_have_their_layout(layout, tmp_path):
    """Prevents: a box beside its shape, by the pixels from which VOC counts or the corners of COCO."""
    write, load = (write_voc, load_voc) if layout == "voc" else (write_coco, load_coco)
    write(tmp_path, sizes={"train": 6, "val": 2})
    rows = load(tmp_path, 2007 if layout == "voc" else 2017)["train"]
    names = rows.features["labels"].feature.names
    assert {names[label] for labels in rows["labels"][:] for label in labels} <= {
        "aeroplane",
        "airplane",
        *CLASSES[1:3],
    }
    assert max(map(len, rows["labels"][:])) <= len(SHAPES)
    for row in rows:
        pixels = pil_to_tensor(row["image"].convert("L"))[0].float()
        x0, y0, x1, y1 = map(int, row["boxes"][-1])  # the topmost shape
        middle = pixels[(y0 + y1) // 2 - 2 : (y0 + y1) // 2 + 2, (x0 + x1) // 2 - 2 : (x0 + x1) // 2 + 2]
        assert middle.mean() > 150  # bright, where textures are at most half as bright


def depth(family, layer, explainer="gradcam", options=None):
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    arguments = ExplanationDistillArguments("unused", use_cpu=True, explainer=explainer, explainer_options=options)
    return explainer_at(arguments, layer, build(family), processor)


def test_depths_become_layers():
    """Prevents: `mid` that is a convolution inside the last stage, on the finer grid that comes in."""
    assert isinstance(depth("resnet", None), GradCAM)
    assert depth("resnet", "final").target_layer is None
    assert depth("resnet", "mid").target_layer == "resnet.encoder.stages.0"
    assert depth("resnet", "resnet.embedder").target_layer == "resnet.embedder"
    by_input = depth("resnet", "input", "input_x_gradient")
    assert isinstance(by_input, InputXGradient) and by_input.layer is None
    final = depth("resnet", "final", "input_x_gradient").layer
    assert final == GradCAM().target_layer_path(build("resnet"))


@pytest.mark.parametrize(
    ("family", "layer", "explainer", "message"),
    [
        ("vit", "mid", "gradcam", "no layer on a grid 2 times as fine as GradCAM's"),
        ("resnet", "input", "gradcam", "GradCAM explains a layer, not the input"),
        ("resnet", "mid", "saliency", "The depth of 'saliency' can't be chosen"),
    ],
)
def test_a_depth_that_is_not_there_is_refused(family, layer, explainer, message):
    with pytest.raises(ValueError, match=message):
        depth(family, layer, explainer)


def test_published_weights_get_a_head_for_the_datas_classes(tmp_path):
    """Prevents: a B-cos network that starts from random weights, or is shown normalised images."""
    weights = AutoModelForImageClassification.from_config(bcos_config("resnet18", num_labels=1000)).state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    model, processor = load_box_classifier(
        "bcos/resnet18", "pretrained", list(CLASSES), 64, str(tmp_path / "weights.pth")
    )
    assert (model.config.num_labels, model.config.problem_type) == (20, "multi_label_classification")
    assert torch.equal(model.state_dict()["conv1.linear.weight"], weights["conv1.linear.weight"])
    view = image_view(processor)
    assert (view.size, view.mean, view.std, view.keeps_ratio) == ((64, 64), (0, 0, 0), (1, 1, 1), False)


@pytest.mark.parametrize("family", ["resnet", "wrapped_resnet"])
def test_a_classifier_gets_a_head_for_the_datas_classes(family, tmp_path):
    """Prevents: timm's wrapper, which keeps its own number of classes unless it is told another."""
    build(family).save_pretrained(tmp_path)
    if family == "resnet":
        ViTImageProcessor(size={"height": 40, "width": 40}, image_mean=[0.1] * 3).save_pretrained(tmp_path)
    model, processor = load_box_classifier(str(tmp_path), "pretrained", list(CLASSES), size=64)
    assert model(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 20)
    assert model.config.id2label[19] == "tvmonitor"
    assert model.config.problem_type == "multi_label_classification"
    kept = dict(model.named_parameters())
    for name, parameter in build(family).named_parameters():
        if parameter.shape == kept[name].shape:
            assert torch.equal(kept[name], parameter), name


def test_difficult_objects_count_by_default():
    """Prevents: another set of objects in VOC's recipes than in the paper's code, which keeps the difficult ones."""
    assert VocSource().difficult and not CocoSource().difficult
