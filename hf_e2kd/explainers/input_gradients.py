"""Derivatives of a logit with respect to what a model reads: an image's pixels, or a text's word embeddings."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..alignment.precision import at_least_float32
from ..architectures import call_model, find_architecture
from ..architectures.discovery import image_size
from ..architectures.text import (
    leaf_unless_connected,
    moved_embeddings,
    reads_embeddings,
    text_at_embeddings,
    word_embeddings,
)
from ..architectures.text_baseline import BASELINE_TOKENS, is_steep_at_zero
from .attention_kernels import refuse_fused_attention, refuse_fused_recomputation
from .base import Explainer, Explanation, Target, one_hots, resolve_target
from .hard_gates import differentiable_gates
from .hooks import Move, refuse_single_derivatives, unmoved

# Gradients of a half-precision pass fall below float16's smallest number; a power of two scales them exactly.
FLOAT16_SCALE = 2.0**10


class InputExplainer(Explainer):
    """Base of methods that differentiate the whole model, at its input."""

    explains_any_output = True

    def check(self, model: nn.Module, compiled: bool = False, trained: bool = True) -> None:
        if trained:
            refuse_fused_attention(model)
        if compiled:
            refuse_uncompilable(model, self.name)


class BaselineExplainer(InputExplainer):
    """A method that attributes a logit's rise from a baseline, of a text one that suits the model."""

    # Ids that a tokenizer states for the tokens that may be a text's baseline.
    _tokenizer_ids: Mapping[str, int | None] = {}

    def with_tokenizer(self, tokenizer: Any) -> "Explainer":
        if tokenizer is None:
            return self
        informed = copy(self)
        informed._tokenizer_ids = {name: getattr(tokenizer, f"{name}_token_id", None) for name in BASELINE_TOKENS}
        return informed

    def check(self, model: nn.Module, compiled: bool = False, trained: bool = True) -> None:
        super().check(model, compiled, trained)
        if reads_embeddings(model):
            is_steep_at_zero(model)  # now, before the model is compiled or sharded


@dataclass
class InputGradients:
    """A forward pass and its derivatives at the (moved) input.

    Args:
        logits: Logits (B, classes).
        value: Input with respect to which the derivatives are: pixels (B, channels, H, W) or word embeddings (B, T, C).
        gradients: Gradient of the logit of each of the K targets, shaped like `value`, in at least float32; zero where
            the target is −1.
        target: Explained classes (B,) or (B, K).
    """

    logits: torch.Tensor
    value: torch.Tensor
    gradients: list[torch.Tensor]
    target: torch.Tensor


def differentiate(model: nn.Module, inputs: Mapping[str, Any], target: Target, move: Move = unmoved) -> InputGradients:
    """Run a model at its input, or at another one, and differentiate the targets' logits there.

    Args:
        inputs, move: Arguments of `run_at`.
        target: Classes to explain, (B,) or (B, K), or a function of the logits that gives them.
    """
    if torch.compiler.is_compiling():
        return _differentiate_function(model, inputs, target, move)
    logits, value = run_at(model, inputs, move)
    target = resolve_target(target, logits)
    return InputGradients(logits, value, target_gradients(logits, value, target), target)


def _differentiate_function(model: nn.Module, inputs: Mapping[str, Any], target: Target, move: Move) -> InputGradients:
    """The same inside a compiled region, whose backward can't be differentiated, and which sees no new hook.

    The model as a function of its input is differentiated by `torch.func`, so that the derivative is forward code.
    """
    if inputs.get("pixel_values") is not None:
        name, others, value = "pixel_values", inputs, move(inputs["pixel_values"])
    else:
        name, others = "inputs_embeds", text_at_embeddings(model, inputs)
        value = move(word_embeddings(model)(inputs["input_ids"]))

    def run(at: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return call_model(model, {**others, name: at})

    logits, pullback, *_ = torch.func.vjp(run, value)
    target = resolve_target(target, logits)
    scale = gradient_scale(logits, value)
    gradients = [in_full_precision(pullback(one_hot * scale)[0], scale) for one_hot in one_hots(target, logits)]
    return InputGradients(logits, value, gradients, target)


def gradient_scale(*values: torch.Tensor) -> float:
    """Return a factor that keeps the gradients of a float16 pass above float16's smallest number."""
    return FLOAT16_SCALE if torch.float16 in {value.dtype for value in values} else 1.0


def in_full_precision(gradient: torch.Tensor, scale: float) -> torch.Tensor:
    return at_least_float32(gradient) / scale


def refuse_uncompilable(model: nn.Module, explainer: str) -> None:
    """Refuse models that aren't known to be a function of their input, as a compiled explanation needs.

    Raises:
        ValueError: with the remedy.
    """
    reason = None
    if any(getattr(module, "track_running_stats", False) for module in model.modules()):
        reason = "has batch norms, which record statistics while it is differentiated"
    elif not reads_embeddings(model) and getattr(find_architecture(model), "split", None) is None:
        reason = "is of a family of which it isn't known that it is a function of its input alone"
    if reason is not None:
        raise ValueError(
            f"torch_compile can't differentiate the whole of {type(model).__name__}, as '{explainer}' does: it "
            f"{reason}. Train without torch_compile; images can also be explained by 'gradcam'."
        )


def run_at(model: nn.Module, inputs: Mapping[str, Any], move: Move = unmoved) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the model's own forward at another input, in a way that can be differentiated.

    Args:
        inputs: Batch with `pixel_values` (B, channels, H, W), or `input_ids` (B, T) and what belongs to them.
        move: Function that moves the pixels, or the word embeddings (B, T, C) before positions are added.

    Returns:
        The logits (B, classes), and the moved input, with respect to which they can be differentiated.

    Raises:
        ValueError: the model can't be explained at its input, with the reason.
    """
    grad_is_on = torch.is_grad_enabled()
    if grad_is_on:
        refuse_fused_recomputation(model)
    # The fused kernels have no double backward; where no graph is kept they are welcome.
    kernel = sdpa_kernel(SDPBackend.MATH) if grad_is_on else nullcontext()
    with torch.enable_grad(), kernel, differentiable_gates(model):
        if inputs.get("pixel_values") is not None:
            image_size(model, inputs)
            pixels = leaf_unless_connected(move(inputs["pixel_values"]))
            logits = call_model(model, {**inputs, "pixel_values": pixels})
            if grad_is_on:
                refuse_single_derivatives(model, "pixels", logits, pixels)
            return logits, pixels
        if inputs.get("input_ids") is None:
            raise ValueError(
                f"{type(model).__name__} is explained at `pixel_values` or `input_ids`; given are {sorted(inputs)}."
            )
        with moved_embeddings(model, inputs["input_ids"], move) as moved:
            logits = call_model(model, inputs)
        require_moved(model, moved)
        if grad_is_on:
            refuse_single_derivatives(model, "words", logits, moved[0])
        return logits, moved[0]


def require_moved(model: nn.Module, moved: list[torch.Tensor]) -> None:
    """Refuse a model that has run within `moved_embeddings` and embedded its tokens by another table."""
    if not moved:
        raise ValueError(
            f"{type(model).__name__} doesn't embed its `input_ids` by the table that its get_input_embeddings() "
            "names, so a text can't be explained at its word embeddings."
        )


def target_gradients(logits: torch.Tensor, value: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
    """Compute for each of the K targets the gradient of its logit, shaped like `value`, in at least float32.

    Args:
        target: Explained classes (B,) or (B, K); the gradient is zero where it is −1.
    """
    create_graph = torch.is_grad_enabled()
    scale = gradient_scale(logits, value)
    chosen = one_hots(target, logits)
    gradients = []
    for number, one_hot in enumerate(chosen):
        (gradient,) = torch.autograd.grad(
            logits,
            value,
            grad_outputs=one_hot * scale,
            create_graph=create_graph,
            retain_graph=create_graph or number + 1 < len(chosen),
            allow_unused=True,
        )
        if gradient is None:
            raise ValueError("The logits don't depend on the input, so there is nothing to explain.")
        gradients.append(in_full_precision(gradient, scale))
    return gradients


def input_explanation(
    logits: torch.Tensor, scores: list[torch.Tensor], target: torch.Tensor, inputs: Mapping[str, Any]
) -> Explanation:
    """Compute the scores of each target: (B, H, W) of an image's pixels, or (B, T) of a text's tokens."""
    stacked = torch.stack(scores, 1) if target.ndim == 2 else scores[0]
    is_image = inputs.get("pixel_values") is not None
    return Explanation(logits, stacked, target, layout="image" if is_image else "tokens")


def over_channels(values: torch.Tensor, inputs: Mapping[str, Any]) -> torch.Tensor:
    """Sum over an image's colours (B, C, H, W) → (B, H, W), or over a text's embedding (B, T, C) → (B, T)."""
    return values.sum(1 if inputs.get("pixel_values") is not None else -1)


def rows_of(inputs: Mapping[str, Any], rows: torch.Tensor, batch: int) -> dict[str, Any]:
    """Select some samples of the batch."""
    return {key: value[rows] if is_batched(value, batch) else value for key, value in inputs.items()}


def is_batched(value: Any, batch: int) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == batch


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Context in which batch norms in training mode use their batch's statistics without recording them."""
    # By their flag: torch's batch norms have it, and those of B-cos networks.
    norms = [module for module in model.modules() if module.training and getattr(module, "track_running_stats", False)]
    try:
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
