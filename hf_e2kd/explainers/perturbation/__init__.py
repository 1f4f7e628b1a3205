"""Methods that change the input and watch the logits: no gradients, any model, for evaluation alone."""

from .base import PerturbationExplainer
from .kernel_shap import KernelShap
from .occlusion import Occlusion
from .rise import Rise

__all__ = ["KernelShap", "Occlusion", "PerturbationExplainer", "Rise"]
