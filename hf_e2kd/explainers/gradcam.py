"""GradCAM (Selvaraju et al., ICCV 2017), differentiable."""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..architectures import call_model, discover_target, find_architecture, grid_of
from ..architectures.base import Grid, Split, forget_biases
from ..architectures.discovery import image_size
from .attention_kernels import attention_kernel, is_checkpointed, refuse_fused_attention
from .base import Explainer, Explanation, Target, at_least_float32, one_hots, resolve_target
from .hooks import captured_output, refuse_single_derivatives


class GradCAM(Explainer):
    """ReLU(Σ_c mean_hw(∂z/∂A)·A): the features A of one layer, weighted by the raw logit's mean gradient.

    Where the architecture's head is known, the gradient is taken inside the forward pass by `torch.func` over the head
    alone, so the pass runs unchanged in eager mode, compiled, in half precision and under DDP. Elsewhere a hook reads
    the layer and `torch.autograd.grad` differentiates, in eager mode.

    Args:
        target_layer: Path of the layer A. By default the architecture's own, or the one found by tracing.
    """

    name = "gradcam"
    head_alone = True

    def __init__(self, target_layer: str | None = None):
        self.target_layer = target_layer
        self._discovered: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()

    def check(self, model: nn.Module, compiled: bool = False) -> None:
        if any(cls.__name__.endswith("ForSequenceClassification") for cls in type(model).__mro__):
            raise ValueError(
                f"GradCAM explains images, and {type(model).__name__} reads texts. Explain it by "
                "explainer='integrated_gradients'; for plain distillation set evaluate_explanations=False."
            )
        refuse_fused_attention(model)
        architecture = find_architecture(model)
        if compiled and (self.target_layer is not None or architecture is None or architecture.split is None):
            raise ValueError(
                f"torch_compile can't see into {type(model).__name__} through a hook. Train without torch_compile, or "
                "register the architecture with a `split` function."
            )

    def forward(self, model: nn.Module, inputs: Mapping[str, Any], target: Target) -> Explanation:
        architecture = None if self.target_layer is not None else find_architecture(model)
        if architecture is not None and architecture.split is not None:
            if not torch.compiler.is_compiling():
                forget_biases(model)
            logits, activations, gradients, classes, grid = _by_head(model, architecture.split(model, inputs), target)
        else:
            path = architecture.target_path(model) if architecture is not None else self._target_path(model, inputs)
            logits, activations, gradients, classes, grid = _by_hook(model, path, inputs, target)
        maps = torch.stack([gradcam_map(grid.cells(activations), grid.cells(gradient)) for gradient in gradients], 1)
        return Explanation(logits, maps if classes.ndim == 2 else maps[:, 0], classes)

    def _target_path(self, model: nn.Module, inputs: Mapping[str, Any]) -> str:
        if self.target_layer is not None:
            return self.target_layer
        if model not in self._discovered:
            self._discovered[model] = discover_target(model, inputs)
        return self._discovered[model]


def gradcam_map(activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """The map (B, h, w) of activations and gradients (B, h, w, C), in at least float32."""
    activations, gradients = at_least_float32(activations), at_least_float32(gradients)
    weights = gradients.mean(dim=(1, 2), keepdim=True)
    return (weights * activations).sum(dim=-1).relu()


_Differentiated = tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], torch.Tensor, Grid]


def _by_head(model: nn.Module, split: Split, target: Target) -> _Differentiated:
    """Differentiates the head alone. In full precision even under autocast, where the gradient would lose digits."""
    device = split.activation.device.type
    activation = split.activation
    if torch.is_autocast_enabled(device):
        activation = activation.to(_head_dtype(model))
    with torch.autocast(device, enabled=False):
        logits, pullback, *_ = torch.func.vjp(split.head, activation)
        target = resolve_target(target, logits)
        gradients = [gradient for chosen in one_hots(target, logits) for gradient in pullback(chosen)]
    return logits, activation, gradients, target, split.grid


# Within a compiled region a hook registered now captures nothing, so this forward is run as it is.
@torch.compiler.disable
def _by_hook(model: nn.Module, path: str, inputs: Mapping[str, Any], target: Target) -> _Differentiated:
    """Runs the model's own forward with a kernel whose attention can be differentiated twice."""
    create_graph = torch.is_grad_enabled()
    height, width = image_size(model, inputs)
    if create_graph and attention_kernel(model) == "sdpa" and is_checkpointed(model):
        raise ValueError(
            f"Activation checkpointing would recompute {type(model).__name__} with a fused attention kernel, which has "
            "no double backward. Call model.set_attn_implementation('eager'), or train without checkpointing."
        )
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), captured_output(model, path) as captured:
        logits = call_model(model, inputs)
        if not captured:
            raise ValueError(f"The layer '{path}' of {type(model).__name__} was not called by its forward pass.")
        activation = captured[-1]
        grid = grid_of(activation, height, width)
        if grid is None or len(activation) != len(logits):
            raise ValueError(
                f"The layer '{path}' of {type(model).__name__} has no spatial grid: its output's shape is "
                f"{tuple(activation.shape)} for {len(logits)} images of {height}×{width} pixels."
            )
        if create_graph:
            refuse_single_derivatives(model, path, logits, activation)
        target = resolve_target(target, logits)
        gradients = [
            torch.autograd.grad(
                (logits * chosen).sum(), activation, create_graph=create_graph, retain_graph=True, allow_unused=True
            )[0]
            for chosen in one_hots(target, logits)
            if logits.requires_grad
        ]
        if not gradients or gradients[0] is None:
            raise ValueError(f"The layer '{path}' of {type(model).__name__} doesn't reach the logits.")
    return logits, activation, gradients, target, grid


def _head_dtype(model: nn.Module) -> torch.dtype:
    """The classifier's precision: that of the model's last floating-point parameter."""
    return [parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()][-1]
