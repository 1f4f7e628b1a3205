"""F1 and mean average precision of several classes an image, as a plain function of tensors."""

import math

import torch
from torch import Tensor

from ..inputs import check_batch


def f1_map(logits: Tensor, labels: Tensor) -> dict[str, float | list[float]]:
    """Micro-F1 at logit ≥ 0 and mean average precision, where an image may show several classes.

    Micro-F1 counts all decisions of all classes in one pool; a class is predicted where its logit is at least 0, its
    probability at least .5. Average precision needs no threshold; it is the area under the precision-recall steps, not
    VOC 2007's interpolation at 11 points. Both are scikit-learn's.

    References:
        Rao et al., "Studying How to Efficiently and Effectively Guide Models with Explanations", ICCV 2023 (micro-F1;
        the paper reports no mAP).

    Args:
        logits: `(B, C)`, before the sigmoid.
        labels: `(B, C)`, bool or 0 and 1.

    Returns:
        `f1`: from 0 to 1; 0 where nothing is true and nothing predicted.
        `map`: the mean over the classes with a positive sample, nan where there is no such class.
        `average_precision`: one value a class, nan for a class without a positive sample.

    Raises:
        ValueError: the shapes differ or are not `(B, C)`, a logit is NaN, or a label is neither 0 nor 1.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, -1.0, 0.0], [-3.0, 1.0, -1.0]])
        >>> labels = torch.tensor([[1, 0, 0], [0, 1, 0]])
        >>> f1_map(logits, labels)
        {'f1': 0.8, 'map': 1.0, 'average_precision': [1.0, 1.0, nan]}
    """
    check_batch("logits", logits, "(B, C)")
    check_batch("labels", labels, "(B, C)")
    if logits.shape != labels.shape:
        raise ValueError(
            f"logits and labels must have one shape, but have {tuple(logits.shape)} and {tuple(labels.shape)}."
        )
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError("labels must be bool or hold 0 and 1 alone: one column a class, 1 where the image shows it.")
    from sklearn.metrics import average_precision_score, f1_score

    truth, scores = labels.cpu().bool().numpy(), logits.detach().cpu().double().numpy()
    precisions = [
        float(average_precision_score(truth[:, number], scores[:, number])) if truth[:, number].any() else math.nan
        for number in range(truth.shape[1])
    ]
    return {
        "f1": float(f1_score(truth.ravel(), scores.ravel() >= 0, zero_division=0.0)),
        "map": torch.tensor(precisions, dtype=torch.float64).nanmean().item(),
        "average_precision": precisions,
    }
