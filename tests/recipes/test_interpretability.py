"""The recipes of interpretability measures, tried out on generated data; what they select and sum up, by hand."""

import copy
import json
import math

import diffroar
import entropy
import five_band
import pytest
import torch
from _arms import METHODS
from _evidence import runs_table
from _interpretability import TINY, Teacher, square_processor
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

from hf_e2kd.data.shapes import CLASSES
from hf_e2kd.experiments import keep_classes
from hf_e2kd.experiments.images import classifier_of


def test_five_bands_of_students(run, tmp_path):
    """Prevents: a student without figures, undefined ones in the file, or pictures that are missing."""
    results = run(five_band, "--smoke", "--students", "scratch", "e2KD", "--alpha", "0.7")
    students = results["summary"]["test"]
    assert list(students) == ["teacher", "scratch", "e²KD"]
    for figures in students.values():
        assert set(five_band.METRICS) <= set(figures)
        for name, figure in figures.items():
            if name == "samples_with_object":
                assert figure["mean"] == 18
            else:
                assert 0 <= figure["mean"] <= 1, name
    assert len({figures["object_auroc"]["mean"] for figures in students.values()}) == 3
    assert "NaN" not in (tmp_path / "results.json").read_text()
    assert {"radar.png", "saliency.png", "table.md"} <= {path.name for path in tmp_path.iterdir()}


def test_five_bands_of_a_teacher_that_was_trained_elsewhere(run, monkeypatch):
    """Prevents: a teacher shown images of the students' size, or its classes taken by the data's numbers."""
    own = classifier_of(TINY, list(CLASSES))
    teacher = copy.deepcopy(own)
    keep_classes(teacher, CLASSES[::-1])
    loaded = Teacher(teacher, square_processor(48))
    monkeypatch.setattr(five_band, "find_teachers", lambda options, *_: dict.fromkeys(options.teachers, loaded))
    seen, measure = {}, five_band.measure

    def measured(model, test, truth, options):
        seen[model] = test[0]["pixel_values"].shape[-1]
        found, maps = measure(model, test, truth, options)
        assert maps.shape == truth.shape
        if model is teacher:  # the same network, whose classes stand in another order, on the same images
            assert measure(own, test, truth, options)[0] == pytest.approx(found)
        return found, maps

    monkeypatch.setattr(five_band, "measure", measured)
    run(five_band, "--smoke", "--students", "KD")
    assert seen.pop(teacher) == 48 and list(seen.values()) == [32]


def test_pictures_of_five_bands_have_a_row_a_student(tmp_path):
    maps = {"scratch": torch.randn(10, 4, 4), "KD": torch.zeros(10, 4, 4)}
    figure = five_band.draw_saliency(torch.rand(10, 3, 4, 4), torch.zeros(20, 4, 4), maps, tmp_path / "rows.png")
    assert [axis.get_title() for axis in figure.axes[:10]] == list(CLASSES)
    assert [axis.get_ylabel() for axis in figure.axes[::10]] == ["image", "truth", "scratch", "KD"]


def test_entropies_of_students(run, tmp_path):
    results = run(entropy, "--smoke")
    students = results["summary"]["validation"]
    assert list(students) == ["scratch", "KD", "LS"]
    for figures in students.values():
        # Two of three classes are in one category.
        assert figures.get("entire_entropy", {"mean": 0})["mean"] <= math.log2(3) + 1e-6
        assert figures.get("category_entropy", {"mean": 0})["mean"] <= 1 + 1e-6
    assert json.loads((tmp_path / "results.json").read_text())["recipe"] == "entropy"
    assert (tmp_path / "entropy.png").is_file()
    # Models that were trained before have the same.
    models = [f"{name}={tmp_path / 'models' / name}-{{seed}}" for name in students]
    again = run(entropy, "--smoke", "--models", *models)
    assert "alpha" in results["options"] and not {"alpha", "arguments"} & {*again["options"], *again}
    for name in students:
        assert again["runs"][0][name]["validation"] == pytest.approx(results["runs"][0][name]["validation"])
    with pytest.raises(ValueError, match="has 3 classes, .* and the data 2"):
        entropy.outputs_of(str(tmp_path / "models" / "KD-42"), ["sole", "Sole"], None, None)


def test_tables_of_runs_have_spreads_and_paired_differences():
    """Prevents: counts with the places of shares, 10.5 written as 1.5, or differences of other seeds."""
    figures = {42: {"scratch": (0.5, 20), "KD": (0.25, 30)}, 43: {"scratch": (0.5, 21), "KD": (0.75, 32)}}
    runs = [
        {"seed": seed, **{name: {"test": {"accuracy": share, "total": count}} for name, (share, count) in own.items()}}
        for seed, own in figures.items()
    ]
    columns = {"accuracy": "accuracy", "total": "detectors"}
    rows = runs_table({"runs": runs}, "test", columns, "scratch", "total").splitlines()
    assert rows[0] == "| model | seeds | accuracy | detectors | detectors − scratch's |"
    assert rows[2:] == [
        "| scratch | 2 | .500 ± .000 | 20.5 ± .7 |  |",
        "| KD | 2 | .500 ± .354 | 31.0 ± 1.4 | +10.5 [+4.1, +16.9] |",
    ]


def test_entropies_of_many_students_have_their_names(tmp_path):
    """Prevents: names that are written over each other."""
    figures = {"entire_entropy": {"mean": 1.0, "std": 0.1}, "category_entropy": {"mean": 1.0, "std": 0.1}}
    axis = entropy.draw_entropies(dict.fromkeys(METHODS, figures), tmp_path / "entropy.png").axes[0]
    shown = [label.get_window_extent() for label in axis.get_yticklabels()]
    assert [label.get_text() for label in axis.get_yticklabels()] == list(METHODS)
    assert all(above.y0 >= below.y1 for above, below in zip(shown, shown[1:], strict=False))


def test_entropies_of_the_samples_that_all_get_right():
    """Prevents: students judged on different samples, and classes without a category in the means."""
    sure, unsure = torch.tensor([[9.0, -9.0, -9.0]] * 4), torch.tensor([[1.0, 1.0, -90.0]] * 4)
    unsure[0, 0] += 1e-3
    sure[1], unsure[1] = torch.tensor([0.0, 9.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])
    sure[3], unsure[3] = torch.tensor([0.0, 0.0, 9.0]), torch.tensor([0.0, 0.0, 9.0])
    labels, categories = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 0, -1])
    found = entropy.measure({"sure": sure, "unsure": unsure}, labels, categories, [0, 1], samples=10)
    # Sample 0 alone: of sample 1 one student is wrong, of 2 both are, and the class of 3 has no category.
    assert [figures["samples"] for figures in found.values()] == [1, 1]
    assert found["sure"]["category_entropy"] == pytest.approx(0, abs=1e-5)
    assert found["unsure"]["category_entropy"] == pytest.approx(1, abs=1e-5)
    assert found["unsure"]["pair_entropy"] == pytest.approx(1, abs=1e-5)
    assert (found["sure"]["accuracy"], found["unsure"]["accuracy"]) == (0.75, 0.5)


def test_diffroar_of_students_goes_on_where_it_was(run, tmp_path):
    """Prevents: models trained anew by each process, or figures of other fractions than those asked for."""
    options = ("--smoke", "--students", "scratch", "KD", "--seeds", "2")
    results = run(diffroar, *options)
    assert [run["seed"] for run in results["runs"]] == [42, 43]
    for each in results["runs"]:
        for model in ("scratch", "KD"):
            found = each[model]["test"]
            assert set(found) - {"cpu_seconds"} == {"accuracy", "diffroar", "bottom_0.5", "top_0.5", "diffroar_0.5"}
            assert found["diffroar"] == pytest.approx(found["bottom_0.5"] - found["top_0.5"])
    assert results["runs"][0]["KD"] != results["runs"][1]["KD"]
    table = (tmp_path / "table.md").read_text()
    assert "| scratch | 2 |" in table and "DiffROAR − scratch's" in table and "0.5 masked" in table
    assert {"diffroar.png", "loss_gradients.png", "table.md"} <= {path.name for path in tmp_path.iterdir()}
    runs = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json") if path.name != "results.json"}
    assert run(diffroar, *options)["runs"] == results["runs"]
    assert {path: path.stat().st_mtime_ns for path in runs} == runs
    with pytest.raises(SystemExit, match="1") as ended:
        run(diffroar, *options, "--learning_rate", "0.5")
    assert "other arguments" in str(ended.value.__cause__)


def test_as_many_images_as_are_asked_for(monkeypatch):
    """Prevents: the first images, which may be of one class, in the place of some drawn by the seed."""
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    rows = {"image": [PILImage.new("L", (4, 4), value) for value in range(20)], "label": [0] * 10 + [1] * 10}
    splits = {"train": Dataset.from_dict(rows, features=features), "test": Dataset.from_dict(rows, features=features)}
    monkeypatch.setitem(diffroar.LOADERS, "mnist", lambda folder: splits)
    options = diffroar.DiffRoarOptions(data="mnist", folder="x", train_images=8)
    found = diffroar.load_data(options, seed=0)
    assert len(found["train"]) == 8 and set(found["train"]["label"]) == {0, 1} and len(found["test"]) == 20


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (five_band, ["--students", "teacher"], "Unknown student 'teacher'. Available: scratch, LS, KD, AT"),
        (five_band, ["--test_images", "5"], "--test_images must be at least 10, not 5"),
        (five_band, ["--students", "KD", "KD"], "--students are one or more, each once"),
        (five_band, ["--students", "KD:beta=1"], "The student 'KD:beta=1' has 'beta=1'. Write NAME:setting=value"),
        (five_band, ["--students", "LS:smoothing=2"], "'smoothing=2', which must lie between 0 and 1"),
        (five_band, ["--alpha", "2"], "--alpha must lie between 0 and 1, not 2.0"),
        (five_band, ["--resume_from_checkpoint", "x"], "none of them is resumed"),
        (entropy, [], "Give --dataset, or --smoke"),
        (entropy, ["--dataset", "x", "--pair", "n02105505"], "--pair takes two or more classes"),
        (entropy, ["--dataset", "x", "--models", "models/KD"], "NAME=FOLDER or NAME=HUB_ID, not models/KD"),
        (entropy, ["--dataset", "x", "--models", "a=b", "a=c"], "--models names a model twice"),
        (diffroar, [], "Give --folder, or --smoke"),
        (diffroar, ["--folder", "x", "--fractions", "0", "0.5"], "--fractions lie between 0 and 1, each once, not [0."),
        (diffroar, ["--folder", "x", "--fractions", "0.5", "0.5"], "each once, not [0.5, 0.5]"),
        (diffroar, ["--folder", "nowhere", "--data", "mnist"], "There is no folder 'nowhere'"),
        (entropy, ["--dataset", "nowhere"], "nowhere"),
        (diffroar, ["--folder", "x", "--data", "imagenet"], "invalid choice: 'imagenet'"),
    ],
)
def test_wrong_arguments_say_what_to_do(module, options, message, run, capsys):
    with pytest.raises(SystemExit):
        run(module, *options)
    assert message in capsys.readouterr().err
