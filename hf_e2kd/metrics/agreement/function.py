"""Agreement as a plain function of tensors."""

from torch import Tensor

from ..inputs import check_batch, check_same_length


def agreement(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Top-1 agreement: True where student and teacher choose the same class. The mean is the agreement.

    References:
        Parchami-Araghi et al., "Good Teachers Explain", ECCV 2024; the top-1 agreement of Stanton et al., 2021.

    Args:
        student_logits: `(B, C)`, logits or probabilities.
        teacher_logits: `(B, C)`, over the same classes in the same order.

    Returns:
        `(B,)` bool.

    Raises:
        ValueError: the shapes differ, there is one class alone, or a logit is NaN.

    Example:
        >>> import torch
        >>> student = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
        >>> teacher = torch.tensor([[9.0, 0.0, 0.0], [0.0, 5.0, 4.0]])
        >>> agreement(student, teacher)
        tensor([ True, False])
    """
    _check(student_logits, teacher_logits)
    if student_logits.shape[1] == 1:
        raise ValueError(
            "The logits are of one class, which both models always choose. Compare scores by score_correlations, and "
            "decisions on a single label by label_agreement."
        )
    return student_logits.argmax(dim=1) == teacher_logits.argmax(dim=1)


def label_agreement(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Agreement by label: True where student and teacher decide a label alike, each label for itself.

    A label is predicted where its logit is at least 0, its probability at least .5. The mean over a column is that
    label's agreement; rare labels agree easily, on their absence.

    Args:
        student_logits: `(B, C)` logits.
        teacher_logits: `(B, C)`, over the same labels in the same order.

    Returns:
        `(B, C)` bool.

    Raises:
        ValueError: the shapes differ, or a logit is NaN.

    Example:
        >>> import torch
        >>> label_agreement(torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[9.0, 1.0, 0.0]]))
        tensor([[ True, False,  True]])
    """
    _check(student_logits, teacher_logits)
    return (student_logits >= 0) == (teacher_logits >= 0)


def _check(student_logits: Tensor, teacher_logits: Tensor) -> None:
    check_batch("student_logits", student_logits, "(B, C)")
    check_batch("teacher_logits", teacher_logits, "(B, C)")
    check_same_length("student_logits", student_logits, "teacher_logits", teacher_logits)
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student_logits has {student_logits.shape[1]} classes and teacher_logits {teacher_logits.shape[1]}; "
            "bring both to their shared classes, in one order, before comparing them."
        )
