"""The metrics as `evaluate` loads them."""

import doctest
import importlib
import math
import re
from pathlib import Path

import evaluate
import pytest
import torch
import yaml

from hf_e2kd import metrics
from hf_e2kd.metrics import metric_folder

OF_MAPS = ["energy_pointing_game", "explanation_similarity", "localization_iou", "pointing_accuracy"]
OF_PAIRS = ["agreement", "f1_map", *OF_MAPS]
NAMES = [*OF_PAIRS, "word_attribution"]


def card(name: str) -> str:
    return (Path(metric_folder(name)) / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_the_name_means_the_function_even_after_its_folder_is_imported(name):
    """Folder and function share a name, and importing a submodule binds it on its parent."""
    importlib.import_module(f"hf_e2kd.metrics.{name}.function")
    importlib.import_module(f"hf_e2kd.metrics.{name}.{name}")

    assert callable(getattr(metrics, name))


@pytest.mark.parametrize("name", OF_PAIRS)
def test_streamed_batches_give_the_result_of_one_computation(name):
    predictions = torch.rand(5, 2, 2) if name in OF_MAPS else torch.rand(5, 3)
    references = (torch.rand(predictions.shape) > 0.5).float()
    metric = evaluate.load(metric_folder(name))
    at_once = metric.compute(predictions=predictions.numpy(), references=references.numpy())

    for part in (slice(0, 2), slice(2, 5)):
        metric.add_batch(predictions=predictions[part], references=references[part])

    assert metric.compute() == at_once


def test_similarity_reports_both_shares():
    full, empty = [[1.0, 0.0]], [[0.0, 0.0]]
    metric = evaluate.load(metric_folder("explanation_similarity"))

    result = metric.compute(predictions=[full, empty, empty, full], references=[full, full, full, empty])

    assert result["explanation_similarity"] == pytest.approx(1 / 3)
    assert result["zero_teacher_share"] == 0.25
    assert result["zero_student_share"] == 0.5


def test_similarity_of_no_teacher_map_at_all_is_undefined():
    metric = evaluate.load(metric_folder("explanation_similarity"))

    result = metric.compute(predictions=[[[1.0]]], references=[[[0.0]]])

    assert math.isnan(result["explanation_similarity"])
    assert result["zero_teacher_share"] == 1


def test_samples_of_different_shapes_are_refused():
    metric = evaluate.load(metric_folder("agreement"))

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
    assert evaluate.load(metric_folder(name)).citation in body


@pytest.mark.parametrize("name", NAMES)
def test_card_example_gives_what_it_says(name):
    source = "\n".join(re.findall(r"```python\n(.*?)```", card(name), flags=re.DOTALL))
    example = doctest.DocTestParser().get_doctest(source, {}, name, f"{name}/README.md", 0)
    runner = doctest.DocTestRunner()

    runner.run(example)

    assert runner.summarize(verbose=False) == (0, len(example.examples))


def test_unknown_metric_lists_the_known():
    with pytest.raises(ValueError, match="agreement, energy_pointing_game, explanation_similarity"):
        metric_folder("accuracy")
