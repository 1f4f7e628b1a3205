"""Base of class activation maps: a layer's features weighted by the logit's gradient there, differentiable."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..architectures import discover_target, find_architecture
from ..architectures.base import Split, forget_biases
from ..architectures.sharding import is_sharded
from ..architectures.timm import FEATURES
from .attention_kernels import refuse_fused_attention
from .base import Explainer, Explanation, Target, one_hots, resolve_target
from .hard_gates import differentiable_gates
from .input_gradients import gradient_scale, in_full_precision
from .layer_gradients import LayerGradients, differentiate_layer


class CAM(Explainer):
    """A map made of a layer's features A and the raw logit's gradient ∂z/∂A there, by the formula `map`.

    Where the architecture's head is known, the gradient is taken inside the forward pass by `torch.func` over the head
    alone, so the pass runs unchanged in eager mode, compiled, in half precision and under DDP. Elsewhere a hook reads
    the layer and `torch.autograd.grad` differentiates, in eager mode.

    Args:
        target_layer: Path of the layer A. By default the architecture's own, or the one found by tracing.
    """

    explains_any_output = True

    def __init__(self, target_layer: str | None = None):
        self.target_layer = target_layer
        self._by_hook = False
        self._discovered: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()

    def target_layer_path(self, model: nn.Module) -> str | None:
        architecture = find_architecture(model)
        known = None if architecture is None else architecture.target_path(model)
        return self.target_layer or known or self._discovered.get(model)

    def with_features(self, model: nn.Module, paths: Sequence[str]) -> "CAM":
        """Return the explainer that takes the hook, where a layer lies in the head that the split path cuts open."""
        by_hook = self._cuts_open(model, paths)
        if by_hook == self._by_hook:
            return self
        # Also back from the hook, which another model's layers have asked for.
        fitting = copy(self)
        fitting._by_hook = by_hook
        return fitting

    def _cuts_open(self, model: nn.Module, paths: Sequence[str]) -> bool:
        """Tell whether one of the layers at these paths lies in the head that the split path cuts open."""
        architecture = None if self.target_layer is not None else find_architecture(model)
        if architecture is None or architecture.split is None:
            return False
        target, layers = architecture.target_path(model), [name for name, _ in model.named_modules()]
        if target not in layers:
            return False
        cut = layers.index(target)
        return any(layers.index(path) > cut or target.startswith(f"{path}.") for path in paths if path in layers)

    def check(self, model: nn.Module, compiled: bool = False, trained: bool = True) -> None:
        if any(cls.__name__.endswith("ForSequenceClassification") for cls in type(model).__mro__):
            raise ValueError(
                f"{type(self).__name__} explains images, and {type(model).__name__} reads texts. Explain it by "
                "explainer='integrated_gradients'; for plain distillation set evaluate_explanations=False."
            )
        if trained:
            refuse_fused_attention(model)
        architecture = find_architecture(model)
        by_hook = self._by_hook or self.target_layer is not None
        if compiled and (by_hook or architecture is None or architecture.split is None):
            raise ValueError(
                f"torch_compile can't see into {type(model).__name__} through a hook. Train without torch_compile, or "
                "register the architecture with a `split` function."
            )

    def forward(self, model: nn.Module, inputs: Mapping[str, Any], target: Target) -> Explanation:
        architecture = None if self.target_layer is not None else find_architecture(model)
        # What FSDP2 does before and after a block, `torch.func` can't differentiate.
        by_hook = self._by_hook or (not torch.compiler.is_compiling() and is_sharded(model))
        if architecture is not None and architecture.split is not None and not by_hook:
            if not torch.compiler.is_compiling():
                forget_biases(model)
            counting = _batch_counters(model)
            split = architecture.split(model, inputs)
            # Norms that have counted this batch by now stand before the head.
            norms = [(norm, counter) for norm, counter, before in counting if _version(counter) == before]
            logits, activations, gradients, classes, grid = _by_head(model, split, target, norms)
            if not torch.compiler.is_compiling():
                forget_biases(model)
        else:
            path = None if architecture is None else architecture.target_path(model)
            if path is None or path.split(".")[-1] == FEATURES:
                path = self._target_path(model, inputs)
            logits, activations, gradients, classes, grid = differentiate_layer(model, path, inputs, target)
        maps = torch.stack([self.map(grid.cells(activations), grid.cells(gradient)) for gradient in gradients], 1)
        return Explanation(logits, maps if classes.ndim == 2 else maps[:, 0], classes)

    @staticmethod
    @abstractmethod
    def map(activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        """Compute the map (B, h, w) of activations and gradients (B, h, w, C), in at least float32."""

    def _target_path(self, model: nn.Module, inputs: Mapping[str, Any]) -> str:
        if self.target_layer is not None:
            return self.target_layer
        if model not in self._discovered:
            self._discovered[model] = discover_target(model, inputs)
        return self._discovered[model]


def _by_head(
    model: nn.Module, split: Split, target: Target, norms: list[tuple[_BatchNorm, torch.Tensor]]
) -> LayerGradients:
    """Differentiate the head alone. In full precision even under autocast, where the gradient would lose digits.

    A model of several precisions, as a float32 classifier on a bfloat16 backbone, runs under autocast alone.

    Args:
        norms: Batch norms that the head may call, with their counters of batches.
    """
    device = split.activation.device.type
    activation = split.activation
    by_autocast = torch.is_autocast_enabled(device)
    if by_autocast and (own := _only_dtype(model)) is not None:
        activation, by_autocast = activation.to(own), False

    # In quotes, because torch 2.9 can't compile the annotation.
    def head(activation: torch.Tensor) -> "tuple[torch.Tensor, list[torch.Tensor | None]]":
        # `torch.func` refuses to change in place what its function didn't make: the norms count in copies.
        for norm, counter in norms:
            norm.num_batches_tracked = counter.clone()
        return split.head(activation), [norm.num_batches_tracked for norm, _ in norms]

    with torch.autocast(device, enabled=by_autocast), differentiable_gates(model):
        try:
            logits, pullback, counts = torch.func.vjp(head, activation, has_aux=True)  # type: ignore[misc]
        finally:
            for norm, counter in norms:
                norm.num_batches_tracked = counter
        for (_, counter), count in zip(norms, counts, strict=True):
            counter.copy_(count)
        target = resolve_target(target, logits)
        scale = gradient_scale(logits, activation)
        gradients = [gradient for chosen in one_hots(target, logits) for gradient in pullback(scale * chosen)]
    return logits, activation, [in_full_precision(each, scale) for each in gradients], target, split.grid


def _only_dtype(model: nn.Module) -> torch.dtype | None:
    """Return the precision of the model's floating-point parameters; None where there are several."""
    dtypes = [parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()]
    return dtypes[0] if all(dtype == dtypes[0] for dtype in dtypes) else None


def _batch_counters(model: nn.Module) -> list[tuple[_BatchNorm, torch.Tensor, int]]:
    """The batch norms in training mode that count their batches, with their counters and these counters' versions."""
    return [
        (module, module.num_batches_tracked, _version(module.num_batches_tracked))
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.training and module.num_batches_tracked is not None
    ]


def _version(counter: torch.Tensor) -> int:
    """The number of changes in place, which a compiler doesn't know: there each norm may be the head's."""
    return 0 if torch.compiler.is_compiling() else counter._version
