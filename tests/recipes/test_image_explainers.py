"""The table of image explainers: its rows on made-up images, and a second call that goes on from the first."""

import sys
from importlib import util
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "recipes" / "benchmarks" / "image_explainers.py"


@pytest.fixture
def recipe(monkeypatch):
    spec = util.spec_from_file_location("image_explainers", FILE)
    module = util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # its data classes look themselves up there
    spec.loader.exec_module(module)
    return module


def test_smoke(recipe, monkeypatch, tmp_path):
    """Prevents: a row that fails or is measured twice or otherwise, and maps beside other images' boxes."""
    options = ["--smoke", "--epochs", "1", "--samples", "4", "--steps", "2", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["image_explainers", *options])
    results = recipe.main()
    written = (tmp_path / "EXPLAINERS_IMAGES.md").read_text(encoding="utf-8")
    of_teacher = results["networks"]["MobileNetV3"]["rows"]
    assert of_teacher["hires_cam"]["energy"] == pytest.approx(of_teacher["gradcam"]["energy"], abs=1e-4)
    assert results["networks"]["MobileNetV3"]["box"] == 0.25
    assert list(results["networks"]["ViT"]["rows"]) == list(recipe.OF_A_VIT)
    assert all(f"| {row} |" in written for row in recipe.OF_A_VIT)

    monkeypatch.setattr(recipe, "measure", None)  # a second call would fail if it measured
    assert recipe.main() == results
    monkeypatch.setattr(sys, "argv", ["image_explainers", *options, "--samples", "3"])
    with pytest.raises(ValueError, match="give the same or another --output"):
        recipe.main()


def test_files_are_asked_for(recipe, monkeypatch, capsys):
    """Prevents: an error from deep inside where no data are given."""
    monkeypatch.setattr(sys, "argv", ["image_explainers"])
    with pytest.raises(SystemExit):
        recipe.main()
    assert "Give --teacher, --dataset, or --smoke" in capsys.readouterr().err
