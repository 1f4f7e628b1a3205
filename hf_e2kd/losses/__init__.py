"""The terms of the objective, as functions of tensors."""

from .explanation import available_explanation_losses, explanation_loss, register_explanation_loss
from .logits import distillation_loss

__all__ = ["available_explanation_losses", "distillation_loss", "explanation_loss", "register_explanation_loss"]
