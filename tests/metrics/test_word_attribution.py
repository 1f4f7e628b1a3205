import doctest
import importlib
import math
import re
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import average_precision_score, roc_auc_score

from hf_e2kd import metrics
from hf_e2kd.metrics import metric_folder, word_attribution


@pytest.fixture
def card() -> str:
    return (Path(metric_folder("word_attribution")) / "README.md").read_text(encoding="utf-8")


def random_samples(count: int = 40, classes: int = 4) -> dict[str, list]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, count)
    labels = rng.integers(classes, size=count).tolist()
    return {
        "scores": [rng.standard_normal(length).tolist() for length in lengths],
        "word_labels": [rng.integers(5, size=length).tolist() for length in lengths],
        "labels": labels,
        "predictions": [label if rng.random() < 0.7 else (label + 1) % classes for label in labels],
    }


def test_values_worked_out_by_hand():
    """Positive sentence: "lovely" 2 (right), "dull" 1 (wrong side). Negative: "dull" −1 (wrong), "good" −3 (right)."""
    result = word_attribution([[2.0, 9.0, 1.0], [-1.0, -3.0]], [[4, 2, 1], [0, 3]], [2, 1], [2, 1])

    assert result["word_accuracy"] == 0.5
    # Agreeing words score 2 and −1, contradicting ones 1 and −3: three of the four pairs are in order.
    assert result["word_auroc"] == 0.75
    # Ranked 2, 1, −1, −3, the agreeing words stand first and third: precisions 1 and 2/3.
    assert result["word_auprc"] == pytest.approx((1 + 2 / 3) / 2)
    assert (result["counted_words"], result["counted_samples"]) == (4, 2)


def test_equal_to_a_plain_loop_over_all_words():
    samples = random_samples()
    pool = [
        (score, (polarity > 2) == (label > 1))
        for scores, polarities, label, prediction in zip(*samples.values(), strict=True)
        for score, polarity in zip(scores, polarities, strict=True)
        if label == prediction and polarity != 2
    ]
    scores, agrees = zip(*pool, strict=True)

    result = word_attribution(**samples)

    assert result["counted_words"] == len(pool)
    assert result["word_accuracy"] == pytest.approx(np.mean([(score > 0) == agree for score, agree in pool]))
    assert result["word_auroc"] == pytest.approx(roc_auc_score(agrees, scores))
    assert result["word_auprc"] == pytest.approx(average_precision_score(agrees, scores))


def test_wrong_predictions_and_neutral_words_change_nothing():
    """A wrong prediction's explanation is about another class than the target."""
    plain = word_attribution([[1.0, -2.0, 0.5]], [[4, 0, 1]], [3], [3])

    mixed = word_attribution([[1.0, 7.0, -2.0, 0.5], [-9.0, 9.0]], [[4, 2, 0, 1], [4, 0]], [3, 2], [3, 3])

    assert mixed == plain


def test_a_score_of_zero_is_wrong_on_either_side():
    """Otherwise an explanation that vanishes would get all contradicting words right."""
    result = word_attribution([[0.0, 0.0, 0.0]], [[4, 0, 1]], [3], [3])

    assert result["word_accuracy"] == 0
    assert result["word_auroc"] == 0.5


def test_polarity_of_classes_in_another_order_and_number():
    scores, words = [[1.0, -1.0], [1.0, -1.0]], [[4, 0], [0, 4]]

    assert word_attribution(scores, words, [0, 1], [0, 1], class_polarity=(1, -1))["word_accuracy"] == 1
    assert word_attribution(scores, words, [0, 1], [0, 1], class_polarity=(-1, 1))["word_accuracy"] == 0
    five = word_attribution(scores, words, [4, 2], [4, 2], class_polarity=(-1, -1, 0, 1, 1))
    assert (five["word_accuracy"], five["counted_samples"]) == (1, 1)


def test_words_of_another_scale():
    result = word_attribution([[1.0, 5.0, -1.0]], [[1, 0, -1]], [3], [3], neutral=0)

    assert (result["word_accuracy"], result["counted_words"]) == (1, 2)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("words", [[4, 3], [0, 1]])
def test_areas_are_undefined_where_all_words_agree_or_none(words):
    """Average precision would be 1 or 0 then, whatever the scores."""
    result = word_attribution([[1.0, -1.0]], [words], [3], [3])

    assert result["word_accuracy"] == 0.5
    assert math.isnan(result["word_auroc"]) and math.isnan(result["word_auprc"])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "samples",
    [([[1.0]], [[2]], [3], [3]), ([[1.0]], [[4]], [3], [0]), ([[]], [[]], [3], [3]), ([], [], [], [])],
    ids=["only neutral words", "only wrong predictions", "no word", "no sample"],
)
def test_all_figures_are_undefined_where_no_word_counts(samples):
    result = word_attribution(*samples)

    assert all(math.isnan(result[name]) for name in ("word_accuracy", "word_auroc", "word_auprc"))
    assert result["counted_words"] == result["counted_samples"] == 0


def test_tensors_and_arrays_are_read():
    samples = random_samples()
    tensors = {name: [torch.tensor(row) for row in samples[name]] for name in ("scores", "word_labels")}
    arrays = {name: np.array(samples[name]) for name in ("labels", "predictions")}

    assert word_attribution(**tensors, **arrays) == pytest.approx(word_attribution(**samples), rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [3]}, "2 scores, 2 word_labels, 1 labels, 2 predictions"),
        ({"scores": [[1.0], [1.0]]}, r"Sample 0 has scores of shape \(1,\) and word_labels of shape \(2,\)"),
        ({"scores": [[1.0, 0.0], [math.nan]]}, "scores of sample 1 hold NaN"),
        ({"labels": [4, 0]}, r"labels holds the classes \[4\], but class_polarity names the classes 0 to 3"),
        ({"predictions": [3, -1]}, r"predictions holds the classes \[-1\]"),
        ({"class_polarity": (0, 1, 2, 3)}, r"class_polarity is \(0, 1, 2, 3\). Give -1, 0 or 1"),
    ],
)
def test_bad_inputs_are_named_with_what_is_expected(changes, message):
    samples = {"scores": [[1.0, 2.0], [1.0]], "word_labels": [[4, 0], [1]], "labels": [3, 0], "predictions": [3, 0]}

    with pytest.raises(ValueError, match=message):
        word_attribution(**{**samples, **changes})


def test_the_name_means_the_function_even_after_its_folder_is_imported():
    importlib.import_module("hf_e2kd.metrics.word_attribution.word_attribution")

    assert callable(metrics.word_attribution)


def test_streamed_batches_give_the_result_of_one_computation():
    samples = random_samples()
    columns = dict(zip(("predictions", "references", "labels", "predicted_labels"), samples.values(), strict=True))
    metric = evaluate.load(metric_folder("word_attribution"))
    at_once = metric.compute(**columns)

    for part in (slice(0, 15), slice(15, 40)):
        metric.add_batch(**{name: column[part] for name, column in columns.items()})

    assert metric.compute() == at_once == word_attribution(**samples)


def test_card_has_the_hubs_structure_and_the_modules_citation(card):
    _, header, body = card.split("---\n", maxsplit=2)
    fields = yaml.safe_load(header)

    assert fields["license"] == "apache-2.0"
    assert {"evaluate", "metric"} <= set(fields["tags"])
    assert {"title", "emoji", "colorFrom", "colorTo", "sdk", "pinned", "description"} <= set(fields)
    assert evaluate.load(metric_folder("word_attribution")).citation in body


def test_card_example_gives_what_it_says(card):
    source = "\n".join(re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL))
    example = doctest.DocTestParser().get_doctest(source, {}, "word_attribution", "README.md", 0)
    runner = doctest.DocTestRunner()

    runner.run(example)

    assert runner.summarize(verbose=False) == (0, len(example.examples))
