"""Negative flips, and agreement where the teacher errs, as plain functions of tensors."""

import torch
from torch import Tensor

from ..agreement.function import agreement
from ..inputs import check_batch, check_same_length


def negative_flips(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Negative flips: 1 where the teacher is right and the student wrong. The mean is the negative flip rate.

    References:
        Yan et al., "Positive-Congruent Training: Towards Regression-Free Model Updates", CVPR 2021.

    Args:
        student_logits: `(B, C)`, logits or probabilities.
        teacher_logits: `(B, C)`, over the same classes in the same order.
        labels: `(B,)`, the true classes; what is none of them, as −100, doesn't count.

    Returns:
        `(B,)` float, 0 or 1; nan where the sample doesn't count.

    Raises:
        ValueError: the shapes differ, there is one class alone, or a logit is NaN.

    Example:
        >>> import torch
        >>> student = torch.tensor([[0.0, 1.0], [0.0, 1.0], [2.0, 1.0]])
        >>> teacher = torch.tensor([[3.0, 1.0], [0.0, 2.0], [4.0, 0.0]])
        >>> negative_flips(student, teacher, torch.tensor([0, 1, -100]))
        tensor([1., 0., nan])
    """
    known, teacher_is_right, agrees = _compare(student_logits, teacher_logits, labels)
    return (teacher_is_right & ~agrees).float().masked_fill(~known, torch.nan)


def agreement_where_teacher_errs(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Repeated mistakes: 1 where the teacher is wrong and the student chooses the same class.

    Args:
        student_logits, teacher_logits, labels: the arguments of `negative_flips`.

    Returns:
        `(B,)` float, 0 or 1; nan where the teacher is right, or the sample doesn't count.

    Raises:
        ValueError: as `negative_flips`.

    Example:
        >>> import torch
        >>> student = torch.tensor([[0.0, 1.0], [2.0, 1.0], [2.0, 1.0]])
        >>> teacher = torch.tensor([[0.0, 1.0], [0.0, 2.0], [4.0, 0.0]])
        >>> agreement_where_teacher_errs(student, teacher, torch.tensor([0, 0, 0]))
        tensor([1., 0., nan])
    """
    known, teacher_is_right, agrees = _compare(student_logits, teacher_logits, labels)
    return agrees.float().masked_fill(~known | teacher_is_right, torch.nan)


def _compare(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compare (B,) bool: the label is a class, the teacher chooses it, both models choose the same."""
    agrees = agreement(student_logits, teacher_logits)
    check_batch("labels", labels, "(B,)")
    check_same_length("labels", labels, "student_logits", student_logits)
    known = (labels >= 0) & (labels < teacher_logits.shape[1])
    return known, teacher_logits.argmax(dim=1) == labels, agrees
