"""Correlation of two models' scores, as a plain function of tensors."""

import math

from torch import Tensor

from ..inputs import check_batch, check_same_length


def score_correlations(scores: Tensor, reference: Tensor) -> dict[str, float]:
    """Pearson's and Spearman's correlation of two lists of scores.

    Args:
        scores: `(N,)` scores.
        reference: `(N,)` scores or labels of the same samples.

    Returns:
        `pearson` and `spearman`, from −1 to 1; nan for fewer than two samples, and where a side is constant.

    Raises:
        ValueError: the lengths differ, or a value is NaN.

    Example:
        >>> import torch
        >>> found = score_correlations(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.1, 0.4, 0.9]))
        >>> {name: round(value, 3) for name, value in found.items()}
        {'pearson': 0.999, 'spearman': 1.0}
    """
    check_batch("scores", scores, "(N,)")
    check_batch("reference", reference, "(N,)")
    check_same_length("scores", scores, "reference", reference)
    if len(scores) < 2 or (scores == scores[0]).all() or (reference == reference[0]).all():
        return {"pearson": math.nan, "spearman": math.nan}
    from scipy import stats

    first, second = scores.detach().cpu().double().numpy(), reference.detach().cpu().double().numpy()
    return {
        "pearson": float(stats.pearsonr(first, second).statistic),
        "spearman": float(stats.spearmanr(first, second).statistic),
    }
