"""Names of others never steer the terminal or the page on which a command shows them."""

import json
import logging
import re
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import typer
from PIL import Image
from transformers import ViTImageProcessor

from hf_e2kd.cli import main
from hf_e2kd.cli.fidelity_table import as_table
from hf_e2kd.cli.output import echo, escaped_messages, require_folder
from hf_e2kd.cli.verification import as_checks
from hf_e2kd.fidelity import MetricValue
from hf_e2kd.fidelity.verify import verify
from tests.cards.records import image_record
from tests.models import build

STEERING = "\x1b[31mcat\x1b]0;title\x07\x9b2J\r"
RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
SIDES = ["--teacher", "teacher", "--student", "student"]
PROGRESS = re.compile(r"\r|\x1b\[A")
"""Movements of a progress bar's cursor."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model whose classes steer a terminal, and a photograph."""
    folder = tmp_path_factory.mktemp("place")
    model = build("vit", seed=1)
    model.config.id2label = {number: f"{STEERING}{number}" for number in model.config.id2label}
    model.config.label2id = {name: number for number, name in model.config.id2label.items()}
    model.save_pretrained(folder / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "vit")
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "a.png")
    return folder


@pytest.mark.parametrize("options", [(), ("--json",), ("--target", "dog")], ids=["text", "json", "error"])
def test_explain(place, tmp_path, capsys, options):
    """Prevents: a class that colours the terminal or renames its window: in a list, in JSON, in an error."""
    page = tmp_path / "out.html"
    with pytest.raises(SystemExit):
        main(["explain", str(place / "vit"), str(place / "a.png"), "--output", str(page), *options])
    printed = capsys.readouterr()
    assert r"\u001b[31mcat\u001b]0;title\u0007\u009b2J" in printed.out + printed.err
    assert not RAW.search(printed.out) and not RAW.search(PROGRESS.sub("", printed.err))
    if options == ("--json",):
        assert json.loads(printed.out)[0]["classes"][0]["class"].startswith(STEERING)
    if options != ("--target", "dog"):
        assert r"\u001b[31mcat" in page.read_text() and not RAW.search(page.read_text())


def test_records(capsys):
    """Prevents: a published record that steers the terminal of who verifies it."""
    figures = {f"accuracy{STEERING}": MetricValue(0.5), "worst_class_accuracy": MetricValue(0.1, detail=STEERING)}
    record = image_record(figures=figures, chance={STEERING: MetricValue(0.1)}, explainer={"name": STEERING})
    echo(as_table(replace(record, student=replace(record.student, id=STEERING))))
    echo(as_checks(verify(record, image_record())))
    printed = capsys.readouterr().out
    assert printed.count(r"\u001b[31mcat") > 4 and not RAW.search(printed)


def test_tracebacks(monkeypatch, capsys):
    """Prevents: an error's own text, shown with its traceback, that steers the terminal."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr("hf_e2kd.cli.app", lambda *_, **__: {}[STEERING])
    with pytest.raises(KeyError):
        main([])
    try:
        raise RuntimeError(STEERING)
    except RuntimeError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    printed = capsys.readouterr().err
    assert "Traceback (most recent call last):" in printed and r"\u001b[31mcat" in printed and not RAW.search(printed)


def test_warnings_and_logs(capsys):
    """Prevents: a warning that names a class as it is; escaping that outlasts the command."""
    logger, handler = logging.getLogger("hf_e2kd.test_output"), logging.StreamHandler()
    logger.addHandler(handler)
    try:
        with escaped_messages():
            logger.warning("No class %s of %s", ValueError(STEERING), {1})
            logger.warning("No class %s of %s", STEERING, {1})
            logger.warning(f"No class {STEERING}")
            reference_output = warnings.formatwarning(STEERING, UserWarning, "labels.py", 1)
        logger.warning("\x07")
    finally:
        logger.removeHandler(handler)
    printed = capsys.readouterr().err
    assert printed.count(r"\u001b[31mcat") == 3 and r"\u001b[31mcat" in reference_output
    assert RAW.findall(printed) == ["\x07"] and not RAW.search(reference_output)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("'{place}/a.png' is a folder", ["explain", "model", "b.png", "--output", "{place}/a.png"]),
        ("'{place}/file' is a file", ["fidelity", *SIDES, "--dataset", "data", "--output-dir", "{place}/file"]),
        ("'{place}/file' is a file", ["store", *SIDES[:2], "--dataset", "data", "{place}/file/store"]),
        ("'{place}/file' is a file", ["viewer", *SIDES, "--dataset", "data", "--report", "{place}/file"]),
        ("'{place}/file' is a file", ["viewer", *SIDES, "--export-space", "{place}/file"]),
        ("'{place}/file' is a file", ["gate", "record", "--require", "agreement>=.9", "--junit", "{place}/file/a.xml"]),
    ],
)
def test_what_can_not_be_written_is_said_first(tmp_path, capsys, message, arguments):
    """Prevents: hours of measuring whose result can't be written."""
    (tmp_path / "a.png").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        main([argument.replace("{place}", str(tmp_path)) for argument in arguments])
    assert ended.value.code == 2
    assert message.replace("{place}", str(tmp_path)) in capsys.readouterr().err.replace("\n", "")


def test_a_folder_without_the_right_to_write(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda place, mode: place != tmp_path)
    with pytest.raises(typer.BadParameter, match=f"nothing may be written in '{tmp_path}'"):
        require_folder(tmp_path / "new" / "record")
