"""The study of few images a class, tried out on the embedded digits; its tables, and its results that aren't mixed."""

import json
import shutil
from dataclasses import replace

import evidence_tables
import limited_data
import numpy as np
import pytest
from _common import unlabelled_images
from _evidence import cell, joined_runs, paired_table
from _generated import write_sun397
from _limited_arms import STUDIES
from _limited_data import SETTINGS, Study, divide
from datasets import Dataset
from torchvision.transforms import v2
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_e2kd import ExplanationDistillArguments
from hf_e2kd.terms import available_explanation_losses

STUDENTS = ["--students", "labels", "KD", "e²KD", "e²KD, frozen"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished trial run: its folder and results."""
    folder = tmp_path_factory.mktemp("limited_data")
    with pytest.MonkeyPatch.context() as patch:
        line = ["--smoke", "--output_dir", str(folder), "--disable_tqdm", "true", "--seeds", "1", *STUDENTS]
        further = ["--held_out_images", "2", "--held_out_students", "KD"]
        patch.setattr("sys.argv", ["limited_data", *line, *further, "--studies", "methods", "frozen"])
        return folder, limited_data.run_limited_data(limited_data.__doc__)


def test_every_student_is_measured_alike(finished):
    """Prevents: a student without figures, held-out figures of students that weren't asked for."""
    folder, results = finished
    rows = {row["student"]: row for row in results["rows"]}
    assert list(rows) == ["labels", "KD", "e²KD", "e²KD, frozen"]
    for row in rows.values():
        assert {"accuracy", "agreement", "explanation_similarity", "training_cpu_seconds"} <= set(row)
    assert {"integrated_gradients", "occlusion", "deletion", "insertion"} <= set(rows["KD"])
    assert "occlusion" not in rows["e²KD"]
    assert rows["KD"]["arm"]["arguments"] == {"explanation_weight": 0.0}
    assert results["arguments"]["explanation_weight"] == 5.0
    assert results["teacher"]["parameters"] > rows["KD"]["parameters"]
    table = (folder / "table.md").read_text(encoding="utf-8")
    assert table.count("| KD | 1 |") == 3 and "agreement − KD's" in table
    assert table.splitlines()[-1].startswith("| KD | 1 |") and "| occlusion |" in table  # by held-out explainers


def test_a_longer_study_goes_on(finished, monkeypatch, tmp_path):
    """Prevents: students that are trained twice, results of other options that are mixed, rows that get lost."""
    folder, results = finished
    line = ["limited_data", "--smoke", "--output_dir", str(tmp_path), "--disable_tqdm", "true", "--seeds", "1"]
    given = ["--continue_from", str(folder / "results.json"), "--studies", "weight", "--students", "KD", "e²KD, λ = 1"]
    shutil.copytree(folder / "teacher", tmp_path / "teacher")
    trained, run = [], Study.run
    monkeypatch.setattr(Study, "run", lambda self, arm, *rest: trained.append(arm) or run(self, arm, *rest))
    monkeypatch.setattr("sys.argv", [*line, *given])
    more = limited_data.run_limited_data(limited_data.__doc__)
    assert trained == [STUDIES["weight"]["e²KD, λ = 1"]]
    assert [row["student"] for row in more["rows"]] == ["KD", "e²KD, λ = 1", "labels", "e²KD", "e²KD, frozen"]
    assert more["rows"][0] == results["rows"][1]
    # Where the students lie, without those that they were measured by before.
    for part in ("runs", "students"):
        shutil.copytree(folder / part, tmp_path / part, dirs_exist_ok=True)
    monkeypatch.setattr("sys.argv", [*line, *given])
    assert limited_data.run_limited_data(limited_data.__doc__)["rows"][0] == results["rows"][1]
    monkeypatch.setattr("sys.argv", [*line, *given, "--explanation_weight", "2"])
    with pytest.raises(ValueError, match="other options, arguments or another version"):
        limited_data.run_limited_data(limited_data.__doc__)
    # Figures are taken over without the weights that a further measure needs.
    shutil.rmtree(tmp_path / "students")
    monkeypatch.setattr("sys.argv", [*line, *given[:2], "--students", "e²KD", "--held_out_images", "2"])
    with pytest.raises(ValueError, match="lacks e_KD-.*Copy these folders there"):
        limited_data.run_limited_data(limited_data.__doc__)


def test_students_of_another_kind_on_unrelated_images(run, tmp_path):
    """Prevents: the data's own images where others are named, labels of these, a student that can't be loaded alone."""
    photos = write_sun397(tmp_path / "photos", per_class=2)
    network = {"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    (tmp_path / "vit.json").write_text(json.dumps({**network, "image_size": 32, "patch_size": 8}))
    given = ["--train_images", str(photos), str(photos), "--student", str(tmp_path / "vit.json")]
    results = run(limited_data, "--smoke", *given, "--students", "KD", "--seeds", "1")
    assert [row["student"] for row in results["rows"]] == ["KD"]
    assert results["options"]["train_images"] == [f"{tmp_path.name}/photos"] * 2
    (folder,) = (tmp_path / "students").iterdir()
    assert AutoModelForImageClassification.from_pretrained(folder).config.model_type == "vit"
    assert AutoImageProcessor.from_pretrained(folder).size["height"] == 32


def test_unrelated_images_are_cropped_and_have_no_labels(tmp_path):
    """Prevents: images of any size that are shifted by a few pixels, or a label that belongs to other classes."""
    images = unlabelled_images([str(write_sun397(tmp_path / "a")), str(write_sun397(tmp_path / "b"))])
    assert images.column_names == ["image"] and len(images) == 24
    splits = limited_data.smoke_splits()
    splits["train"] = images
    study = Study(SETTINGS["cifar10"], splits, ExplanationDistillArguments("unused"), tmp_path, None, "test", True)
    shown = study.shown("train", augmented=True)
    assert set(shown[0]) == {"pixel_values"} and shown[0]["pixel_values"].shape == (3, 32, 32)
    assert isinstance(shown.format["format_kwargs"]["transform"].augmentation.transforms[0], v2.RandomResizedCrop)


def test_larger_images_are_made_for_a_live_teacher_alone(tmp_path):
    """Prevents: a training by stored outputs that enlarges each image for a teacher that never looks at it."""
    setting = replace(SETTINGS["cifar10"], teacher_size=48)
    splits = limited_data.smoke_splits()
    study = Study(setting, splits, ExplanationDistillArguments("unused"), tmp_path, None, "test")
    frozen = study.shown("train", augmented=True, frozen=True, live=False)[0]
    assert set(frozen) == {"pixel_values", "view_matrix", "labels"} and frozen["pixel_values"].shape == (3, 32, 32)
    assert study.shown("train")[0]["teacher_pixel_values"].shape == (3, 48, 48)


def test_students_of_another_teacher_are_not_mixed(finished, run, tmp_path):
    """Prevents: the figures of one teacher's students given out as those of another's, which takes its folder."""
    teacher = tmp_path / "teacher.folder"
    shutil.copytree(finished[0] / "teacher", teacher)
    line = ["--smoke", "--seeds", "1", "--students", "KD", "--teacher", str(teacher)]
    run(limited_data, *line)
    model = AutoModelForImageClassification.from_pretrained(teacher)
    model.classifier.weight.data.mul_(2)
    model.save_pretrained(teacher)
    with pytest.raises(SystemExit) as ended:
        run(limited_data, *line)
    assert "other arguments" in str(ended.value.__cause__)
    (tmp_path / "results.json").rename(tmp_path / "earlier.json")
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(SystemExit) as ended:
        run(limited_data, *line, "--continue_from", str(tmp_path / "earlier.json"))
    assert "holds students of another teacher" in str(ended.value.__cause__)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--train_images", "photos", "--students", "KD", "AT"], "'AT' learns from labels"),
        (["--studies", "method"], "Did you mean 'methods'"),
        (["--students", "e2KD"], "Unknown student 'e2KD'"),
        (["--seeds", "1", "--shots", "0"], "--shots can't be 0"),
        (["--students", "AT", "--studies", "weight"], "Give --studies whose --students"),
    ],
)
def test_wrong_options_are_refused(run, capsys, option, message):
    """Prevents: hours of training before an option is found wrong."""
    with pytest.raises(SystemExit):
        run(limited_data, "--smoke", *option)
    assert message in capsys.readouterr().err


def test_a_length_in_steps_is_refused(monkeypatch, tmp_path):
    """Prevents: trainings of one length, by `--max_steps`, under the headings of several."""
    line = ["--folder", str(tmp_path), "--studies", "length", "--max_steps", "5", "--output_dir", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["limited_data", *line])
    with pytest.raises(ValueError, match="Leave --max_steps out"):
        limited_data.run_limited_data(limited_data.__doc__)


def test_images_are_divided_by_class():
    """Prevents: an image that is both trained and validated on, and shots that differ by class."""
    data = Dataset.from_dict({"image": list(range(60)), "label": [row % 3 for row in range(60)]})
    parts = divide(data, data.select(range(6)), 4, 5)
    rows = {name: set(part["image"]) for name, part in parts.items()}
    assert not rows["validation"] & rows["all"] and rows["train"] < rows["all"]
    assert np.bincount(parts["train"]["label"]).tolist() == [4] * 3
    assert np.bincount(parts["validation"]["label"]).tolist() == [5] * 3


def test_every_loss_between_maps_is_compared():
    """Prevents: a study of the losses that a new one isn't part of."""
    compared = {arm.arguments.get("explanation_loss", "cosine") for arm in STUDIES["loss"].values()}
    assert compared == set(available_explanation_losses())


def test_table_of_means_and_paired_differences():
    """Prevents: a difference between the means of other seeds, and an interval of another distribution."""
    rows = [
        {"student": "KD", "seed": 1, "agreement": 0.5},
        {"student": "KD", "seed": 2, "agreement": 0.6},
        {"student": "KD", "seed": 3, "agreement": 0.9},
        {"student": "e²KD", "seed": 1, "agreement": 0.6},
        {"student": "e²KD", "seed": 2, "agreement": 0.8},
    ]
    table = paired_table(rows, {"agreement": "agreement", "other": "x"}, "KD", "agreement", {"agreement": 1.0})
    assert table.splitlines() == [
        "| student | seeds | agreement | agreement − KD's |",
        "|---|---|---|---|",
        "| teacher |  | 1.000 |  |",
        "| KD | 3 | .667 ± .208 |  |",
        # Student's t with one degree of freedom: 12.706 · (.1 / √2) / √2.
        "| e²KD | 2 | .700 ± .141 | +.150 [−.485, +.785] |",
    ]


def test_the_pages_hold_the_results_tables(tmp_path):
    """Prevents: a figure that was typed, or that stayed when the results were made anew."""
    for path in evidence_tables.PAGES:
        page = path.read_text(encoding="utf-8")
        assert evidence_tables.with_tables(page, evidence_tables.RESULTS) == page
    results = {"recipe": "limited_data", "teacher": {}, "rows": [{"student": "KD", "seed": 1, "agreement": 0.5}]}
    (tmp_path / "some.json").write_text(json.dumps(results))
    made = evidence_tables.with_tables("Before.\n\n<!-- some weight -->\nold\n<!-- end -->\nAfter.", tmp_path)
    assert "old" not in made and "| KD | 1 | .500 |" in made and made.endswith("<!-- end -->\nAfter.")
    with pytest.raises(FileNotFoundError, match="other.json', of which '<!-- other weight -->' is"):
        evidence_tables.with_tables("<!-- other weight -->\n<!-- end -->", tmp_path)


def test_a_table_of_several_commands(tmp_path):
    """Prevents: models of several files under one name, or compared with another seed's."""
    shared = {"recipe": "guide_coco", "options": {"layer": None, "annotated": 1.0, "dilation": 0.0}}
    for name, loss, weight, layer, runs in (
        ("guide", "energy", 0.5, None, [{"baseline": 0.25, "guided": 0.5}, {"baseline": 0.5, "guided": 0.5}]),
        ("guide_mid", "l1", 0.25, "mid", [{"guided": 0.75}, {"guided": 1.0}]),
        ("guide_none", "energy", 0.0, "mid", [{"guided": 0.25}]),
    ):
        content = {
            **shared,
            "options": {**shared["options"], "guidance_loss": loss, "layer": layer},
            "arguments": {"explanation_weight": weight},
            "runs": [
                {"seed": seed, **{model: {"test": {"energy_pointing_game": epg}} for model, epg in run.items()}}
                for seed, run in enumerate(runs)
            ],
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    rows = evidence_tables.with_tables("<!-- guide* test -->\n<!-- end -->", tmp_path).splitlines()[4:8]
    assert [row.split(" | ")[0] for row in rows] == [
        *("| unguided", "| energy, λ = 0.5", "| l1, λ = 0.25, mid layer", "| unguided, mid layer"),
    ]
    assert rows[1].endswith("| +.125 [−1.463, +1.713] |") and rows[2].startswith("| l1, λ = 0.25, mid layer | 2 | .875")
    assert rows[3].endswith("| +.000 |")


def test_models_of_several_files_are_joined_by_seed():
    """Prevents: a later run's model beside another seed's, or in the place of the table's own."""
    files = [
        {"recipe": "a", "runs": [{"seed": 2, "KD": "own"}, {"seed": 1, "KD": "own"}]},
        {"recipe": "a", "runs": [{"seed": 1, "teacher": "again", "KD": "other", "SSKD": "further"}]},
    ]
    assert joined_runs(files) == {
        "recipe": "a",
        "runs": [{"seed": 1, "KD": "own", "SSKD": "further"}, {"seed": 2, "KD": "own"}],
    }


def test_counts_that_are_the_same_in_all_runs_have_no_spread():
    assert cell([7598.0, 7598.0], 0) == "7,598" and cell([1.0, 3.0], 0) == "2 ± 1" and cell([0.5, 0.5]) == ".500 ± .000"
