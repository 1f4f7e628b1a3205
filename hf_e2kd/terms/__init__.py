"""Terms of the loss: pure functions of tensors, and the modules that a training sums."""

from .base import ReferenceOutput, StepOutput, Term
from .guidance import Guidance, available_guidance_losses, guidance_loss, register_guidance_loss
from .logits import Logits, available_logits_losses, logits_loss, register_logits_loss
from .maps import Maps, available_explanation_losses, explanation_loss, register_explanation_loss
from .registry import available_terms, build_term, register_term
from .task import Task

__all__ = [
    "Guidance",
    "Logits",
    "Maps",
    "ReferenceOutput",
    "StepOutput",
    "Task",
    "Term",
    "available_explanation_losses",
    "available_guidance_losses",
    "available_logits_losses",
    "available_terms",
    "build_term",
    "explanation_loss",
    "guidance_loss",
    "logits_loss",
    "register_explanation_loss",
    "register_guidance_loss",
    "register_logits_loss",
    "register_term",
]
