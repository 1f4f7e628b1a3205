"""Explanation similarity as a plain function of tensors."""

from torch import Tensor
from torch.nn import functional as F

from ...alignment.grids import enlarged_coordinates, to_common_grid
from ..inputs import check_maps, check_same_length, unit_peak


def explanation_similarity(
    student_maps: Tensor, teacher_maps: Tensor, size: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor]:
    """Cosine of the flattened maps, sample by sample: 1 equal up to scale, 0 unrelated, −1 opposite (signed maps).

    The official code compares maps at the image's size, to which they are enlarged bilinearly: give it as `size`, as
    the trainer does. Without it, maps are compared on the larger of both grids, which gives other values.

    A sample whose teacher's map is all zero has nothing to match and is marked invalid. A student's map that is all
    zero scores 0, since a student whose maps vanish would score perfectly if those samples were left out.

    References:
        Parchami-Araghi et al., "Good Teachers Explain", ECCV 2024, the similarity inside the loss L_exp.

    Args:
        student_maps: `(B, h, w)`, signed or not, of any scale.
        teacher_maps: `(B, h', w')`, explaining the same class of the same image.
        size: Rows and columns of the image; None for the larger of both grids.

    Returns:
        values: `(B,)`, at least float32; 0 where invalid.
        valid: `(B,)` bool, False where the teacher's map is all zero.

    Raises:
        ValueError: a map is not `(B, h, w)`, the batches differ in length, or a value is NaN or infinite.

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
    student, teacher = unit_peak(student_maps), unit_peak(teacher_maps)
    student, teacher = (
        to_common_grid(student, teacher) if size is None else enlarged_coordinates(student, teacher, size)
    )
    values = F.cosine_similarity(student.flatten(1), teacher.flatten(1), dim=1)
    return values, teacher_maps.flatten(1).any(dim=1)
