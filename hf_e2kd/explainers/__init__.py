"""Explanation methods: those that can be trained through, and those without gradients, in `perturbation`."""

from .attention_gradient import AttentionGradient
from .attention_rollout import AttentionRollout
from .base import Explainer, Explanation, Stochastic, Target, shared_noise
from .bcos import Bcos
from .explained_forward import ExplainedOutput, install_explained_forward
from .gradcam import GradCAM
from .hires_cam import HiResCAM
from .input_x_gradient import InputXGradient
from .integrated_gradients import IntegratedGradients
from .layer_cam import LayerCAM
from .lrp import LRP
from .perturbation import GradientShap, KernelShap, Lime, Occlusion, Rise
from .registry import available_explainers, build_explainer, explain, register_explainer, usable_explainers
from .saliency import Saliency
from .superpixels import SuperpixelExplainer

__all__ = [
    "AttentionGradient",
    "AttentionRollout",
    "Bcos",
    "Stochastic",
    "ExplainedOutput",
    "Explainer",
    "Explanation",
    "GradCAM",
    "HiResCAM",
    "InputXGradient",
    "IntegratedGradients",
    "LRP",
    "LayerCAM",
    "Lime",
    "GradientShap",
    "KernelShap",
    "Occlusion",
    "Rise",
    "Saliency",
    "SuperpixelExplainer",
    "Target",
    "available_explainers",
    "build_explainer",
    "explain",
    "install_explained_forward",
    "register_explainer",
    "usable_explainers",
    "shared_noise",
]
