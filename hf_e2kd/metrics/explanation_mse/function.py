"""Explanation MSE as a plain function of tensors."""

import torch
from torch import Tensor

from ...alignment.precision import at_least_float32
from ..inputs import check_batch, check_maps, check_same_length


def explanation_mse(student_maps: Tensor, teacher_maps: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean squared difference of two models' superpixel maps of the same images, sample by sample.

    `hf_e2kd.alignment.superpixel_maps` makes them of any explainer's maps. They are compared in the explainer's own
    unit: a scale that they were divided by is undone first.

    References:
        Alharbi et al., "Learning Interpretation with Explainable Knowledge Distillation", IEEE Big Data 2021, Table IV.

    Args:
        student_maps, teacher_maps: Maps `(B, H, W)`.
        counted: `(B,)` bool, the samples that both models classify alike; None for all.

    Returns:
        `(B,)`, at least float32; nan where the sample doesn't count.

    Raises:
        ValueError: the shapes differ, or a value is NaN or infinite.

    Example:
        >>> student, teacher = torch.tensor([[[1.0, 1.0]], [[0.0, 2.0]]]), torch.tensor([[[0.0, 2.0]], [[0.0, 4.0]]])
        >>> explanation_mse(student, teacher, torch.tensor([True, False]))
        tensor([1., nan])
    """
    check_maps("student_maps", student_maps)
    check_maps("teacher_maps", teacher_maps)
    check_same_length("student_maps", student_maps, "teacher_maps", teacher_maps)
    if student_maps.shape != teacher_maps.shape:
        raise ValueError(
            f"student_maps and teacher_maps must be superpixel maps of one size, not {tuple(student_maps.shape)} and "
            f"{tuple(teacher_maps.shape)}. Make both on the same superpixels, by hf_e2kd.alignment.superpixel_maps."
        )
    values = (at_least_float32(student_maps) - at_least_float32(teacher_maps)).square().mean(dim=(1, 2))
    if counted is None:
        return values
    check_batch("counted", counted, "(B,)")
    check_same_length("counted", counted, "student_maps", student_maps)
    return values.masked_fill(~counted.bool(), torch.nan)
