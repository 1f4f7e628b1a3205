"""Explanation-enhanced knowledge distillation (e²KD) for the Hugging Face ecosystem.

A public name or a room (`hf_e2kd.explainers`) is imported when it is first used.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .architectures import FunctionModel, available_architectures, register_architecture, wrap_timm
    from .data.text import TextCollator
    from .explainers import Explainer, Explanation, available_explainers, explain, register_explainer
    from .fidelity.published import Student, load_student
    from .references import AnnotationReference, Reference, TeacherReference
    from .store import StoredReference, StoredTextCollator
    from .terms import (
        ReferenceOutput,
        StepOutput,
        Term,
        available_explanation_losses,
        available_guidance_losses,
        available_logits_losses,
        available_terms,
        register_explanation_loss,
        register_guidance_loss,
        register_logits_loss,
        register_term,
    )
    from .trainer import ExplanationDistillTrainer
    from .trainer.arguments import ExplanationDistillArguments

__all__ = [
    "AnnotationReference",
    "Explainer",
    "Explanation",
    "ExplanationDistillArguments",
    "ExplanationDistillTrainer",
    "FunctionModel",
    "Reference",
    "ReferenceOutput",
    "StepOutput",
    "StoredReference",
    "StoredTextCollator",
    "Student",
    "TeacherReference",
    "Term",
    "TextCollator",
    "available_architectures",
    "available_explainers",
    "available_explanation_losses",
    "available_guidance_losses",
    "available_logits_losses",
    "available_terms",
    "explain",
    "load_student",
    "register_architecture",
    "register_explainer",
    "register_explanation_loss",
    "register_guidance_loss",
    "register_logits_loss",
    "register_term",
    "wrap_timm",
]

# The imports above once more, for Python itself.
_MODULES = {
    "AnnotationReference": ".references",
    "Explainer": ".explainers",
    "Explanation": ".explainers",
    "ExplanationDistillArguments": ".trainer.arguments",
    "ExplanationDistillTrainer": ".trainer",
    "FunctionModel": ".architectures",
    "Reference": ".references",
    "ReferenceOutput": ".terms",
    "StepOutput": ".terms",
    "StoredReference": ".store",
    "StoredTextCollator": ".store",
    "Student": ".fidelity.published",
    "TeacherReference": ".references",
    "Term": ".terms",
    "TextCollator": ".data.text",
    "available_architectures": ".architectures",
    "available_explainers": ".explainers",
    "available_explanation_losses": ".terms",
    "available_guidance_losses": ".terms",
    "available_logits_losses": ".terms",
    "available_terms": ".terms",
    "explain": ".explainers",
    "load_student": ".fidelity.published",
    "register_architecture": ".architectures",
    "register_explainer": ".explainers",
    "register_explanation_loss": ".terms",
    "register_guidance_loss": ".terms",
    "register_logits_loss": ".terms",
    "register_term": ".terms",
    "wrap_timm": ".architectures",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name], __name__), name)
    if find_spec(f"{__name__}.{name}"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
