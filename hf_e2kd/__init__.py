"""Explanation-enhanced knowledge distillation (e²KD) for the Hugging Face ecosystem."""

from .architectures import available_architectures, register_architecture, wrap_timm
from .data.text import TextCollator
from .explainers import Explainer, Explanation, available_explainers, explain, register_explainer
from .hub.loading import Student, load_student
from .references import AnnotationReference, Reference, ReferenceOutput, TeacherReference
from .store import StoredReference, StoredTextCollator
from .terms import (
    available_explanation_losses,
    available_guidance_losses,
    register_explanation_loss,
    register_guidance_loss,
)
from .trainer import ExplanationDistillTrainer
from .trainer.arguments import ExplanationDistillArguments
from .version import __version__

__all__ = [
    "AnnotationReference",
    "Explainer",
    "Explanation",
    "ExplanationDistillArguments",
    "ExplanationDistillTrainer",
    "Reference",
    "ReferenceOutput",
    "StoredReference",
    "StoredTextCollator",
    "Student",
    "TeacherReference",
    "TextCollator",
    "__version__",
    "available_architectures",
    "available_explainers",
    "available_explanation_losses",
    "available_guidance_losses",
    "explain",
    "load_student",
    "register_architecture",
    "register_explainer",
    "register_explanation_loss",
    "register_guidance_loss",
    "wrap_timm",
]
