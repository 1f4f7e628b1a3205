"""Explanation similarity as a plain function of tensors."""

import torch
from torch import Tensor

from ...alignment.grids import enlarged_coordinates, resize_maps, to_common_grid
from ..inputs import check_maps, check_same_length, unit_peak
from .measures import CENTRED, MEASURES, TOP_SHARE

ROUNDING = 10
"""A map whose values differ by less than this many times the type's precision is the same everywhere, as to the loss
"pearson"."""


def explanation_similarity(
    student_maps: Tensor,
    teacher_maps: Tensor,
    size: tuple[int, int] | None = None,
    measure: str = "cosine",
    top_share: float = TOP_SHARE,
) -> tuple[Tensor, Tensor]:
    """Similarity of the maps, sample by sample: 1 equal up to scale, 0 unrelated, −1 opposite (signed maps).

    The official code compares maps at the image's size, to which they are enlarged bilinearly: give it as `size`, as
    the trainer does. Without it, maps are compared on the larger of both grids, which gives other values.

    A sample whose teacher's map is all zero has nothing to match and is marked invalid. A student's map that is all
    zero scores 0, since a student whose maps vanish would score perfectly if those samples were left out. To the two
    correlations, a map that is the same everywhere, up to rounding errors, is like an all-zero one.

    References:
        Parchami-Araghi et al., "Good Teachers Explain", ECCV 2024, the similarity inside the loss L_exp.

    Args:
        student_maps: `(B, h, w)`, signed or not, of any scale.
        teacher_maps: `(B, h', w')`, explaining the same class of the same image.
        size: Rows and columns of the image; None for the larger of both grids.
        measure: Kind of similarity: `"cosine"`, the paper's; `"pearson"` or `"spearman"`, correlations of the cells'
            values or ranks; `"ssim"`, of the structure in small windows; `"top_k"`, the share of the teacher's
            highest cells that are among the student's, from 0 to 1.
        top_share: Share of the cells that count as highest for `"top_k"`.

    Returns:
        values: `(B,)`, at least float32; 0 where invalid.
        valid: `(B,)` bool, False where the teacher's map is all zero (for the correlations, the same everywhere).

    Raises:
        ValueError: a map is not `(B, h, w)`, the batches differ in length, a value is NaN or infinite, or there is no
            such measure.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
        >>> student = torch.tensor([[[3.0, 0.0], [0.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
        >>> values, valid = explanation_similarity(student, teacher)
        >>> values
        tensor([0.6000, 0.0000, 0.0000])
        >>> valid
        tensor([ True,  True, False])
    """
    check_maps("student_maps", student_maps)
    check_maps("teacher_maps", teacher_maps)
    check_same_length("student_maps", student_maps, "teacher_maps", teacher_maps)
    if measure not in MEASURES:
        raise ValueError(f"Unknown measure '{measure}'. Available: {', '.join(MEASURES)}.")
    student, teacher = unit_peak(student_maps), unit_peak(teacher_maps)
    shown, valid = _tells(student, measure), _tells(teacher, measure)
    if size is None:
        student, teacher = to_common_grid(student, teacher)
    elif measure == "cosine":
        student, teacher = enlarged_coordinates(student, teacher, size)
    else:
        student, teacher = resize_maps(student, size), resize_maps(teacher, size)
    values = MEASURES[measure](student, teacher, top_share)
    return values.where(shown & valid, 0), valid


def _tells(maps: Tensor, measure: str) -> Tensor:
    """Tell which maps (B, h, w) of peak 1 aren't all zero, or, for a correlation, differ by more than rounding."""
    differences = maps - maps.mean(dim=(1, 2), keepdim=True) if measure in CENTRED else maps
    return differences.abs().amax(dim=(1, 2)) > ROUNDING * torch.finfo(maps.dtype).eps
