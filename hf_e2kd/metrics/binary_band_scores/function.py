"""Binary band scores as a plain function of tensors."""

import math

import numpy as np
from torch import Tensor

from ..bands import check_truth, normalised

THRESHOLDS = 100
"""Number of thresholds, evenly from 0 to 1."""

VARIANTS = {"object": 1, "discriminative": 2}
"""The least value of the ground truth that counts as positive: 0 against 1 and 2, and 0 and 1 against 2."""


def binary_band_scores(maps: Tensor, truth: Tensor) -> dict[str, float]:
    """Score maps as detectors: of the object (0 against 1 and 2), and of what tells its class (0 and 1 against 2).

    A pixel's score is |h|, the map's magnitude over its largest. All pixels of all samples that show an object are
    pooled; those without one are left out. AUROC, and AUPRC as average precision, are scikit-learn's. Precision, recall
    and F1 are taken at 100 thresholds, evenly from 0 to 1, of pixels at or above them; mean and maximum over the
    thresholds are given.

    References:
        Han et al., "On the Impact of Knowledge Distillation for Model Interpretability", ICML 2023, Fig. 6, on Tjoa and
        Guan's data. That the thresholds include 0 and 1, and that pixels are pooled, are our decisions.

    Args:
        maps: Attribution maps (B, H, W), summed over the colours, of any scale.
        truth: Ground truths (B, H, W): 0 background, 1 localisation, 2 discriminative feature.

    Returns:
        For each of `object` and `discriminative`, under `<variant>_<figure>`: `auroc`, `auprc`, `precision`, `recall`,
        `f1` (means over the thresholds), `max_precision`, `max_recall`, `max_f1`; from 0 to 1, nan where all pixels or
        none are positive. `max_recall` is 1, as the threshold 0 finds everything. `samples_with_object`: their number.

    Raises:
        ValueError: the shapes differ, a map is NaN or infinite, or the truth has other values than 0, 1, 2.

    Example:
        >>> import torch
        >>> maps, truth = torch.tensor([[[4.0, -2.0, 1.0, 0.0]]]), torch.tensor([[[2, 1, 0, 0]]])
        >>> found = binary_band_scores(maps, truth)
        >>> found["object_auroc"], found["object_max_f1"], found["samples_with_object"]
        (1.0, 1.0, 1)
    """
    check_truth(maps, truth)
    shown = (truth > 0).flatten(1).any(dim=1)
    scores = normalised(maps[shown]).abs().flatten().cpu().numpy()
    values = truth[shown].flatten().cpu().numpy()
    figures: dict[str, float] = {}
    for variant, least in VARIANTS.items():
        found = _figures(scores, values >= least)
        figures |= {f"{variant}_{name}": value for name, value in found.items()}
    return {**figures, "samples_with_object": int(shown.sum())}


def _figures(scores: np.ndarray, positive: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    names = ("precision", "recall", "f1")
    if not positive.any() or positive.all():
        return dict.fromkeys(("auroc", "auprc", *names, *(f"max_{name}" for name in names)), math.nan)
    # How many thresholds a score reaches; then how many pixels reach each threshold.
    reached = np.searchsorted(np.linspace(0, 1, THRESHOLDS), scores, side="right")
    counts = [np.bincount(reached[chosen], minlength=THRESHOLDS + 1) for chosen in (positive, ~positive)]
    right, wrong = (count[::-1].cumsum()[::-1][1:] for count in counts)
    precision = right / np.maximum(right + wrong, 1)
    recall = right / positive.sum()
    # = 2 · precision · recall / (precision + recall), which is 0 / 0 where nothing is right.
    curves = dict(zip(names, (precision, recall, 2 * right / (right + wrong + positive.sum())), strict=True))
    return {
        "auroc": float(roc_auc_score(positive, scores)),
        "auprc": float(average_precision_score(positive, scores)),
        **{name: float(curve.mean()) for name, curve in curves.items()},
        **{f"max_{name}": float(curve.max()) for name, curve in curves.items()},
    }
