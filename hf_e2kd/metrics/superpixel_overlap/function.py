"""Superpixel overlap as a plain function of tensors."""

import torch
from torch import Tensor

from ..inputs import check_batch, check_same_length


def superpixel_overlap(student_sums: Tensor, teacher_sums: Tensor, k: int = 2, counted: Tensor | None = None) -> Tensor:
    """Share of the k most important superpixels that two explanations have in common with equal signs.

    The superpixels of the largest magnitude that both name, and whose signs are equal, over k. A superpixel of 0 is
    none of the important ones; where the teacher's k-th is 0, no student reaches 1. Of equal values the first counts.

    References:
        Alharbi et al., "Learning Interpretation with Explainable Knowledge Distillation", IEEE Big Data 2021, h(x) and
        Table V. The paper leaves open over what it normalises; k is shown in its Fig. 11.

    Args:
        student_sums, teacher_sums: Sums of the maps over the same superpixels, `(B, K)`, as
            `hf_e2kd.alignment.superpixel_sums` gives them.
        k: Number of superpixels.
        counted: `(B,)` bool, the samples that both models classify correctly; None for all.

    Returns:
        `(B,)` float32 from 0 to 1; nan where the sample doesn't count or the teacher's explanation is all zero.

    Raises:
        ValueError: the shapes differ, a value is NaN, or k is out of range.

    Example:
        >>> student, teacher = torch.tensor([[5.0, -4.0, 1.0, 0.0]]), torch.tensor([[2.0, 3.0, 0.5, 0.0]])
        >>> superpixel_overlap(student, teacher)  # both name the first two, of which one has another sign
        tensor([0.5000])
    """
    check_batch("student_sums", student_sums, "(B, K)")
    check_batch("teacher_sums", teacher_sums, "(B, K)")
    if student_sums.shape != teacher_sums.shape:
        raise ValueError(
            f"student_sums and teacher_sums must be sums over the same superpixels, not of the shapes "
            f"{tuple(student_sums.shape)} and {tuple(teacher_sums.shape)}."
        )
    if not 1 <= k <= student_sums.shape[1]:
        raise ValueError(f"k must be from 1 to the number of superpixels, {student_sums.shape[1]}, not {k}.")
    shared = _important(student_sums, k) & _important(teacher_sums, k) & (student_sums.sign() == teacher_sums.sign())
    left_out = ~teacher_sums.any(dim=1)
    if counted is not None:
        check_batch("counted", counted, "(B,)")
        check_same_length("counted", counted, "student_sums", student_sums)
        left_out = left_out | ~counted.bool()
    return (shared.sum(dim=1) / k).masked_fill(left_out, torch.nan)


def _important(sums: Tensor, k: int) -> Tensor:
    """Mark the k largest magnitudes that aren't 0, (B, K) bool."""
    places = sums.abs().argsort(dim=1, descending=True, stable=True)[:, :k]
    return torch.zeros_like(sums, dtype=torch.bool).scatter(1, places, True) & (sums != 0)
