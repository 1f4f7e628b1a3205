"""Five-band scores as a plain function of tensors."""

import torch
from torch import Tensor

from ..bands import check_truth, normalised

CUTS = (0.3, 0.7)
"""Where the inner and the outer bands begin, of a map's largest magnitude."""

STEPS, STEP = 56, 0.005
"""Number of steps of the soft scores, and by how much the cuts move at each."""


def five_band_score(maps: Tensor, truth: Tensor, soft: bool = False) -> dict[str, Tensor]:
    """Compare maps, cut into five bands, with a ground truth of three regions, sample by sample.

    A map over its largest magnitude, h, becomes −2, −1, 0, 1 or 2 by the cuts ±.3 and ±.7; a value at a cut belongs to
    the outer band. Of all pixels, true positives (TP) are those that aren't 0 and equal the ground truth; false
    positives (FP) aren't 0 and differ from it; false negatives (FN) are 0 where the truth isn't; true negatives (TN)
    are 0 on both sides. Negative bands never equal the truth, so that maps should be signed (`Saliency(signed=True)`):
    absolute ones leave these bands empty.

    - pixel_accuracy: (TP + TN) / all
    - recall: TP / (TP + FN)
    - precision: TP / (TP + FP)
    - false_positive_rate: FP / (FP + TN)

    References:
        Tjoa and Guan, "Quantifying Explainability of Saliency Methods in Deep Neural Networks", 2020; used by Han et
        al., ICML 2023.

    Args:
        maps: Attribution maps (B, H, W), summed over the colours, of any scale.
        truth: Ground truths (B, H, W): 0 background, 1 localisation, 2 discriminative feature.
        soft: Move the cuts towards 0 in 56 steps of .005, to .3 − .005·k and .7 − .005·k for k = 0 to 55, as a map may
            be right but for its scale.

    Returns:
        `pixel_accuracy`, `recall`, `precision`, `false_positive_rate`: float64 (B,), where soft (B, 56); from 0 to 1,
        nan where the denominator is 0.

    Raises:
        ValueError: the shapes differ, a map is NaN or infinite, or the truth has other values than 0, 1, 2.

    Example:
        >>> maps = torch.tensor([[[1.0, 0.5, 0.0], [-0.9, 0.4, 0.1]]])
        >>> truth = torch.tensor([[[2, 1, 0], [0, 2, 2]]])
        >>> {name: round(value.item(), 3) for name, value in five_band_score(maps, truth).items()}
        {'pixel_accuracy': 0.5, 'recall': 0.667, 'precision': 0.5, 'false_positive_rate': 0.667}
    """
    check_truth(maps, truth)
    values, wanted = normalised(maps).flatten(1), truth.flatten(1).to(torch.int8)
    steps = [_score(values, wanted, [cut - STEP * step for cut in CUTS]) for step in range(STEPS if soft else 1)]
    return {name: torch.stack([step[name] for step in steps], dim=1) if soft else steps[0][name] for name in steps[0]}


def _score(values: Tensor, wanted: Tensor, cuts: list[float]) -> dict[str, Tensor]:
    magnitude = values.abs()
    bands = values.sign().to(torch.int8) * sum((magnitude >= cut).to(torch.int8) for cut in cuts)
    right, shown = bands == wanted, bands != 0
    positive, negative = (right & shown).sum(1).double(), (right & ~shown).sum(1).double()
    false_positive, false_negative = (~right & shown).sum(1), (~right & ~shown).sum(1)
    # 0 / 0 is nan.
    return {
        "pixel_accuracy": (positive + negative) / values.shape[1],
        "recall": positive / (positive + false_negative),
        "precision": positive / (positive + false_positive),
        "false_positive_rate": false_positive / (false_positive + negative),
    }
