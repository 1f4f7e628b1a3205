"""Reads every layer's attention weights during a model's own forward, and which tokens its classifier reads."""

import inspect
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedConfig

from ..architectures import call_model, grid_of, is_timm
from ..architectures.base import Grid, evaluating
from ..architectures.timm import token_grid
from .attention_kernels import is_checkpointed
from .base import Explainer, Explanation, Target, one_hots, resolve_target
from .input_gradients import FLOAT16_SCALE, run_at

# Class, distillation and register tokens stand before the patches or words, and are no more than these.
_MOST_LEADING_TOKENS = 7
# What transformers sets on a model whose recording hooks it has registered.
_HOOKS_MARK = "_output_capturing_hooks_installed"

Choice = int | Sequence[int] | None
"""Layers or heads by their numbers, negative ones counted from the end; None for all."""


@dataclass(frozen=True)
class ReadTokens:
    """Which tokens of the last layer a classifier reads.

    Args:
        alone: Places of the tokens that are read by themselves: class and distillation tokens.
        mean_from: First of the tokens that are read as their mean, over those that count; None where no mean is read.
    """

    alone: tuple[int, ...]
    mean_from: int | None

    def weights(self, counted: torch.Tensor) -> torch.Tensor:
        """How much of each token is read, (B, N), 1 in total: single tokens and the mean have equal parts.

        Args:
            counted: (B, N) bool, which tokens are no padding.
        """
        parts = [torch.zeros(counted.shape, device=counted.device) for _ in self.alone]
        for part, place in zip(parts, self.alone, strict=True):
            part[:, place] = 1.0
        if self.mean_from is not None:
            averaged = counted.float()
            averaged[:, : self.mean_from] = 0.0
            parts.append(averaged / averaged.sum(1, keepdim=True).clamp(min=1.0))
        return torch.stack(parts).mean(0)


class AttentionExplainer(Explainer):
    """A method that follows attention from the tokens that the classifier reads back to the input's tokens.

    Every layer's weights are read from the model's own forward, which computes attention in the open for that one call,
    whatever kernel (sdpa, flash, flex, timm's fused one) it uses otherwise. Which tokens the classifier reads is found
    once for each model, by one more pass in evaluation mode.

    Args:
        layers: Numbers of the layers to follow; all by default, −1 for the last alone.
        heads: Numbers of the heads to average; all by default.
    """

    def __init__(self, layers: Choice = None, heads: Choice = None):
        self.layers = layers
        self.heads = heads
        self._read: WeakKeyDictionary[nn.Module, ReadTokens] = WeakKeyDictionary()

    def check(self, model: nn.Module, compiled: bool = False) -> None:
        if compiled:
            raise ValueError(
                f"torch_compile can't give the attention weights of {type(model).__name__}, which the explainer "
                f"'{self.name}' reads. Train without torch_compile, or explain by 'gradcam'."
            )
        _refuse_checkpointing(model)
        with recorded_attention(model):
            pass

    def forward(self, model: nn.Module, inputs: Mapping[str, Any], target: Target) -> Explanation:
        if model not in self._read:
            ids = inputs.get("input_ids")
            if ids is not None and ids.shape[1] < 2:
                raise ValueError(
                    "Texts of one token show nothing of what a classifier reads. Tokenize with the special tokens, or "
                    "begin with a batch of longer texts."
                )
            self._read[model] = find_read_tokens(model, inputs)
        if torch.is_grad_enabled():
            _refuse_checkpointing(model)
        # What checkpointing recomputes for the explanation's own gradient is recomputed in here.
        with recorded_attention(model) as recorded:
            logits = self._run(model, inputs)
            weights = list(recorded)
            tokens = _global_size(model, weights, inputs, logits)
            followed = [weights[layer] for layer in _chosen("layers", self.layers, len(weights), model)]
            _chosen("heads", self.heads, followed[0].shape[1], model)
            read = self._read[model].weights(_counted(inputs, tokens, logits))
            target = resolve_target(target, logits)
            # Products of many small numbers: in full precision, under autocast too.
            with torch.autocast(logits.device.type, enabled=False):
                scores = self._relevance(logits, followed, read, target)
        return _laid_out(model, inputs, logits, scores, target)

    def _run(self, model: nn.Module, inputs: Mapping[str, Any]) -> torch.Tensor:
        """The logits (B, classes) of the forward whose attention is recorded."""
        return call_model(model, inputs)

    @abstractmethod
    def _relevance(
        self, logits: torch.Tensor, weights: list[torch.Tensor], read: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """The tokens' scores.

        Args:
            weights: Of each layer that is followed, first to last, (B, heads, N, N).
            read: How much of each token the classifier reads, (B, N).
            target: (B,) or (B, K).

        Returns:
            (B, N), or (B, K, N) for targets (B, K).
        """

    def _mean_over_heads(self, weights: torch.Tensor) -> torch.Tensor:
        """(B, heads, N, N) → (B, N, N) in at least float32, over the heads that were chosen."""
        if self.heads is not None:
            weights = weights[:, [self.heads] if isinstance(self.heads, int) else list(self.heads)]
        return weights.mean(1, dtype=torch.float64 if weights.dtype == torch.float64 else torch.float32)


@contextmanager
def recorded_attention(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collects each layer's attention weights (B, heads, N, N), with their graph, of the forward that runs meanwhile.

    They are those that are multiplied with the values: after the softmax, and after dropout where it acts. The model's
    kernel is another for that long; its configuration and hooks are put back after it, errors included.

    Raises:
        ValueError: the model is neither timm's nor gives its attention as models of transformers do.
    """
    if any(is_timm(module) for module in model.modules()):
        with _recorded_by_hooks(model) as weights:
            yield weights
    else:
        with _recorded_by_transformers(model) as weights:
            yield weights


def find_read_tokens(model: nn.Module, inputs: Mapping[str, Any]) -> ReadTokens:
    """Which tokens the classifier reads: the rows of the last layer's attention whose gradient isn't zero.

    One forward and backward pass in evaluation mode; each module's training mode is put back as it was. Where the rows
    are all tokens, one that weighs far more than the mean's part is read by itself beside the mean, as DINOv2's class
    token is. A classifier that pools all tokens by weights of its own (SigLIP's) counts as one that reads their mean.

    Raises:
        ValueError: the model has no global attention, is causal, or reads tokens at places that depend on the sample.
    """
    # One derivative is taken, whatever the caller needs: `run_at` keeps the graph for it.
    with evaluating(model), torch.no_grad(), recorded_attention(model) as recorded:
        logits, _ = run_at(model, inputs)
        weights = list(recorded)
        tokens = _global_size(model, weights, inputs, logits)
        if not any(weight.triu(1).any() for weight in weights):
            raise ValueError(
                f"{type(model).__name__} is causal: its attention never looks ahead, so the first tokens lie on the "
                "most paths, whatever they say. Explain it by 'integrated_gradients' or 'input_x_gradient'."
            )
        sums = torch.cat([weight.detach().float().sum(-1).flatten() for weight in weights])
        if not torch.allclose(sums, torch.ones_like(sums), atol=0.02):
            raise ValueError(
                f"What {type(model).__name__} gives as its attention weights doesn't sum to 1 over the tokens, so it "
                "isn't what the values are weighted by. Explain it by 'integrated_gradients'."
            )
        (top,) = one_hots(logits.argmax(1), logits)
        scale = float16_scale(logits, weights)
        (gradient,) = torch.autograd.grad(logits, weights[-1], grad_outputs=top * scale, allow_unused=True)
    if gradient is None:
        raise ValueError(f"The last attention of {type(model).__name__} doesn't reach the logits.")
    read = _pattern(gradient.float().abs().sum((1, 3)), _counted(inputs, tokens, logits))
    if read is None:
        raise ValueError(
            f"{type(model).__name__}'s classifier reads neither its first tokens nor the mean of all, so attention has "
            "no row to start from. Explain it by 'integrated_gradients'."
        )
    return read


def float16_scale(logits: torch.Tensor, weights: Sequence[torch.Tensor]) -> float:
    """By how much a logit is multiplied before it is differentiated with respect to attention weights."""
    return FLOAT16_SCALE if torch.float16 in (logits.dtype, *(weight.dtype for weight in weights)) else 1.0


def _pattern(strength: torch.Tensor, counted: torch.Tensor) -> ReadTokens | None:
    """The tokens read, by the size (B, N) of each one's gradient; None where they aren't the same in every sample."""
    read = strength > 0
    leading = min(_MOST_LEADING_TOKENS + 1, strength.shape[1] // 2)
    averaged = [first for first in range(leading) if torch.equal(read[:, first:], counted[:, first:])]
    mean_from = averaged[0] if averaged else None
    before = read[:, :mean_from]
    if (before != before[:1]).any() or before[:, leading:].any() or not read.any():
        return None
    if mean_from == 0:
        mean_from = _standing_out(strength, leading)
        return ReadTokens(tuple(range(mean_from)), mean_from)
    return ReadTokens(tuple(before[0].nonzero().flatten().tolist()), mean_from)


def _standing_out(strength: torch.Tensor, leading: int) -> int:
    """How many tokens at the start are read by themselves beside a mean over the others, as a class token may be.

    In a mean over N tokens each weighs 1/N; a token that is read by itself weighs 1. √N stands between.
    """
    averaged = strength.where(strength > 0, torch.nan)
    limit = averaged.nanmedian(1).values * (strength > 0).sum(1) ** 0.5
    return int((averaged[:, :leading] > limit.unsqueeze(1)).all(0).cumprod(0).sum())


# --- Recording -------------------------------------------------------------------------------------------------------


@contextmanager
def _recorded_by_transformers(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Asks a model of transformers for its attentions, which it has in eager mode alone."""
    parameters = inspect.signature(model.forward).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if not _configs(model) or not (takes_any or "output_attentions" in parameters):
        raise _no_global_attention(model, [])
    weights: list[torch.Tensor] = []

    def ask(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "output_attentions": True, "return_dict": True}

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        recorded = output.get("attentions") or ()
        if any(weight is None for weight in recorded):
            raise ValueError(
                f"{type(model).__name__} chooses its attention kernel when it is built. Load it with "
                "attn_implementation='eager' to read its attention weights."
            )
        if not all(isinstance(weight, torch.Tensor) for weight in recorded):
            raise _no_global_attention(model, [])
        weights.extend(recorded)

    with _eager(model), _own_hooks_only(model):
        handles = [model.register_forward_pre_hook(ask, with_kwargs=True), model.register_forward_hook(keep)]
        try:
            yield weights
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def _recorded_by_hooks(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Reads what timm's attention gives to its values, as the output of its dropout."""
    fused = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    dropouts = [
        module.attn_drop for module in model.modules() if isinstance(getattr(module, "attn_drop", None), nn.Module)
    ]
    if not dropouts:
        raise _no_global_attention(model, [])
    weights: list[torch.Tensor] = []
    handles = [
        dropout.register_forward_hook(lambda _module, _args, output: weights.append(output)) for dropout in dropouts
    ]
    try:
        for module in fused:
            module.fused_attn = False
        yield weights
    finally:
        for module in fused:
            module.fused_attn = True
        for handle in handles:
            handle.remove()


def _configs(model: nn.Module) -> list[PreTrainedConfig]:
    """Every configuration that a module of the model reads its kernel from, once; layers share them."""
    configs = [getattr(module, "config", None) for module in model.modules()]
    return list({id(config): config for config in configs if isinstance(config, PreTrainedConfig)}.values())


@contextmanager
def _eager(model: nn.Module) -> Iterator[None]:
    """Attention in the open. The property's own setter would change configurations that no module reads, too."""
    before = [(config, config._attn_implementation_internal) for config in _configs(model)]
    try:
        for config, _ in before:
            config._attn_implementation_internal = "eager"
        yield
    finally:
        for config, kernel in before:
            config._attn_implementation_internal = kernel


@contextmanager
def _own_hooks_only(model: nn.Module) -> Iterator[None]:
    """Takes away the hooks that transformers registers when it is first asked for attentions.

    It would leave them, idle; but a model with them can be neither pickled nor compiled as one graph.
    """
    before = [(module, set(module._forward_hooks), _HOOKS_MARK in vars(module)) for module in model.modules()]
    try:
        yield
    finally:
        for module, own, was_marked in before:
            for key in set(module._forward_hooks) - own:
                del module._forward_hooks[key]
            if not was_marked:
                vars(module).pop(_HOOKS_MARK, None)


# --- What is refused -------------------------------------------------------------------------------------------------


def _refuse_checkpointing(model: nn.Module) -> None:
    """Refuses checkpointing that gives no graph of the weights, or that would compute attention otherwise later.

    Raises:
        ValueError: with the remedy.
    """
    modules = list(model.modules())
    if any(getattr(module, "grad_checkpointing", False) for module in modules):
        is_fused = any(getattr(module, "fused_attn", False) for module in modules)
        remedy = "Build the model after timm.layers.set_fused_attn(False)"
    elif is_checkpointed(model):
        is_fused = any(config._attn_implementation != "eager" for config in _configs(model))
        remedy = "Call model.set_attn_implementation('eager')"
        recompute = [getattr(module, "_gradient_checkpointing_func", None) for module in modules]
        if any(getattr(function, "keywords", {}).get("use_reentrant") for function in recompute):
            raise ValueError(
                f"Reentrant activation checkpointing gives {type(model).__name__}'s attention weights without their "
                'graph. Train with gradient_checkpointing_kwargs={"use_reentrant": False}, or without checkpointing.'
            )
    else:
        return
    if is_fused:
        raise ValueError(
            f"Activation checkpointing would recompute {type(model).__name__} with a fused attention kernel, which has "
            f"no weights to read. {remedy}, or train without checkpointing."
        )


def _global_size(
    model: nn.Module, weights: Sequence[torch.Tensor], inputs: Mapping[str, Any], logits: torch.Tensor
) -> int:
    """The number of tokens N, where every layer lets each of them look at all.

    Raises:
        ValueError: there are windows, reductions, or no attention at all.
    """
    tokens = weights[0].shape[-1] if weights else 0
    whole = (len(logits), tokens, tokens)
    is_global = all(weight.ndim == 4 and (len(weight), *weight.shape[2:]) == whole for weight in weights)
    ids = inputs.get("input_ids")
    if not weights or not is_global or (ids is not None and ids.shape[1] != tokens):
        raise _no_global_attention(model, weights)
    return tokens


def _no_global_attention(model: nn.Module, weights: Sequence[torch.Tensor]) -> ValueError:
    shapes = ", ".join(sorted({str(tuple(weight.shape)) for weight in weights}))
    found = f"its layers' weights have the shapes {shapes}" if shapes else "it gives no attention weights"
    return ValueError(
        f"{type(model).__name__} has no global attention map to read, (batch, heads, tokens, tokens) in every layer: "
        f"{found}. Explain it by 'gradcam' (images) or 'integrated_gradients'."
    )


def _chosen(what: str, choice: Choice, count: int, model: nn.Module) -> list[int]:
    """The numbers of the layers or heads that an option names, in the model's order.

    Raises:
        ValueError: there is no such layer or head; the message gives the valid range.
    """
    if choice is None:
        return list(range(count))
    numbers = [choice] if isinstance(choice, int) else list(choice)
    if not numbers or not all(isinstance(number, int) and -count <= number < count for number in numbers):
        raise ValueError(
            f"{what}={choice!r}: {type(model).__name__} has {count} {what}. Give numbers from {-count} to {count - 1}."
        )
    return sorted({number % count for number in numbers})


# --- Layout ----------------------------------------------------------------------------------------------------------


def _counted(inputs: Mapping[str, Any], tokens: int, logits: torch.Tensor) -> torch.Tensor:
    """Which tokens are no padding, (B, N) bool."""
    mask = inputs.get("attention_mask")
    if mask is None:
        return torch.ones(len(logits), tokens, dtype=torch.bool, device=logits.device)
    return mask != 0


def _laid_out(
    model: nn.Module, inputs: Mapping[str, Any], logits: torch.Tensor, scores: torch.Tensor, target: torch.Tensor
) -> Explanation:
    """The tokens' scores (B, [K,] N), of an image as a map of its patches, without the tokens before them."""
    if inputs.get("pixel_values") is None:
        return Explanation(logits, scores, target, layout="tokens")
    grid = _patch_grid(model, scores.shape[-1], *inputs["pixel_values"].shape[-2:])
    patches = scores[..., grid.prefix_tokens :].unflatten(-1, (grid.height, grid.width))
    return Explanation(logits, patches, target)


def _patch_grid(model: nn.Module, tokens: int, height: int, width: int) -> Grid:
    """How an image's tokens are laid out: as the model says; else with the fewest prefix tokens that leave a grid.

    Raises:
        ValueError: the tokens are no grid of patches.
    """
    if getattr(getattr(model, "config", None), "num_latents", None) == tokens:
        raise ValueError(
            f"{type(model).__name__} attends among {tokens} latents, which have no place in the image. Explain it by "
            "'gradcam' or 'integrated_gradients'."
        )
    bare = next((module for module in model.modules() if is_timm(module)), None)
    prefix = getattr(bare, "num_prefix_tokens", None)
    if prefix is not None:
        return Grid(*token_grid(tokens - prefix, height, width), "tokens", prefix)
    patch = getattr(getattr(model, "config", None), "patch_size", None)
    if patch is not None:
        patch_height, patch_width = (patch, patch) if isinstance(patch, int) else patch
        rows, columns = height // patch_height, width // patch_width
        if 0 <= tokens - rows * columns <= _MOST_LEADING_TOKENS:
            return Grid(rows, columns, "tokens", tokens - rows * columns)
    grid = grid_of(torch.empty(1, tokens, tokens, device="meta"), height, width)
    if grid is None:
        raise ValueError(
            f"The {tokens} tokens of {type(model).__name__} are no grid of patches of a {height}×{width} image."
        )
    return grid
