"""Losses between a student's and a teacher's logits."""

import torch
from torch.nn import functional as F


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """τ²·KL(softmax(teacher/τ) ‖ softmax(student/τ)), per sample (Hinton et al., 2015; e²KD, Eq. 1).

    It differs from the cross-entropy that the papers print by the teacher's entropy, a constant.

    Args:
        student, teacher: (B, classes) logits.
        temperature: τ > 0.

    Returns:
        (B,) in at least float32.
    """
    student, teacher = (x.float() if x.dtype in (torch.float16, torch.bfloat16) else x for x in (student, teacher))
    divergence = F.kl_div(
        (student / temperature).log_softmax(dim=1),
        (teacher / temperature).log_softmax(dim=1),
        reduction="none",
        log_target=True,
    )
    return divergence.sum(dim=1) * temperature**2
