"""The terms of the objective, as functions of tensors."""

from .guidance import available_guidance_losses, guidance_loss, register_guidance_loss
from .logits import distillation_loss, multi_label_distillation_loss
from .maps import available_explanation_losses, explanation_loss, register_explanation_loss

__all__ = [
    "available_explanation_losses",
    "available_guidance_losses",
    "distillation_loss",
    "explanation_loss",
    "guidance_loss",
    "multi_label_distillation_loss",
    "register_explanation_loss",
    "register_guidance_loss",
]
