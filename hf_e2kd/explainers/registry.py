"""Explainers by name."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .base import Explainer, Explanation, Target, resolve_target
from .gradcam import GradCAM

_EXPLAINERS: dict[str, type[Explainer]] = {GradCAM.name: GradCAM}


def register_explainer(name: str, explainer: type[Explainer]) -> None:
    """Makes a method known by `name` to `explain`, the arguments and the recipes.

    Args:
        explainer: A subclass of `Explainer`; the options of its constructor become the method's options.
    """
    _EXPLAINERS[name] = explainer


def available_explainers() -> list[str]:
    """Names of the explanation methods."""
    return sorted(_EXPLAINERS)


def build_explainer(name: str, **options: Any) -> Explainer:
    """The explainer of that name with its options.

    Raises:
        ValueError: unknown name or option; the message lists the valid ones.
    """
    if name not in _EXPLAINERS:
        raise ValueError(f"Unknown explainer '{name}'. Available: {', '.join(available_explainers())}.")
    try:
        return _EXPLAINERS[name](**options)
    except TypeError as error:
        raise ValueError(f"Options {options} don't fit the explainer '{name}': {error}.") from error


def explain(
    model: nn.Module,
    inputs: Mapping[str, Any] | torch.Tensor,
    method: str | Explainer = "gradcam",
    target: Target | int = None,
    **options: Any,
) -> Explanation:
    """Explains a batch of a model's decisions.

    Args:
        model: A classifier, of transformers, timm or your own.
        inputs: What its forward takes, as a processor gives it, or `pixel_values` (B, channels, H, W) alone.
        method: One of `available_explainers()`, or an explainer.
        target: Class to explain: one for all samples, (B,) or (B, K) of them; the top class by default.
        options: The method's own options.

    Returns:
        An `Explanation` without graph: `logits`, `maps`, `mask`, `target`, `layout`.

    Raises:
        ValueError: unknown method, option, layer or class, or a model without a layer that is laid out in space.

    Example:

        >>> from transformers import ResNetConfig, ResNetForImageClassification
        >>> import hf_e2kd, torch
        >>> config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        >>> model = ResNetForImageClassification(config).eval()
        >>> hf_e2kd.explain(model, torch.rand(2, 3, 32, 32)).maps.shape
        torch.Size([2, 4, 4])
    """
    if isinstance(method, Explainer) and options:
        raise ValueError(
            f"Give the options {sorted(options)} to the explainer's constructor, not beside the explainer."
        )
    explainer = method if isinstance(method, Explainer) else build_explainer(method, **options)
    batch = {"pixel_values": inputs} if isinstance(inputs, torch.Tensor) else dict(inputs)
    batch.pop("labels", None)
    if isinstance(target, int):
        target = torch.full((len(next(iter(batch.values()))),), target)

    def classes(logits: torch.Tensor) -> torch.Tensor:
        chosen = resolve_target(target, logits)
        if chosen.max() >= logits.shape[1]:
            raise ValueError(f"There is no class {int(chosen.max())}: the model has {logits.shape[1]} classes.")
        return chosen

    return explainer(model, batch, classes)
