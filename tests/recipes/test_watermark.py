"""Students on photographs with a watermark: its data, its refusals, and a trial run."""

import evidence_tables
import numpy as np
import pytest
import watermark
from _evidence import run_name
from _watermark import (
    GROUP_COLUMNS,
    REGIMES,
    arm_in,
    draw_marks,
    load_photographs,
    make_splits,
    two_groups,
    watermarked,
)
from datasets import ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from PIL import Image
from torchvision.transforms import v2

from hf_e2kd.data import MixingCollator
from hf_e2kd.data.image_files import png_cell

pytest.importorskip("imagenet_w", reason="the extra `watermark`")
SIDE = 24


@pytest.fixture(scope="module")
def photographs():
    """Grey photographs of four classes, whose brightness is their number; none is black."""
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["shirt", "hat", "skirt", "pants"])})

    def split(count):
        grey = [np.full((30, 40, 3), 40 + row, dtype=np.uint8) for row in range(count)]
        columns = {"image": [png_cell(each) for each in grey], "label": [row % 4 for row in range(count)]}
        return two_groups(Dataset.from_dict(columns, features=features), ["shirt"], ["pants", "skirt"])

    return DatasetDict({name: split(count) for name, count in {"train": 40, "validation": 8, "test": 24}.items()})


@pytest.fixture(scope="module")
def splits(photographs):
    """What students and teachers see, where the watermark always tells the class."""
    return make_splits(photographs, "test", correlation=1.0, shots=5, side=SIDE, teachers=["neutral", "shortcut"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished trial run: its folder and results."""
    folder = tmp_path_factory.mktemp("watermark")
    with pytest.MonkeyPatch.context() as patch:
        line = ["--smoke", "--output_dir", str(folder), "--disable_tqdm", "true", "--seeds", "1", "--shots", "6"]
        patch.setattr("sys.argv", ["watermark", *line, "--regimes", "short", "mixup", "--students", "KD", "e²KD"])
        return folder, watermark.run_watermark(watermark.__doc__)


def test_classes_become_two_groups(photographs):
    """Prevents: photographs of other classes, and a class that counts as the other group's."""
    train = photographs["train"]
    assert train.features["label"].names == ["shirt", "pants/skirt"]
    classes = np.array([(np.asarray(image)[0, 0, 0] - 40) % 4 for image in train["image"]])
    assert np.bincount(classes).tolist() == [10, 0, 10, 10]
    assert np.asarray(train["label"][:]).tolist() == (classes > 1).astype(int).tolist()


@pytest.mark.parametrize(("correlation", "expected"), [(0.0, 0.5), (0.6, 0.8), (0.95, 0.975), (1.0, 1.0)])
def test_marks_have_the_stated_correlation(correlation, expected):
    """Prevents: a shortcut that is right less often than said, or in one class alone."""
    labels = np.arange(20000) % 2
    marks = draw_marks(labels, correlation)
    for label in (0, 1):
        right = (marks == labels)[labels == label].mean()
        assert right == (1.0 if correlation == 1 else pytest.approx(expected, abs=0.015))
    assert (marks == draw_marks(labels, correlation)).all()


def test_watermark_is_drawn_alike_each_time(photographs):
    """Prevents: a watermark that moves between the splits or epochs, a mask beside it, pixels that change elsewhere."""
    rows = np.array([3, 3, 4])
    shown = watermarked(photographs["train"], rows, np.array([True, False, True]), SIDE)
    again = watermarked(photographs["train"], rows[:1], np.array([True]), SIDE)
    marked, plain = np.asarray(shown[0]["image"]).astype(int), np.asarray(shown[1]["image"]).astype(int)
    mask = np.asarray(shown[0]["mask"]) > 0
    assert (np.asarray(again[0]["image"]) == marked).all()
    changed = (marked != plain).any(2)
    assert changed.any() and not changed[~mask].any() and (marked >= plain).all()
    assert mask.sum() == mask.any(0).sum() * mask.any(1).sum() and mask.any(1).sum() <= SIDE // 4
    assert not np.asarray(shown[1]["mask"]).any()
    assert shown["watermark"][:] == [1, 0, 1]
    heights = [np.flatnonzero((np.asarray(shown[row]["mask"]) > 0).any(1))[0] for row in (0, 2)]
    assert heights[0] != heights[1]


def test_splits_in_and_out_of_distribution(splits):
    """Prevents: a test out of distribution in which the watermark says something, and students told where it is."""
    values = {name: [np.asarray(part[column][:]) for column in GROUP_COLUMNS] for name, part in splits.items()}
    for name in ("train", "shortcut", "id"):
        assert (values[name][0] == values[name][1]).all()
    labels, marks = values["ood"]
    assert np.bincount(2 * labels + marks).tolist() == [6, 6, 12, 12]
    assert np.bincount(values["train"][0]).tolist() == [5, 5]
    assert len(splits["neutral"]) == len(splits["shortcut"]) == 30
    assert 0 < np.mean(values["neutral"][0] == values["neutral"][1]) < 1
    assert [name for name, part in splits.items() if "mask" in part.column_names] == ["id", "ood"]


def test_every_student_is_measured_in_every_regime(finished):
    """Prevents: a regime without a student, figures of another one, mixed images where none are to be."""
    folder, results = finished
    assert [(row["regime"], row["student"]) for row in results["rows"]] == [
        ("short", "KD"),
        ("short", "e²KD"),
        ("mixup", "KD"),
        ("mixup", "e²KD"),
    ]
    for row in results["rows"]:
        assert set(watermark.TABLE) <= set(row)
        assert row["worst_group_accuracy"] <= row["accuracy_ood"]
        assert row["arm"]["mixup"] == (row["regime"] == "mixup")
    assert set(results["teachers"]) == {"neutral"} and "worst_group_accuracy" in results["teachers"]["neutral"]
    with Image.open(folder / "explanations.png") as picture:
        assert picture.width > 500
    table = (folder / "table.md").read_text(encoding="utf-8")
    assert evidence_tables.TABLES["watermark"](results, "mixup") in table and "agreement OOD − KD's" in table


def test_a_longer_command_goes_on(finished, monkeypatch, tmp_path):
    """Prevents: students that are trained twice, rows that get lost, results of other data that are mixed."""
    folder, results = finished
    line = ["watermark", "--smoke", "--output_dir", str(tmp_path), "--disable_tqdm", "true", "--seeds", "1"]
    given = ["--continue_from", str(folder / "results.json"), "--students", "KD", "--shots"]
    monkeypatch.setattr("sys.argv", [*line, *given, "6"])
    monkeypatch.setattr(watermark.WatermarkStudy, "run", None)  # nothing is left to train
    more = watermark.run_watermark(watermark.__doc__)
    assert more["rows"] == results["rows"] and set(more["teachers"]) == {"neutral"}
    monkeypatch.setattr("sys.argv", [*line, *given, "7"])
    with pytest.raises(ValueError, match="other options, arguments or another version"):
        watermark.run_watermark(watermark.__doc__)


def test_students_of_another_network(run, capsys, finished, tmp_path):
    """Prevents: a network that is named and not trained, and its figures among the small ResNet's."""
    network = tmp_path / "vit.json"
    sizes = '"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8'
    network.write_text(f'{{"model_type": "vit", "image_size": 32, "patch_size": 8, {sizes}}}')
    line = ["--smoke", "--seeds", "1", "--shots", "6", "--students", "KD", "--student", str(network)]
    results = run(watermark, *line)
    assert results["options"]["student"] == str(network)
    assert results["rows"][0]["parameters"] != finished[1]["rows"][0]["parameters"]
    with pytest.raises(SystemExit):
        run(watermark, *line, "--continue_from", str(finished[0] / "results.json"))
    assert "other options, arguments or another version" in capsys.readouterr().err


def test_regimes():
    """Prevents: regimes whose results are taken for one another's, and a length that isn't the stated one."""
    assert len({run_name("KD", arm_in(regime, "KD")) for regime in REGIMES}) == len(REGIMES) == 4
    assert arm_in("long", "e²KD").epochs == 5 and arm_in("long", "e²KD").mixup
    study = object.__new__(watermark.WatermarkStudy)
    assert study.collator(arm_in("short", "KD")) is None
    mixing = study.collator(arm_in("mixup", "KD"))
    assert isinstance(mixing, MixingCollator) and isinstance(mixing.mixing, v2.MixUp)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--regimes", "shorts"], "Did you mean 'short'"),
        (["--students", "e2KD"], "Unknown student 'e2KD'"),
        (["--correlation", "1.5"], "--correlation must lie between 0 and 1, not 1.5"),
        (["--shots", "-1"], "--shots can't be -1"),
    ],
)
def test_wrong_options_are_refused(run, capsys, option, message):
    """Prevents: hours of training before an option is found wrong."""
    with pytest.raises(SystemExit):
        run(watermark, "--smoke", *option)
    assert message in capsys.readouterr().err


def test_photographs_of_another_kind_are_refused(tmp_path):
    """Prevents: a class without a photograph, one in both groups, and a test on the training's photographs."""
    for split in ("train", "validation", "test"):
        for name in ("shirt", "pants"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / "a.png")
    with pytest.raises(ValueError, match="Did you mean 'shirt'"):
        load_photographs(str(tmp_path), ["shirts"], ["pants"])
    with pytest.raises(ValueError, match="'shirt' is named by --plain and by --marked"):
        load_photographs(str(tmp_path), ["shirt"], ["pants", "shirt"])
    (tmp_path / "validation").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="has no split 'validation'"):
        load_photographs(str(tmp_path), ["shirt"], ["pants"])


def test_the_extra_is_named(run, monkeypatch, capsys):
    """Prevents: a package that is found missing after the photographs were read."""
    monkeypatch.setattr(watermark, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        run(watermark, "--smoke")
    assert "pip install 'hf-e2kd[watermark]'" in capsys.readouterr().err
