"""The recipe of XDistillation, tried out on the embedded digits; what its measures count, by hand."""

import json
import re

import pytest
import torch
import xdistillation
from transformers import AutoModelForImageClassification

from hf_e2kd.experiments.diffroar import LabelledImages


def test_every_student_from_the_teacher_to_the_table(monkeypatch, tmp_path):
    """Prevents: a student without figures, undefined ones in the file, a student that can't be loaded."""
    line = ["xdistillation", "--smoke", "--output_dir", str(tmp_path), "--disable_tqdm", "true", "--task_loss", "mse"]
    monkeypatch.setattr("sys.argv", line)
    results = xdistillation.run_xdistillation(xdistillation.__doc__)
    students = results["summary"]["test"]
    assert list(students) == ["teacher", *xdistillation.STUDENTS]
    assert students["teacher"]["autoencoder_mse"]["mean"] > 0
    sizes = {name: figures["parameters"]["mean"] for name, figures in students.items()}
    # The joint classifier reads 32×32 pixels for ten classes, and the small autoencoder of RGB images has 288 weights
    # more than that of grey ones.
    assert sizes["XDistillation"] == sizes["KD"] + 10 * 32 * 32 + 1_077 + 2 * 9 * 16
    for name in xdistillation.STUDENTS:
        assert {"accuracy", "agreement"} <= set(students[name])
    assert "NaN" not in (tmp_path / "results.json").read_text()
    assert json.loads((tmp_path / "results.json").read_text())["options"]["superpixels"] == 19
    assert {"explanations.png", "table.md"} <= {path.name for path in tmp_path.iterdir()}
    student = AutoModelForImageClassification.from_pretrained(tmp_path / "student")
    assert student.approximate_explanation(torch.rand(2, 3, 32, 32)).shape == (2, 32, 32)


def test_which_samples_count():
    """The MSE where both classify alike, the overlap where both are right."""
    images = LabelledImages(torch.zeros(3, 3, 1, 2), torch.tensor([0, 0, 0]))
    maps, other = torch.tensor([[[2.0, 1.0]]] * 3), torch.tensor([[[1.0, 2.0]], [[2.0, 3.0]], [[9.0, 9.0]]])
    taught = xdistillation.Explained(torch.eye(2)[[0, 1, 0]], {"shap": maps}, {"shap": maps[:, 0]})
    found = xdistillation.Explained(torch.eye(2)[[0, 1, 1]], {"shap": other}, {"shap": -maps[:, 0]})
    figures = xdistillation.measure(found, taught, images, torch.nn.Linear(1, 1))
    assert figures == {
        "accuracy": pytest.approx(1 / 3),
        "parameters": 2,
        "agreement": pytest.approx(2 / 3),
        "shap_mse": pytest.approx((1 + 2) / 2),  # of two samples
        "shap_error": pytest.approx(1.5 / 2.5),
        "shap_overlap": 0.0,  # of the first alone, whose signs differ
    }


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--data", "mnist"], "Give --folder, where the files of mnist lie"),
        (["--students", "LS"], "Unknown students .'LS'.. Available: baseline, KD, AT"),
        (["--alpha", "2"], "--alpha must lie between 0 and 1, not 2.0"),
        (["--background", "0"], "--background must be at least 1, not 0"),
    ],
)
def test_refusals(monkeypatch, capsys, option, message):
    monkeypatch.setattr("sys.argv", ["xdistillation", *option])
    with pytest.raises(SystemExit):
        xdistillation.run_xdistillation("")
    assert re.search(message, capsys.readouterr().err)
