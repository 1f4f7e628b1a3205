"""Similarities of two batches of maps on one grid, sample by sample."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

TOP_SHARE = 0.1
"""Share of the cells among which `top_k` looks for common ones."""

_WINDOW = 7  # cells, as in scikit-image
_RANGE = 2.0  # from −1 to 1


def cosine(student: Tensor, teacher: Tensor, top_share: float) -> Tensor:
    """Cosine of the flattened maps."""
    return F.cosine_similarity(student.flatten(1), teacher.flatten(1), dim=1)


def pearson(student: Tensor, teacher: Tensor, top_share: float) -> Tensor:
    """Pearson's correlation of the cells' values: the cosine of the maps without their means."""
    first, second = (maps.flatten(1) - maps.flatten(1).mean(dim=1, keepdim=True) for maps in (student, teacher))
    return F.cosine_similarity(first, second, dim=1)


def spearman(student: Tensor, teacher: Tensor, top_share: float) -> Tensor:
    """Spearman's rank correlation; equal values share their mean rank."""
    return pearson(_ranks(student), _ranks(teacher), top_share)


def ssim(student: Tensor, teacher: Tensor, top_share: float) -> Tensor:
    """Structural similarity of the maps over their largest magnitude, on a range from −1 to 1.

    Means, variances and covariances are those of windows of 7 × 7 cells (smaller on smaller maps), as in scikit-image.

    References:
        Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE TIP 2004, eq. 13.
    """
    side = min(_WINDOW, student.shape[1], student.shape[2])
    side -= 1 - side % 2
    count = side * side

    def means(values: Tensor) -> Tensor:
        return F.avg_pool2d(values[:, None], side, stride=1)[:, 0]

    first, second = means(student), means(teacher)
    unbiased = count / max(1, count - 1)
    variances = unbiased * (means(student * student) - first**2), unbiased * (means(teacher * teacher) - second**2)
    covariance = unbiased * (means(student * teacher) - first * second)
    c1, c2 = (0.01 * _RANGE) ** 2, (0.03 * _RANGE) ** 2
    structure = (2 * first * second + c1) * (2 * covariance + c2)
    return (structure / ((first**2 + second**2 + c1) * (sum(variances) + c2))).mean(dim=(1, 2))


def top_k(student: Tensor, teacher: Tensor, top_share: float) -> Tensor:
    """Share of the teacher's highest cells that are among the student's highest ones; both are `top_share` of all.

    Of equal cells the first counts as the higher.
    """
    if not 0 < top_share <= 1:
        raise ValueError(f"top_share is the share of cells that count, above 0 and at most 1, not {top_share!r}.")
    count = math.ceil(top_share * student[0].numel())
    highest = [torch.zeros_like(maps.flatten(1)) for maps in (student, teacher)]
    for chosen, maps in zip(highest, (student, teacher), strict=True):
        chosen.scatter_(1, maps.flatten(1).argsort(dim=1, descending=True, stable=True)[:, :count], 1)
    return (highest[0] * highest[1]).sum(dim=1) / count


def _ranks(maps: Tensor) -> Tensor:
    from scipy import stats

    ranks = stats.rankdata(maps.detach().cpu().flatten(1).numpy(), axis=1)
    return torch.from_numpy(ranks).to(maps).view_as(maps)


MEASURES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "cosine": cosine,
    "pearson": pearson,
    "spearman": spearman,
    "ssim": ssim,
    "top_k": top_k,
}
"""(student's maps (B, h, w), teacher's, share of the cells for top_k) → similarities (B,), by name."""

CENTRED = ("pearson", "spearman")
"""Those that tell nothing of a map that is the same everywhere."""
