"""Attention weights of every layer, recorded during a model's own forward."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from ..architectures import is_timm
from .attention_kernels import is_checkpointed
from .base import default_method

# What transformers sets on a model whose recording hooks it has registered.
_HOOKS_MARK = "_output_capturing_hooks_installed"


@contextmanager
def recorded_attention(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect each layer's attention weights (B, heads, N, N), with their graph, of the forward that runs meanwhile.

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


@contextmanager
def _recorded_by_transformers(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Ask a model of transformers for its attentions, which it has in eager mode alone."""
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
    """Read what timm's attention gives to its values, as the output of its dropout."""
    fused = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    dropouts = [
        module.attn_drop for module in model.modules() if isinstance(getattr(module, "attn_drop", None), nn.Module)
    ]
    if not dropouts:
        raise _no_global_attention(model, [])
    if any(hasattr(module, "lambda_init") for module in model.modules()):
        raise ValueError(
            f"{type(model).__name__} weights its values by the difference of two attentions, in part negative, so that "
            f"neither says how much of a token is taken. Explain it by '{default_method(model)}'."
        )
    weights: list[torch.Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: torch.Tensor) -> None:
        # What activation checkpointing computes again, in a backward pass, was recorded before.
        if torch._C._current_graph_task_id() == -1:
            weights.append(output)

    handles = [dropout.register_forward_hook(keep) for dropout in dropouts]
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
    """List every configuration from which a module of the model reads its kernel, once; layers share them."""
    configs = [getattr(module, "config", None) for module in model.modules()]
    return list({id(config): config for config in configs if isinstance(config, PreTrainedConfig)}.values())


@contextmanager
def _eager(model: nn.Module) -> Iterator[None]:
    """Set eager attention. The property's own setter would change configurations that no module reads, too."""
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
    """Remove the hooks that transformers registers when it is first asked for attentions.

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


def refuse_checkpointing(model: nn.Module) -> None:
    """Refuse checkpointing that gives no graph of the weights, or that would compute attention otherwise later.

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


def global_size(
    model: nn.Module, weights: Sequence[torch.Tensor], inputs: Mapping[str, Any], logits: torch.Tensor
) -> int:
    """Return the number of tokens N, where every layer lets each of them attend to all.

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
        f"{found}. Explain it by '{default_method(model)}'."
    )
