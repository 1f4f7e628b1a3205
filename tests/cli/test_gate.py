"""`hf-e2kd gate` and `hf-e2kd fidelity --require` as a pipeline calls them: exit codes, lines and JUnit XML."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from hf_e2kd.cli import main
from hf_e2kd.fidelity import MetricValue
from tests.cards.records import image_record


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a record: agreement .931 [.911, .951], .041 negative flips, a worst class without an interval."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "student").mkdir()
    image_record().save("student")
    return tmp_path


def run(*given):
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(each) for each in given])
    return ended.value.code or 0


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (["--require", "agreement>=.911", "negative_flips<=.051"], 0),
        (["--require", "agreement>=.911", "--require", "negative_flips<=.051"], 0),
        (["--require", "agreement>=.93"], 3),
        (["--require", "agreement>=.911", "agreement>=.93"], 3),
        (["--require", "agreement>=.93", "--on", "value"], 0),
        (["--require", "worst_class_accuracy>=.5"], 3),
        (["--require", "worst_class_accuracy>=.5", "--on", "value"], 0),
        (["--require", "accuracy/outdoors>=.8"], 0),
        (["--baseline", "student"], 0),
        (["--baseline", "student/fidelity.json", "--require", "agreement>=.93"], 3),
        (["--require", "agreemnt>=.9"], 1),
        (["--require", "agreement"], 1),
        (["--baseline", "nothing.json"], 1),
        (["agreement>=.9"], 2),
        ([], 2),
        (["--junit", "gate.xml"], 2),
        (["--require", "agreement>=.9", "--junit", "student"], 2),
        (["--require", "agreement>=.9", "--junit", "new/gate.xml"], 0),
    ],
)
def test_exit_codes(place, given, code):
    """Prevents: a pipeline that publishes a student which falls short, or one that nothing was asked of."""
    assert run("gate", "student", *given) == code
    assert run("gate", "student/fidelity.json", *given) == code


def test_a_line_for_each_requirement(place, capsys):
    """Prevents: a failed gate that doesn't say which figure fell short, and by how much."""
    assert run("gate", "student", "--require", "agreement>=.95", "worst_group_accuracy>=.7") == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "FAILS  agreement >= 0.95            0.9310 [0.9110, 0.9510]",
        "passes worst_group_accuracy >= 0.7  0.8610 [0.8210, 0.9010] (outdoors)",
    ]
    assert run("gate", "student", "--require", "agreement>=.95", "--json") == 3
    (verdict,) = json.loads(capsys.readouterr().out)
    assert (verdict["passes"], verdict["tested"], verdict["figure"]["value"]) == (False, 0.911, 0.931)


def test_an_earlier_record_of_other_samples(place, capsys):
    """Prevents: figures of other photographs compared without a word; a figure that fell and isn't named."""
    record = image_record()
    figures = {**record.figures, "agreement": MetricValue(0.99, 0.98, 1.0, 1000)}
    record = replace(record, data=replace(record.data, fingerprint="sha256:a"))
    record.save("student")
    replace(record, figures=figures, data=replace(record.data, fingerprint="sha256:b")).save(place)
    assert run("gate", "student", "--baseline", ".") == 3
    printed = capsys.readouterr()
    assert "of other samples" in printed.err and "FAILS  agreement >= 0.98" in printed.out
    assert printed.out.count("FAILS") == 1


def test_junit(place):
    """Prevents: a file that a pipeline can't read, through a class's control characters, or that counts nothing."""
    worst = MetricValue(0.1, 0.0, 0.2, 10, detail="\x1b[31m<cat>&\x07")
    replace(image_record(), figures={**image_record().figures, "worst_group_accuracy": worst}).save("student")
    asked = ("--require", "agreement>=.9", "worst_group_accuracy>=.7", "--baseline", "student")
    assert run("gate", "student", *asked, "--junit", "gate.xml") == 3
    suite = ElementTree.parse("gate.xml").getroot()
    cases = suite.findall("testcase")
    assert int(suite.get("tests")) == len(cases) == 25 and suite.get("failures") == "1"
    assert int(suite.get("skipped")) == len(suite.findall("testcase/skipped")) == 2
    names = {case.get("name") for case in cases}  # of these, lower values are the better ones
    assert {"deletion <= 0.301", "deletion/integrated_gradients <= 0.246", "negative_flips/outdoors <= 0.075"} <= names
    (failed,) = [case for case in cases if case.find("failure") is not None]
    assert failed.get("name") == "worst_group_accuracy >= 0.7" and failed.get("classname") == "me/pets-resnet18"
    assert failed.find("failure").get("message") == r"0.1000 [0.0000, 0.2000] (\u001b[31m<cat>&\u0007)"
