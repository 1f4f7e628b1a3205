"""The metrics as `evaluate` loads them."""

import importlib
import math
import random
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import evaluate
import pytest
import torch
import yaml

from hf_e2kd import metrics
from hf_e2kd.metrics import metric_folder

ROOT = Path(__file__).parents[2]
OF_MAPS = ["energy_pointing_game", "explanation_similarity", "localization_iou", "pointing_accuracy"]
OF_TRUTH = ["binary_band_scores", "five_band_score"]
OF_PAIRS = ["agreement", "f1_map", *OF_MAPS, *OF_TRUTH]
OF_SUPERPIXELS = ["explanation_mse", "superpixel_overlap"]
OTHERS = ["class_similarity_entropy", "negative_flips", "score_correlations", "word_attribution"]
NAMES = [*OF_PAIRS, *OF_SUPERPIXELS, *OTHERS]


@cache
def load(name: str) -> evaluate.Metric:
    return evaluate.load(metric_folder(name))


def card(name: str) -> str:
    return (Path(metric_folder(name)) / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_the_name_means_the_function_even_after_its_folder_is_imported(name):
    """Folder and function share a name, and importing a submodule binds it on its parent."""
    importlib.import_module(f"hf_e2kd.metrics.{name}.function")
    importlib.import_module(f"hf_e2kd.metrics.{name}.{name}")

    assert callable(getattr(metrics, name))


def columns(name):
    """Seven samples as the metric takes them."""
    if name == "word_attribution":
        generator = random.Random(0)
        lengths = [2, 5, 3, 1, 4, 2, 6]
        labels = {"labels": [3, 0, 1, 2, 2, 0, 3], "predicted_labels": [3, 0, 1, 2, 1, 0, 3]}
        return {
            "predictions": [[generator.uniform(-1, 1) for _ in range(length)] for length in lengths],
            "references": [[generator.randrange(5) for _ in range(length)] for length in lengths],
            **labels,
        }
    if name == "score_correlations":
        return {"predictions": torch.randn(7), "references": torch.randn(7)}
    if name == "class_similarity_entropy":
        return {"predictions": torch.randn(7, 3), "references": [0, 1, 2, 0, 1, 2, 0]}
    if name in OF_SUPERPIXELS:
        shape = (7, 2, 3) if name == "explanation_mse" else (7, 4)
        counted = [True, False, True, True, False, True, True]
        return {"predictions": torch.randn(shape), "references": torch.randn(shape), "counted": counted}
    predictions = torch.rand(7, 2, 2) if name in (*OF_MAPS, *OF_TRUTH) else torch.randn(7, 3)
    labels = {"labels": [0, 1, 2, 0, 1, 2, 0]} if name == "negative_flips" else {}
    return {"predictions": predictions, "references": (torch.rand(predictions.shape) > 0.5).float(), **labels}


def same(found, expected):
    """Equal, not-a-numbers too."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, nan_ok=True), key


@pytest.mark.parametrize("name", NAMES)
def test_streamed_batches_give_the_result_of_one_computation(name):
    """Prevents: a mean of batches' means, and columns that come together in one computation alone."""
    given = columns(name)
    metric = load(name)
    at_once = metric.compute(**given)
    for part in (slice(0, 2), slice(2, 7)):
        metric.add_batch(**{column: values[part] for column, values in given.items()})
    same(metric.compute(), at_once)


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_give_the_result_of_one(name, tmp_path):
    """Prevents: a metric that each process computes of its own samples. Each side here is a thread with a metric of its
    own; they meet, as processes do, by the files of a cache that they share."""
    given = columns(name)
    expected = load(name).compute(**given)
    where = {"num_process": 2, "experiment_id": "test", "cache_dir": str(tmp_path)}
    sides = [evaluate.load(metric_folder(name), process_id=rank, **where) for rank in (0, 1)]

    def measure(rank):
        part = slice(0, 4) if rank == 0 else slice(4, 7)
        sides[rank].add_batch(**{column: values[part] for column, values in given.items()})
        return sides[rank].compute()

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(measure, (0, 1)))
    same(found[0], expected)
    assert found[1] is None


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_by_its_path_from_the_repositorys_root(name, monkeypatch):
    """Prevents: a module that is found by `metric_folder` alone, or that reports under another name."""
    monkeypatch.chdir(ROOT)
    assert evaluate.load(f"hf_e2kd/metrics/{name}").name == name


@pytest.mark.parametrize(
    "names",
    [["agreement", "f1_map"], ["agreement", "negative_flips"], OF_MAPS, OF_TRUTH, ["agreement", "word_attribution"]],
    ids=",".join,
)
def test_several_are_measured_together(names):
    """Prevents: two metrics that return the same name, or one that takes another's columns for its options."""
    given = columns(names[-1])
    if names[-1] == "word_attribution":
        given = {**given, "predictions": [[0.5, -0.5]] * 7, "references": [[4, 0]] * 7}
    combined = evaluate.combine([load(name) for name in names])
    for part in (slice(0, 3), slice(3, 7)):
        combined.add_batch(**{column: values[part] for column, values in given.items()})
    found, expected = combined.compute(), {}
    for name in names:
        expected |= load(name).compute(**{column: given[column] for column in load(name).features})
    same(found, expected)


def test_agreement_of_several_labels_is_given_label_by_label():
    found = load("agreement").compute(
        predictions=[[3.0, 1.0], [0.0, -2.0]], references=[[9.0, -1.0], [1.0, -5.0]], multi_label=True
    )
    assert found == {"agreement": 0.75, "agreement_per_label": [1.0, 0.5]}


def test_similarity_reports_both_shares():
    full, empty = [[1.0, 0.0]], [[0.0, 0.0]]
    metric = load("explanation_similarity")

    result = metric.compute(predictions=[full, empty, empty, full], references=[full, full, full, empty])

    assert result["explanation_similarity"] == pytest.approx(1 / 3)
    assert result["zero_teacher_share"] == 0.25
    assert result["zero_student_share"] == 0.5


def test_similarity_by_another_measure():
    metric = load("explanation_similarity")

    result = metric.compute(predictions=[[[1.0, 2.0, 4.0]]], references=[[[1.0, 3.0, 2.0]]], measure="spearman")

    assert result["explanation_similarity"] == pytest.approx(0.5)


def test_similarity_of_no_teacher_map_at_all_is_undefined():
    metric = load("explanation_similarity")

    result = metric.compute(predictions=[[[1.0]]], references=[[[0.0]]])

    assert math.isnan(result["explanation_similarity"])
    assert result["zero_teacher_share"] == 1


def test_samples_of_different_shapes_are_refused():
    metric = load("agreement")

    with pytest.raises(ValueError, match="All predictions of one computation must have one shape"):
        metric.compute(predictions=[[1.0, 2.0], [1.0, 2.0, 3.0]], references=[[1.0, 2.0], [1.0, 2.0]])


@pytest.mark.parametrize("name", NAMES)
def test_card_has_the_hubs_structure_and_the_modules_citation(name):
    """The Hub checks a card's YAML on commit, too late for a test, and shows nothing of one it can't read."""
    _, header, body = card(name).split("---\n", maxsplit=2)
    fields = yaml.safe_load(header)

    assert fields["license"] == "apache-2.0"
    assert {"evaluate", "metric"} <= set(fields["tags"])
    assert {"title", "emoji", "colorFrom", "colorTo", "sdk", "pinned", "description"} <= set(fields)
    assert load(name).citation in body


def test_unknown_metric_lists_the_known():
    with pytest.raises(ValueError, match="agreement, binary_band_scores, class_similarity_entropy"):
        metric_folder("accuracy")
