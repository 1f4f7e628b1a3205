"""Losses between a student's and a teacher's logits."""

import torch
from torch.nn import functional as F

from ..alignment.precision import at_least_float32

NEAREST = 1e-6
"""How near to 0 and 1 a probability may come in a logarithm [the official code]."""


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """τ²·KL(softmax(teacher/τ) ‖ softmax(student/τ)), per sample (Hinton et al., 2015; e²KD, Eq. 1).

    It differs from the cross-entropy that the papers print by the teacher's entropy, a constant.

    Args:
        student, teacher: (B, classes) logits.
        temperature: τ > 0.

    Returns:
        (B,) in at least float32.
    """
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    divergence = F.kl_div(
        (student / temperature).log_softmax(dim=1),
        (teacher / temperature).log_softmax(dim=1),
        reduction="none",
        log_target=True,
    )
    return divergence.sum(dim=1) * temperature**2


def multi_label_distillation_loss(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """τ²·Σ_classes KL(t‖s) + KL(1−t‖1−s), per sample, t and s being sigmoid(logits/τ) (e²KD's code, for VOC).

    Args:
        student, teacher: (B, classes) logits, each class for itself.
        temperature: τ > 0.

    Returns:
        (B,) in at least float32.
    """
    s, t = (
        (at_least_float32(logits) / temperature).sigmoid().clamp(NEAREST, 1 - NEAREST) for logits in (student, teacher)
    )
    divergence = t * (t.log() - s.log()) + (1 - t) * ((1 - t).log() - (1 - s).log())
    return divergence.sum(dim=1) * temperature**2
