"""Agreement as a plain function of tensors."""

from torch import Tensor

from ..inputs import check_batch, check_same_length


def agreement(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Whether student and teacher choose the same class, sample by sample. The mean is the agreement.

    References:
        Parchami-Araghi et al., "Good Teachers Explain", ECCV 2024; the top-1 agreement of Stanton et al., 2021.

    Args:
        student_logits: `(B, C)`, logits or probabilities.
        teacher_logits: `(B, C)`, over the same classes in the same order.

    Returns:
        `(B,)` bool.

    Raises:
        ValueError: the shapes differ, or a logit is NaN.

    Example:
        >>> import torch
        >>> student = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
        >>> teacher = torch.tensor([[9.0, 0.0, 0.0], [0.0, 5.0, 4.0]])
        >>> agreement(student, teacher)
        tensor([ True, False])
    """
    check_batch("student_logits", student_logits, "(B, C)")
    check_batch("teacher_logits", teacher_logits, "(B, C)")
    check_same_length("student_logits", student_logits, "teacher_logits", teacher_logits)
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student_logits has {student_logits.shape[1]} classes and teacher_logits {teacher_logits.shape[1]}; "
            "bring both to their shared classes, in one order, before comparing them."
        )
    return student_logits.argmax(dim=1) == teacher_logits.argmax(dim=1)
