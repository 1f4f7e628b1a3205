"""Explanation methods that can be trained through."""

from .base import Explainer, Explanation, Target
from .explained_forward import ExplainedOutput, install_explained_forward
from .gradcam import GradCAM
from .registry import available_explainers, build_explainer, explain, register_explainer

__all__ = [
    "ExplainedOutput",
    "Explainer",
    "Explanation",
    "GradCAM",
    "Target",
    "available_explainers",
    "build_explainer",
    "explain",
    "install_explained_forward",
    "register_explainer",
]
