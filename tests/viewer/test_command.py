"""`hf-e2kd viewer` as users call it: the report that it writes, and how it fails."""

import builtins
import json
import re

import datasets
import pytest
import yaml

from hf_e2kd.cli import main
from tests.models import CLASS_NAMES, build
from tests.text_models import build_text
from tests.tokenizers import STUDENT

from .pairs import photo, processor


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with models and data."""
    folder = tmp_path_factory.mktemp("place")
    for name, model in {"vit": build("vit", 1), "resnet": build("resnet", 2)}.items():
        model.save_pretrained(folder / name)
        processor().save_pretrained(folder / name)
    build_text("bert", 1, vocab_size=len(STUDENT)).save_pretrained(folder / "bert")
    STUDENT.save_pretrained(folder / "bert")
    for number in range(5):
        path = folder / "photos" / CLASS_NAMES[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(seed=number).save(path)
    path.write_bytes(path.read_bytes()[:99])
    datasets.Dataset.from_dict({"text": ["a warm film", "dull"]}).save_to_disk(folder / "texts")
    (folder / "own").mkdir()
    code = {"AutoConfig": "code.Config", "AutoModelForImageClassification": "code.ModelForImageClassification"}
    (folder / "own" / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": code}))
    (folder / "own" / "code.py").write_text("raise SystemExit('the code was run')")
    return folder


def run(*arguments):
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["viewer", *map(str, arguments)])
    return ended.value.code or 0


def test_a_report_of_images(place, tmp_path, capsys):
    """Prevents: a report without the samples that were asked for, in another order, or that a damaged file stops."""
    line = [
        "--teacher",
        place / "vit",
        "--student",
        place / "resnet",
        "--dataset",
        place / "photos",
    ]
    assert run(*line, "--samples", 5, "--explainer", "saliency", "--report", tmp_path / "report") == 0

    assert str(tmp_path / "report" / "index.html") in capsys.readouterr().out
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "photos, train" in page  # its only split
    assert page.count("Explainer: <b>saliency</b>") == 4 and str(place) not in page
    assert len(re.findall("<section", page)) == 4 and page.count("was left out: The image can&#x27;t be decoded") == 1
    assert set(re.findall("True class: <b>(.*?)</b>", page)) == set(CLASS_NAMES[:2])
    order = [
        ("✓ Same class" in section, float(re.search(r"similarity: <b>(\S+)</b>", section)[1]))
        for section in page.split("<section")[1:]
    ]
    assert order == sorted(order)


def test_a_report_of_texts(place, tmp_path):
    """Prevents: texts read as images, or a data set without labels refused."""
    line = ["--teacher", place / "bert", "--student", place / "bert", "--dataset", place / "texts", "--split", "train"]
    assert (
        run(*line, "--explainer", "integrated_gradients", "--explainer-options", '{"n_steps": 2}', "--report", tmp_path)
        == 0
    )
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.count("✓ Same class") == 2 and "True class" not in page and ">warm</span>" in page


def test_a_space(tmp_path, capsys):
    """Prevents: models that are downloaded to write three small files, or options that don't reach them."""
    pytest.importorskip("gradio")
    line = ["--teacher", "user/teacher", "--student", "user/student", "--explainer", "saliency"]
    assert run(*line, "--export-space", tmp_path / "space") == 0
    assert "hf upload USER/NAME" in capsys.readouterr().out
    assert yaml.safe_load((tmp_path / "space" / "README.md").read_text("utf-8").split("---\n")[1])["sdk"] == "gradio"
    assert "explainer='saliency'" in (tmp_path / "space" / "app.py").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--student", "{place}/bert"], "classifies images and the student"),
        (["--student", "{place}/own"], "--trust-remote-code"),
        (
            ["--student", "https://huggingface.co/user/student"],
            "is an address. Give the id alone, as in 'user/student'",
        ),
        (["--student", "{place}/none"], "doesn't exist"),
        (["--split", "test"], "no split 'test'. Its splits: train"),
        (["--image-column", "picture"], "no column 'picture'. Its columns: image, label"),
        (["--label-column", "lable"], "no column 'lable'. Its columns: image, label"),
        (["--image-column", "label"], "The column 'label' of '.*' holds ClassLabel.*, no images"),
        (["--explainer", "gradcma"], "Unknown explainer 'gradcma'. Available: "),
        (["--explainer", "bcos"], "is no B-cos network"),
        (["--explainer", "gradcam", "--explainer-options", '{{"layer": 1}}'], "don't fit the explainer 'gradcam'"),
    ],
)
def test_errors_are_one_line(place, tmp_path, capsys, options, message):
    """Prevents: a traceback, or a page that opens and can show nothing."""
    given = {
        "--teacher": "{place}/vit",
        "--student": "{place}/resnet",
        "--dataset": "{place}/photos",
        "--split": "train",
    }
    given |= {"--report": "{place}/report"}
    given |= dict(zip(options[::2], options[1::2], strict=True))
    assert run(*(part.format(place=place) for option in given.items() for part in option)) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("hf-e2kd: error: ") and re.search(message, error)
    assert not (place / "report").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--report", "report"], "--report needs --dataset"),
        (["--report", "report", "--export-space", "space"], "Give one of them"),
        (["--explainer-options", "{}"], "--explainer-options need --explainer"),
        (["--explainer", "gradcam", "--explainer-options", "[]"], "no JSON object"),
        (["--samples", 0], "--samples"),
    ],
)
def test_wrong_usage(capsys, options, message):
    """Prevents: models that are loaded before a mistake in the options is found."""
    assert run("--teacher", "user/a", "--student", "user/b", *options) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_without_gradio(monkeypatch, capsys):
    """Prevents: "No module named 'gradio'", after the models were loaded."""
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == "gradio":
            raise ModuleNotFoundError("No module named 'gradio'", name="gradio")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(__import__("sys").modules, "hf_e2kd.viewer.app", raising=False)
    monkeypatch.setattr(builtins, "__import__", absent)
    assert run("--teacher", "user/a", "--student", "user/b") == 1
    assert "pip install 'hf-e2kd[viewer]'" in capsys.readouterr().err
