"""Maps against a ground truth of three regions, by values worked out by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score, roc_auc_score

from hf_e2kd.metrics import binary_band_scores, five_band_score

# Bands 2, 1, 0, −2, 1, 0: two true positives, one true negative, two false positives, one false negative.
MAPS = torch.tensor([[[5.0, 2.5, 0.0], [-4.5, 2.0, 0.5]]])
TRUTH = torch.tensor([[[2, 1, 0], [0, 2, 2]]])


def test_five_bands_by_hand():
    found = five_band_score(MAPS, TRUTH)
    assert {name: values.tolist() for name, values in found.items()} == {
        "pixel_accuracy": [3 / 6],
        "recall": [2 / 3],
        "precision": [2 / 4],
        "false_positive_rate": [2 / 3],
    }


@pytest.mark.parametrize("scale", [1e-30, 3.0, 1e30])
def test_the_scale_of_a_map_does_not_matter(scale):
    both = torch.cat([MAPS, torch.zeros_like(MAPS)]), torch.cat([TRUTH, torch.zeros_like(TRUTH)])
    found = five_band_score(both[0] * scale, both[1])
    assert found["precision"][0] == 0.5 and found["pixel_accuracy"].tolist() == [0.5, 1.0]
    # Nothing is shown, and nothing is to be found.
    assert found["precision"][1].isnan() and found["recall"][1].isnan() and found["false_positive_rate"][1] == 0


def test_cuts_belong_to_the_outer_bands():
    maps = torch.tensor([[[1.0, 0.7, 0.69, 0.3, 0.29]]], dtype=torch.float64)
    for truth, accuracy in (([2, 2, 1, 1, 0], 1.0), ([2, 1, 2, 0, 1], 0.2)):
        assert five_band_score(maps, torch.tensor([[truth]]))["pixel_accuracy"].item() == accuracy


def test_a_negative_band_is_never_right():
    """Prevents: evidence against the class counted as the discriminative feature."""
    maps = torch.tensor([[[-1.0, 0.0]]])
    assert five_band_score(maps, torch.tensor([[[2, 0]]]))["recall"].isnan().item()
    assert five_band_score(maps, torch.tensor([[[2, 0]]]))["precision"].item() == 0


def test_soft_cuts_move_towards_zero():
    """The value .282 passes the inner cut at its fourth step (.3 − .02), .5 the outer one at its 41st (.7 − .2)."""
    maps, truth = torch.tensor([[[1.0, 0.282, 0.501, 0.0]]]), torch.tensor([[[2, 1, 1, 0]]])
    accuracy = five_band_score(maps, truth, soft=True)["pixel_accuracy"][0].tolist()
    assert accuracy == [0.75] * 4 + [1.0] * 36 + [0.75] * 16
    assert accuracy[0] == five_band_score(maps, truth)["pixel_accuracy"].item()


def test_binary_scores_by_hand():
    """At thresholds of n/99: one (0) has all four pixels, 24 three, 25 two (up to .5), 50 one."""
    maps, truth = torch.tensor([[[4.0, -2.0, 1.0, 0.0]]]), torch.tensor([[[2, 1, 0, 0]]])
    found = binary_band_scores(maps, truth)
    assert found["object_auroc"] == found["object_auprc"] == 1
    assert found["object_precision"] == pytest.approx((1 * 2 / 4 + 24 * 2 / 3 + 25 + 50) / 100)
    assert found["object_recall"] == pytest.approx((50 + 50 / 2) / 100)
    assert found["object_f1"] == pytest.approx((2 / 3 + 24 * 0.8 + 25 + 50 * 2 / 3) / 100)
    assert (found["object_max_precision"], found["object_max_recall"], found["object_max_f1"]) == (1, 1, 1)
    assert found["discriminative_recall"] == 1
    assert found["discriminative_precision"] == pytest.approx((1 / 4 + 24 / 3 + 25 / 2 + 50) / 100)


def test_equal_to_scikit_learn_over_all_pixels_of_samples_with_an_object():
    """Prevents: means of samples' areas in the place of pooled ones, and samples without an object that count."""
    maps, truth = torch.randn(5, 4, 6), torch.randint(3, (5, 4, 6))
    truth[2] = 0
    found = binary_band_scores(maps, truth)
    kept = [0, 1, 3, 4]
    scores = (maps.double() / maps.double().abs().amax((1, 2), keepdim=True)).abs()[kept].flatten().numpy()
    assert found["samples_with_object"] == 4
    for variant, least in (("object", 1), ("discriminative", 2)):
        positive = (truth[kept] >= least).flatten().numpy()
        assert found[f"{variant}_auroc"] == pytest.approx(roc_auc_score(positive, scores))
        assert found[f"{variant}_auprc"] == pytest.approx(average_precision_score(positive, scores))
        for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
            curve = [score(positive, scores >= threshold) for threshold in np.linspace(0, 1, 100)]
            assert found[f"{variant}_{name}"] == pytest.approx(np.mean(curve))
            assert found[f"{variant}_max_{name}"] == pytest.approx(np.max(curve))


def test_no_object_at_all_is_undefined():
    found = binary_band_scores(torch.rand(2, 3, 3), torch.zeros(2, 3, 3, dtype=torch.int64))
    assert found.pop("samples_with_object") == 0
    assert all(math.isnan(value) for value in found.values()) and len(found) == 16


@pytest.mark.parametrize("score", [five_band_score, binary_band_scores])
@pytest.mark.parametrize(
    ("maps", "truth", "message"),
    [
        (torch.rand(1, 2, 2), torch.zeros(1, 4, 4), r"2×2 cells and the ground truth 4×4 pixels.*resize_maps"),
        (torch.rand(2, 2, 2), torch.zeros(1, 2, 2), "2 of the one and 1 of the other"),
        (torch.full((1, 2, 2), math.nan), torch.zeros(1, 2, 2), r"maps holds NaN in the samples \[0\]"),
        (torch.full((1, 2, 2), math.inf), torch.zeros(1, 2, 2), "maps holds infinite values"),
        (torch.rand(1, 2, 2), torch.full((1, 2, 2), 0.9), r"truth holds \[0.89.*\(heatmap > 0\)"),
        (torch.rand(1, 2, 2), torch.full((1, 2, 2), 255, dtype=torch.uint8), r"truth holds \[255\]"),
        (torch.rand(1, 3, 2, 2), torch.zeros(1, 2, 2), r"maps must have the axes \(B, h, w\)"),
    ],
)
def test_bad_inputs_say_what_to_do(score, maps, truth, message):
    with pytest.raises(ValueError, match=message):
        score(maps, truth)
