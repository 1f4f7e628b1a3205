"""Blind tests with people: the page names no model, and answers are counted for the model that was shown there."""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from hf_e2kd.viewer.blind_test import score_blind_test, write_blind_test
from tests.models import images

MAPS = {"KD": torch.full((6, 4, 4), -1.0), "e²KD": torch.ones(6, 4, 4)}


def key_of(folder):
    return json.loads((folder / "key.json").read_text(encoding="utf-8"))


def trials_of(page):
    return json.loads(re.search(r'id="trials">(.*)</script>', page.read_text(encoding="utf-8"))[1])


def test_page_shows_what_the_key_says_and_names_no_model(tmp_path):
    """Prevents: a side that the key calls otherwise, an order that gives a model away, a name in the page."""
    shown = images(6).clamp(0, 1)
    page = write_blind_test(tmp_path, shown, MAPS, reference=torch.zeros(6, 4, 4), seed=3)
    key, text = key_of(tmp_path), re.sub(r"base64,[^\"]+", "", page.read_text(encoding="utf-8"))
    assert not any(name in text for name in ("KD", "http", "%QUESTION%", "%PAGE%", "%TRIALS%"))
    assert "Which explanation is more like the first?" in text
    assert sorted(trial["image"] for trial in key["trials"]) == list(range(6))
    assert {trial["left"] for trial in key["trials"]} == set(MAPS)
    for trial, said in zip(trials_of(page), key["trials"], strict=True):
        for side in ("left", "right"):
            data = base64.b64decode(trial[side].partition(",")[2])
            red, _, blue = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).mean((0, 1))
            assert said[side] == ("e²KD" if red > blue else "KD")
        assert trial["reference"] != trial["left"]
    assert (
        page.read_text() == write_blind_test(tmp_path, shown, MAPS, reference=torch.zeros(6, 4, 4), seed=3).read_text()
    )


def test_answers_are_counted_by_model(tmp_path, capsys):
    """Prevents: a side counted for the other model, an undecided answer for one, answers to another page."""
    from hf_e2kd.cli import main

    write_blind_test(tmp_path, images(6).clamp(0, 1), MAPS, asked="e²KD", seed=1)
    key = key_of(tmp_path)
    assert key["question"] == "Which explanation is e²KD's?"
    right = ["left" if trial["left"] == "e²KD" else "right" for trial in key["trials"]]
    other = {"left": "right", "right": "left"}
    (tmp_path / "one.json").write_text(json.dumps({"page": key["page"], "answers": [*right[:5], None]}))
    rows = [f"{key['page']},{n},{side}" for n, side in enumerate([*right[:5], other[right[5]]])]
    (tmp_path / "two.csv").write_text("\n".join(["page,trial,answer", *rows]))
    found = score_blind_test(tmp_path, [tmp_path / "one.json", tmp_path / "two.csv"])
    assert found["chosen"] == {"KD": 1, "e²KD": 10}
    assert (found["people"], found["undecided"], found["model"]) == (2, 1, "e²KD")
    assert found["share"] == 10 / 11
    assert found["p"] == pytest.approx(2 * (1 + 11) / 2**11)  # 10 or 11 of 11, or 0 or 1
    assert found["interval"] == pytest.approx([0.6226, 0.9838], abs=1e-4)
    main_exit(main, "blind", str(tmp_path), str(tmp_path / "one.json"))
    assert json.loads(capsys.readouterr().out)["chosen"] == {"KD": 0, "e²KD": 5}
    (tmp_path / "other.json").write_text(json.dumps({"page": "0", "answers": right}))
    with pytest.raises(ValueError, match="holds 6 answers to the page 0, and the key is of .* with 6. Give the key"):
        score_blind_test(tmp_path, [tmp_path / "other.json"])
    rows = sorted(rows, key=lambda row: row.partition(",")[2][::-1])
    (tmp_path / "two.csv").write_text("\n".join(["page,trial,answer", *rows]))
    assert score_blind_test(tmp_path, [tmp_path / "two.csv"])["chosen"] == {"KD": 1, "e²KD": 5}
    with pytest.raises(ValueError, match="one.json is given twice"):
        score_blind_test(tmp_path, [tmp_path / "one.json", tmp_path / "." / "one.json"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.csv", "a,b\n1,2\n", "none.csv is no file of answers that the page made: KeyError"),
        ("picture.png", "\x89PNG", "picture.png is no file of answers that the page made: Unicode"),
        ("odd.json", '{"page": "%s", "answers": ["left", "Left", "middle", null, null, null]}', "'Left', 'middle'"),
    ],
)
def test_files_without_answers(name, text, message, tmp_path):
    """Prevents: an unreadable answer counted as undecided, and a message that names no file."""
    write_blind_test(tmp_path, images(6).clamp(0, 1), MAPS, asked="e²KD")
    (tmp_path / name).write_text(text.replace("%s", key_of(tmp_path)["page"]), encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        score_blind_test(tmp_path, [tmp_path / name])
    with pytest.raises(ValueError, match=f"{name} is no key of a blind test. Give the key.json"):
        score_blind_test(tmp_path / name, [tmp_path / name])


def main_exit(main, *line):
    with pytest.raises(SystemExit) as ended:
        main(line)
    assert not ended.value.code


def test_refusals(tmp_path):
    shown, one = images(6).clamp(0, 1), {"KD": MAPS["KD"]}
    with pytest.raises(ValueError, match="compares two models, not 1: KD"):
        write_blind_test(tmp_path, shown, one, asked="KD")
    with pytest.raises(ValueError, match="Give either `reference`, maps of the teacher, or `asked`, one of KD, e²KD"):
        write_blind_test(tmp_path, shown, MAPS)
    with pytest.raises(ValueError, match="of the 6 images, one or more; not so are {'e²KD': .2, 4, 4.}"):
        write_blind_test(tmp_path, shown, {**one, "e²KD": MAPS["e²KD"][:2]}, asked="KD")
    assert not list(tmp_path.iterdir())
