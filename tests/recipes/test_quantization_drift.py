"""What quantisation does to explanations: figures by hand, the controls, and a trial run with ONNX Runtime."""

import json
import math
import sys

import pytest
import quantization_drift as drift
import torch
from _drift import REFERENCE, Row, drift_table, row_figures, sample_values
from transformers import ViTImageProcessor

from hf_e2kd import explain
from hf_e2kd.experiments.sources import Classifier
from hf_e2kd.explainers import Occlusion
from tests.models import build
from tests.text_models import build_text
from tests.tokenizers import tokenizer

CONTROL = "noise"


def row(odds: list[float], maps: list[list[float]]) -> Row:
    """Decisions between two classes by the odds of the first, with maps of one line."""
    logits = torch.tensor([[math.log(each), 0.0] for each in odds])
    about = {"quantised_share": 0.5, "cpu_ms_per_input": 2.0}
    return Row(logits, [torch.tensor([each]) for each in maps], about)


REFERENCE_ROW = row([3, 3, 3], [[3.0, 1.0, 0.0], [3.0, 1.0, 0.0], [0.0, 0.0, 0.0]])


def test_values_of_samples():
    """Prevents: a KL the wrong way round or in bits, alike samples by the class alone, an appended word that is
    compared, a map of zeros that counts."""
    own = row([1 / 3, 2, 1.5], [[0.0, 1.0, 3.0], [3.0, 0.0, 1.0, 9.0], [1.0, 0.0, 0.0]])
    values = sample_values(own, REFERENCE_ROW, small_kl=0.03)
    kl = [0.75 * math.log(0.75 / share) + 0.25 * math.log(0.25 / (1 - share)) for share in (0.25, 2 / 3, 0.6)]
    assert values["agreement"].tolist() == [0, 1, 1]
    torch.testing.assert_close(values["kl"], torch.tensor(kl))
    assert kl[1] < 0.03 < kl[2] and values["alike"].tolist() == [0, 1, 0]
    torch.testing.assert_close(values["spearman"], torch.tensor([-1, 0.5, math.nan]), equal_nan=True)
    torch.testing.assert_close(values["cosine"], torch.tensor([0.1, 0.9, math.nan]), equal_nan=True)
    torch.testing.assert_close(values["alike_cosine"], torch.tensor([math.nan, 0.9, math.nan]), equal_nan=True)


def test_figures_beside_a_control():
    """Prevents: a row of fewer samples beside a control's mean over all of them; a difference the wrong way round."""
    control = row([3, 3, 3], [[3.0, 1.0, 0.0], [3.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    quantised = row([3, 3], [[3.0, 0.0, 1.0], [3.0, 0.0, 1.0]])
    figures = {
        REFERENCE: row_figures(REFERENCE_ROW, REFERENCE_ROW, {}, 0.05, seed=0),
        CONTROL: row_figures(control, REFERENCE_ROW, {}, 0.05, seed=0),
        "int8": row_figures(quantised, REFERENCE_ROW, {CONTROL: control}, 0.05, seed=0),
    }
    assert figures["int8"]["samples"] == 2 and figures[CONTROL]["samples"] == 3
    assert figures["int8"]["figures"]["cosine"]["value"] == pytest.approx(0.9)
    assert figures[CONTROL]["figures"]["cosine"] == pytest.approx({"value": 0.95, "low": 0.9, "high": 1, "samples": 2})
    beside = figures["int8"]["beside"]
    assert list(beside) == [CONTROL] and figures[CONTROL]["beside"] == {}
    assert beside[CONTROL]["cosine"] == pytest.approx({"value": -0.05, "low": -0.1, "high": 0, "samples": 2})
    lines = drift_table({"controls": [CONTROL], "rows": figures}).splitlines()
    assert lines[0].endswith("| cosine, alike | beside noise |")
    assert [line.split(" | ")[:3] for line in lines[2:]] == [
        ["| float32", "3", "50 %"],
        ["| noise", "3", "control"],
        ["| int8", "2", "50 %"],
    ]
    assert lines[-1].endswith("| 0.900 [0.900, 0.900] | -0.050 [-0.100, +0.000] |")


def test_controls_change_the_input_a_little():
    """Prevents: noise of another strength or beyond what an image can show; a shift of the map's cell; lost full
    stops."""
    processor = ViTImageProcessor(size={"height": 64, "width": 64}, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    pixels = torch.zeros(4, 3, 64, 64)
    pixels[3] = 2.0  # white
    task = drift.Task(Classifier(build("resnet"), processor, False), pixels, pixels, Occlusion())
    noisy = task.controls(0)["noise, σ = 4/255"]
    assert noisy[:3].std() == pytest.approx(4 / 255 / 0.25, rel=0.02) and noisy.max() == 2.0
    columns = torch.arange(64.0).expand(1, 3, 64, 64)
    task.inputs = columns
    assert task.controls(0)["one pixel's shift"][0, 0, 0].tolist() == [0, *range(63)]
    task.inputs = ["A film"]
    assert task.controls(0) == {'" ." appended': ["A film ."]}


def test_texts_are_measured_in_their_order():
    """Prevents: maps of another sample, because texts are sorted by length; or of another class than is asked for."""
    words, texts = tokenizer("wordpiece"), ["a film , a film", "film", "the boring film", "the"]
    model = build_text("bert", vocab_size=len(words))
    task = drift.Task(Classifier(model, words, True), texts, texts, Occlusion())
    target = torch.tensor([2, 0, 1, 0])
    found = drift.measure(task, model, texts, target)
    for number, text in enumerate(texts):
        alone = explain(model, [text], "occlusion", target=target[number : number + 1], processing_class=words)
        torch.testing.assert_close(found.maps[number], alone.maps, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.logits[number], alone.logits[0], atol=1e-5, rtol=1e-4)
    assert found.about["precision"] == "float32" and found.about["quantised_share"] == 0


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the recipe in this process as its command line does; its results go to `tmp_path`."""

    def run_recipe(*options):
        monkeypatch.setattr(sys, "argv", ["quantization_drift", "--output_dir", str(tmp_path), *options])
        return drift.run_drift(drift.__doc__)

    return run_recipe


def test_trial_run(run, monkeypatch, tmp_path, capsys):
    """Prevents: a row that isn't quantised, an interrupted run that begins anew or goes on with other options, a table
    that can't be made again."""
    for package in ("onnxscript", "onnxruntime", "torchao"):
        pytest.importorskip(package)
    first = run("--smoke", "--rows", "torchao int8")
    assert list(first["rows"])[3:] == ["torchao int8 weights"]
    results = run("--smoke")
    controls = ["noise, σ = 4/255", "one pixel's shift"]
    assert results["controls"] == controls and list(results["rows"])[:3] == [REFERENCE, *controls]
    quantised = {name: each for name, each in results["rows"].items() if name not in (REFERENCE, *controls)}
    assert {name: each["samples"] for name, each in quantised.items()} == {
        "static int8, per tensor": 6,
        "static int8, per channel": 6,
        "dynamic int8": 4,
        "dynamic int8, per channel, reduce_range": 4,
        "torchao int8 weights": 6,
        "torchao int4 weights": 6,
    }
    for name, each in quantised.items():
        assert "int8" in each["precision"].lower() and each["quantised_share"] > 0, name
        assert each["figures"]["cosine"]["value"] < 1, name
    assert str(tmp_path) not in (tmp_path / "results.json").read_text(encoding="utf-8")
    assert {"drift.png", "results.json", "table.md"} <= {path.name for path in tmp_path.iterdir()}
    table = (tmp_path / "table.md").read_text(encoding="utf-8")

    monkeypatch.setattr(drift, "measure", lambda *_: pytest.fail("a row is measured again"))
    assert run("--smoke") == results
    with pytest.raises(ValueError, match="no quantised row 'int3…'. Available: static int8, per tensor; "):
        run("--smoke", "--rows", "int3")
    with pytest.raises(ValueError, match="another run \\(other seed\\)"):
        run("--smoke", "--seed", "1")
    with monkeypatch.context() as patch:
        patch.setattr(drift, "weights_digest", lambda model: "those of a namesake")
        with pytest.raises(ValueError, match="another run \\(other weights\\)"):
            run("--smoke")
    again = tmp_path / "again"
    assert run("--show", str(tmp_path / "results.json"), "--output_dir", str(again)) == json.loads(json.dumps(results))
    assert (again / "table.md").read_text(encoding="utf-8") == table and (again / "drift.png").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--model and --dataset"),
        (("--smoke", "--grid", "1"), "--grid"),
        (("--show", "none.json"), "there is no file 'none.json'"),
        (("--smoke",), "pip install 'hf-e2kd[quantization]'"),
    ],
)
def test_options_are_read_before_anything_is_loaded(options, message, run, monkeypatch, capsys):
    """Prevents: models that are loaded for nothing, or a package that is missed after them."""
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(SystemExit):
        run(*options)
    assert message in capsys.readouterr().err
