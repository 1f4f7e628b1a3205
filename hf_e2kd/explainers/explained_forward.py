"""Explained forward: a model's own `forward` returns its explanation too, so that wrappers see one forward pass.

DDP, FSDP2, `torch.compile`, autocast and activation checkpointing all act on a module's call. An explanation computed
outside that call would escape them: its gradients would not be reduced over ranks, its half precision not be applied.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput

from ..architectures.base import forget_biases
from ..architectures.discovery import accepted_inputs, logits_of
from ..architectures.functions import without_autocast
from ..architectures.refusals import refuse_dropped_patches
from ..architectures.taps import Taps
from .base import Explainer


@dataclass
class ExplainedOutput(ModelOutput):
    """Output of an explained forward that is given `explain_target` or `with_features`.

    Args:
        logits: Logits (B, classes).
        maps: Attribution maps (B, *grid), or (B, K, *grid) for targets (B, K). Of a text, the scores of its tokens.
        mask: Mask (B, *grid) bool of the cells that count, or None where every cell does.
        vectors: Vectors (B, [K,] channels, *grid) of methods that explain by a vector at every place.
        features: Outputs of the tapped layers by path, laid out by `hf_e2kd.architectures.taps.feature_cells`.
    """

    logits: torch.Tensor | None = None
    maps: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    vectors: torch.Tensor | None = None
    features: dict[str, torch.Tensor] | None = None

    def of_target(self, number: int | slice) -> "ExplainedOutput":
        """Select the output for one of the K targets, or for some of them."""
        return replace(
            self,
            maps=None if self.maps is None else self.maps[:, number],
            vectors=None if self.vectors is None else self.vectors[:, number],
        )


def install_explained_forward(model: nn.Module, explainer: Explainer | None, taps: Sequence[str] = ()) -> None:
    """Add the keywords `explain_target`, (B,) or (B, K) classes to explain, and `with_features` to a model's forward.

    Without them, the forward is the model's own. The model's class, parameters, state dict and the signature that
    others read from its forward don't change. A second installation replaces the first.

    Args:
        explainer: Explainer of the targets; None where nothing will be explained.
        taps: Paths of the layers whose outputs are features.

    Raises:
        ValueError: the model has no such layer.
    """
    own_forward = getattr(model.forward, "own_forward", model.forward)
    # The function without its instance, so that a deep copy of the model calls its own layers.
    is_method = inspect.ismethod(own_forward)
    own_function: Callable[..., Any] = own_forward.__func__ if is_method else own_forward
    before: Taps | None = vars(model).pop("_feature_taps", None)
    if before is not None:
        before.remove()
    if taps:
        # On the model, so that a deep copy has its own.
        vars(model)["_feature_taps"] = Taps(model, taps)

    def explained_forward(
        self: nn.Module,
        *args: Any,
        explain_target: torch.Tensor | None = None,
        with_features: bool = False,
        **inputs: Any,
    ) -> Any:
        def forward(inputs: Mapping[str, Any]) -> Any:
            return own_function(self, *args, **inputs) if is_method else own_function(*args, **inputs)

        if not self.training and not torch.compiler.is_compiling():
            forget_biases(self)  # a best checkpoint's weights are loaded in evaluation mode
        if explain_target is None and not with_features:
            return forward(inputs)
        reading: Taps | None = vars(self).get("_feature_taps") if with_features else None
        if reading is not None:
            refuse_dropped_patches(self)
            reading.start()
        if explain_target is None:
            output = ExplainedOutput(logits=logits_of(self, forward(accepted_inputs(self, inputs))))
        else:
            assert explainer is not None
            # Autocast is one object around the forward. Entered within itself, it forgets that it was off before, and
            # leaves itself on for the losses, and for whatever the process does afterwards.
            with nullcontext() if torch.compiler.is_compiling() else without_autocast(self):
                explanation = explainer.forward(self, inputs, explain_target)
            output = ExplainedOutput(
                logits=explanation.logits, maps=explanation.maps, mask=explanation.mask, vectors=explanation.vectors
            )
        if reading is not None:
            output.features = reading.stop(inputs)
        return output

    signature = inspect.signature(own_function)
    if not is_method:
        self_parameter = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        signature = signature.replace(parameters=[self_parameter, *signature.parameters.values()])
    explained_forward.__signature__ = signature  # type: ignore[attr-defined]
    explained_forward.own_forward = own_forward  # type: ignore[attr-defined]
    # By this name a pickled model finds the forward of its class: a method is pickled as the attribute of that name.
    explained_forward.__name__ = "forward"
    model.forward = MethodType(explained_forward, model)
