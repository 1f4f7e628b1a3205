"""The sweeps of network dissection, tried out on generated concepts."""

import json
import sys

import dissection_sweeps
import numpy as np
import pytest
import torch
from _arms import parse_arm
from _concepts import find_concepts
from _generated import write_broden
from dissection_sweeps import SWEEPS, detector_table, find_layers, run_sweeps, sweep_figure
from PIL import Image

from hf_e2kd.data.concepts import Concept
from hf_e2kd.fidelity import Dissection
from tests.models import build


def run(monkeypatch, *options) -> dict:
    monkeypatch.setattr(sys, "argv", ["dissection_sweeps", *map(str, options)])
    return run_sweeps(dissection_sweeps.__doc__)


def test_smoke(monkeypatch, tmp_path, capsys):
    """A recipe that doesn't run, or whose counts aren't those of its dissections."""
    results = run(monkeypatch, "--smoke", "--use_cpu", "true", "--pictures", 1, "--output_dir", tmp_path)
    assert results["unseen_concepts"] == ["unseen"]
    assert len(results["rows"]) == 3 * 2 * 3 * 5  # runs, layers, quantiles, thresholds
    for row in results["rows"]:
        found = Dissection.load(tmp_path / "dissected" / f"{row['model']}-{row['run']}")
        counts = found.counts(row["iou_threshold"], layer=row["layer"], quantile=row["quantile"])
        assert vars(counts) == {name: row[name] for name in vars(counts)}
    assert json.loads((tmp_path / "dissection_sweeps.json").read_text())["rows"] == results["rows"]
    for name in ("sweeps.png", *(f"dissected/{run}/detectors-0.png" for run in ("narrow-0", "narrow-1", "wide-0"))):
        assert (tmp_path / name).stat().st_size > 1000
    assert detector_table(results["rows"], 0.95, 0.05) in capsys.readouterr().out


def test_sweeps_of_trainings_are_trained_once(monkeypatch, tmp_path):
    """Prevents: swept students without their accuracy or by each other's names, or trained anew by the next command."""
    options = ("--smoke", "--students", "KD:temperature=1", "AT+KD", "--pictures", 0, "--output_dir", tmp_path)
    results = run(monkeypatch, *options)
    swept = [row for row in results["rows"] if "accuracy" in row]
    assert {row["model"] for row in swept} == {"KD:temperature=1", "AT+KD"} and len(swept) == 2 * 2 * 3 * 5
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "models").rglob("*.safetensors")}
    assert len(kept) == 3
    assert run(monkeypatch, *options)["rows"] == results["rows"]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_every_sweep_can_be_read():
    """Prevents: a sweep of the paper with a student that no recipe knows."""
    for students in SWEEPS.values():
        assert [parse_arm(student).text for student in students] == students


ROWS = [
    {"model": "KD", "asked": "-1", "quantile": quantile, "iou_threshold": 0.05, "categories": {"object": total}}
    | {"total": total, "unique": 1, "single": 2}
    for quantile, total in ((0.99, 3), (0.99, 4), (0.995, 2))
]


def test_table_and_figure_show_means_of_runs():
    """Runs of one name that are shown one after the other, or only one of them."""
    assert detector_table(ROWS, 0.99, 0.05).splitlines()[-1] == "| KD | -1 | 2 | 3.5 | 1.0 | 2.0 | 3.5 |"
    line = sweep_figure(ROWS, 0.99, 0.05).axes[0].lines[0]
    assert line.get_xydata().tolist() == [[0.99, 3.5], [0.995, 2]]


@pytest.mark.parametrize("sweep", SWEEPS)
def test_models_of_a_sweep_can_be_told_apart(sweep, tmp_path):
    """Two models of one colour, or a legend that the picture cuts."""
    figure = sweep_figure(
        [row | {"model": name} for name in SWEEPS[sweep] for row in ROWS], 0.99, 0.05, tmp_path / "a.png"
    )
    assert len({line.get_color() for line in figure.axes[0].lines}) == len(SWEEPS[sweep])
    legend, whole = figure.legends[0].get_window_extent(), figure.bbox
    assert whole.x0 <= legend.x0 and legend.x1 <= whole.x1 and whole.y0 <= legend.y0


def test_layers_by_number_and_path():
    """Stages counted from the wrong end."""
    model = build("resnet")
    assert find_layers(model, ["-1", "0", "resnet.embedder"]) == [
        *("resnet.encoder.stages.1", "resnet.encoder.stages.0", "resnet.embedder")
    ]
    with pytest.raises(ValueError, match="ResNetForImageClassification has no stage -3, but .*: numbers from -2 to 1"):
        find_layers(model, ["-3"])


def test_concepts_of_cocos_form(tmp_path):
    """Images without a mask, and names by the wrong number."""
    content = {"images": [{"id": 7, "file_name": "7.jpg"}, {"id": 8, "file_name": "8.jpg"}]}
    content["semantic_classes"] = {"0": "unlabeled", "3": "sky"}
    (tmp_path / "instances.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match="no masks in 'semantic'"):
        find_concepts(str(tmp_path))
    (tmp_path / "semantic").mkdir()
    Image.fromarray(np.array([[0, 3]], np.uint8)).save(tmp_path / "semantic/000000000008.png")
    Image.new("RGB", (2, 1), "red").save(tmp_path / "8.jpg")
    images = find_concepts(str(tmp_path))
    assert (len(images), images.concepts) == (1, {1: Concept("sky", "semantic")})
    assert images.labels(0).planes.tolist() == [[[0, 1]]]
    content["images"][1]["file_name"] = "../8.jpg"
    (tmp_path / "instances.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match="instances.json names the file '../8.jpg', outside the folder"):
        find_concepts(str(tmp_path))


def test_pickled_weights_are_refused(monkeypatch, tmp_path):
    """Prevents: a model's file that can run code, which every other recipe refuses."""
    model = build("resnet")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path / "model")
    torch.save(model.state_dict(), tmp_path / "model" / "pytorch_model.bin")
    data = write_broden(tmp_path / "broden")
    with pytest.raises(ValueError, match="no weights in the safetensors format"):
        run(monkeypatch, "--concepts", data, "--models", f"a={tmp_path / 'model'}", "--output_dir", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "Give --concepts, and --models, --students or --sweeps"),
        (["--concepts", "x", "--models", "y"], "--models y has no name"),
        (["--concepts", "x", "--sweeps", "feature"], "Unknown sweep 'feature'. Available: alpha_temperature"),
        (["--concepts", "x", "--sweeps", "features"], "Give --dataset, or --smoke"),
    ],
)
def test_wrong_arguments_say_what_to_do(monkeypatch, capsys, options, message):
    """A traceback where a sentence would do."""
    with pytest.raises(SystemExit):
        run(monkeypatch, *options)
    assert message in capsys.readouterr().err
