"""Kernels that compute a model's attention, and their missing second derivatives."""

from torch import nn


def attention_kernel(model: nn.Module) -> str:
    """Return the attention implementation of a model of transformers; empty for others."""
    return getattr(getattr(model, "config", None), "_attn_implementation", None) or ""


def refuse_fused_attention(model: nn.Module) -> None:
    """Refuse kernels through which a loss of an explanation has no gradient; a map alone can be taken in them.

    Raises:
        ValueError: flash or flex attention, with the remedy.
    """
    kernel = attention_kernel(model)
    if "flash" in kernel or "flex" in kernel:
        raise ValueError(
            f"The attention kernel '{kernel}' has no double backward, which training on explanations needs. Load the "
            "model with attn_implementation='sdpa' or 'eager', or call model.set_attn_implementation('sdpa')."
        )


def is_checkpointed(model: nn.Module) -> bool:
    """Tell whether activations are recomputed in the backward pass."""
    return any(module.training and getattr(module, "gradient_checkpointing", False) for module in model.modules())


def refuse_fused_recomputation(model: nn.Module) -> None:
    """Refuse activation checkpointing that would recompute attention by a fused kernel in the backward pass.

    Raises:
        ValueError: with the remedy.
    """
    if attention_kernel(model) == "sdpa" and is_checkpointed(model):
        remedy = "Call model.set_attn_implementation('eager')"
    elif _has(model, "grad_checkpointing") and _has(model, "fused_attn"):  # timm's
        remedy = "Build the model after timm.layers.set_fused_attn(False)"
    else:
        return
    raise ValueError(
        f"Activation checkpointing would recompute {type(model).__name__} with a fused attention kernel, which has "
        f"no double backward. {remedy}, or train without checkpointing."
    )


def _has(model: nn.Module, switch: str) -> bool:
    """Tell whether a switch is on in one of a model's modules."""
    return any(getattr(module, switch, False) for module in model.modules())
