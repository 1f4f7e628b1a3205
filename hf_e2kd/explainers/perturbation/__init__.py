"""Methods that change the input and watch the logits, for evaluation alone; any model, but of gradient SHAP."""

from .base import PerturbationExplainer
from .gradient_shap import GradientShap
from .kernel_shap import KernelShap
from .lime import Lime
from .occlusion import Occlusion
from .rise import Rise

__all__ = ["GradientShap", "KernelShap", "Lime", "Occlusion", "PerturbationExplainer", "Rise"]
