"""The price list of text explainers: its tables on made-up texts, a second call that goes on, and the choice of λ."""

import json
from unittest.mock import Mock

import _explainers_text as texts
import explainers
import pytest
from transformers.utils import logging


@pytest.fixture(scope="module", autouse=True)
def verbosity():
    """Bring back the warnings, which the benchmark silences and other tests read."""
    level = logging.get_verbosity()
    yield
    logging.set_verbosity(level)


@pytest.fixture(scope="module")
def smoke(verbosity, tmp_path_factory):
    """Run `--smoke`; figures, folder, and the tokens of each training's steps."""
    folder, trainings = tmp_path_factory.mktemp("explainers"), []
    train, step = texts.SameBatches.train, texts.SameBatches.training_step

    def recorded_train(trainer):
        trainings.append([])
        return train(trainer)

    def recorded_step(trainer, model, inputs, *rest):
        trainings[-1].append(inputs["input_ids"].tolist())
        return step(trainer, model, inputs, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts.SameBatches, "train", recorded_train)
        patch.setattr(texts.SameBatches, "training_step", recorded_step)
        results = explainers.main(["--smoke", "--output_dir", str(folder)])
    return results, folder, trainings


def test_students_of_a_seed_see_the_same_batches(smoke):
    """Prevents: differences to plain distillation that are the batches'."""
    results, _, trainings = smoke
    steps = dict(zip([name for name in results if name.startswith(("search/", "student/"))], trainings, strict=True))
    assert len(steps["student/KD/0"]) == 4
    for kind in ("search/{}", "student/{}/0", "student/{}/1"):
        weighted = "lrp, last layer/0.1" if kind.startswith("search") else "lrp, last layer"
        assert steps[kind.format("KD")] == steps[kind.format(weighted)]
    assert steps["student/KD/0"] != steps["student/KD/1"]


def test_tables(smoke):
    """Prevents: differences that aren't taken seed by seed, figures in another column, or paths of this machine."""
    results, folder, _ = smoke
    pairs = [(results[f"student/lrp, last layer/{seed}"], results[f"student/KD/{seed}"]) for seed in (0, 1)]
    similarity = [own["lrp"]["explanation_similarity"] - plain["lrp"]["explanation_similarity"] for own, plain in pairs]
    mean, spread = sum(similarity) / 2, abs(similarity[0] - similarity[1]) / 2**0.5
    written = (folder / "EXPLAINERS.md").read_text(encoding="utf-8")
    row = next(line for line in written.splitlines() if line.startswith("| lrp, last layer | +"))
    assert row.split(" | ")[4] == f"{mean:+.3f} ± {spread:.3f}"
    assert results["choice/lrp, last layer"] == {"weight": 0.1, "edge": "all kept"}
    assert "| lrp, last layer | 0.1 |" in written
    assert str(folder) not in written + (folder / "explainers.json").read_text(encoding="utf-8")


def test_goes_on(smoke, monkeypatch):
    """Prevents: figures that are measured twice, or mixed with those of other options."""
    results, folder, _ = smoke
    for name in ("Bench", "step_figures"):
        monkeypatch.setattr(explainers, name, Mock(return_value=Mock(side_effect=AssertionError)))
    assert explainers.main(["--smoke", "--output_dir", str(folder)]) == results
    content = json.loads((folder / "explainers.json").read_text(encoding="utf-8"))
    setting = {**content["setting"], "epochs": 3.0}
    with pytest.raises(ValueError, match=r"figures of another setting \(epochs\)"):
        explainers.Results(folder / "explainers.json", setting, {})


@pytest.mark.parametrize(
    ("agreements", "weight", "edge"),
    [
        ({0.1: 0.9, 0.3: 0.7}, 0.1, None),
        ({0.1: 0.9, 0.3: 0.9}, 0.3, "all kept"),
        ({0.1: 0.7, 0.03: 0.9}, 0.03, None),
        ({0.1: 0.7, 0.03: 0.7}, 0.03, "none kept"),
    ],
)
def test_choice_of_a_weight(agreements, weight, edge):
    """Prevents: a λ that costs agreement where a smaller one is kept, and an end of the ladder that isn't told."""
    assert explainers.choose_weight([0.03, 0.1, 0.3], agreements.__getitem__, 0.8) == {"weight": weight, "edge": edge}


@pytest.mark.parametrize("option", ["explained", "trained"])
def test_rows_are_checked(option, capsys):
    """Prevents: hours of measurements before a wrong row is met."""
    with pytest.raises(SystemExit):
        explainers.main(["--dataset", "trees", f"--{option}", "cam"])
    assert f"--{option} names 'cam'. Choose from: integrated_gradients, " in capsys.readouterr().err
