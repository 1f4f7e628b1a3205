"""Explainers by name."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
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

    Raises:
        ValueError: something else than a subclass of `Explainer`.
    """
    if not (isinstance(explainer, type) and issubclass(explainer, Explainer)):
        raise ValueError(f"An explainer is registered by its class, a subclass of `Explainer`, not by {explainer!r}.")
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
        valid = ", ".join(inspect.signature(_EXPLAINERS[name]).parameters) or "none"
        raise ValueError(
            f"Options {options} don't fit the explainer '{name}': {error}. Its options: {valid}."
        ) from error


def explain(
    model: nn.Module,
    inputs: Mapping[str, Any] | torch.Tensor,
    method: str | Explainer = "gradcam",
    target: Target | Sequence[int] | int = None,
    **options: Any,
) -> Explanation:
    """Explains a batch of a model's decisions.

    The model is explained in the mode it is in: call `model.eval()` first, or dropout and batch statistics act, with a
    warning.

    Args:
        model: A classifier, of transformers, timm or your own.
        inputs: What its forward takes, as a processor gives it with `return_tensors="pt"`, or `pixel_values`
            (B, channels, H, W) alone.
        method: One of `available_explainers()`, or an explainer.
        target: Class to explain: one for all samples, (B,) or (B, K) of them, or a function of the logits that gives
            these; the top class by default. −1 explains none: its map is zero.
        options: The method's own options.

    Returns:
        An `Explanation` without graph: `logits`, `maps`, `mask`, `target`, `layout`.

    Raises:
        ValueError: unknown method, option, layer or class; inputs that are no batch of finite images; or a model
            without a layer that is laid out in space.

    Example:

        >>> from transformers import ResNetConfig, ResNetForImageClassification
        >>> import hf_e2kd, torch
        >>> config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        >>> model = ResNetForImageClassification(config).eval()
        >>> hf_e2kd.explain(model, torch.rand(2, 3, 32, 32)).maps.shape
        torch.Size([2, 4, 4])
    """
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"The model must be a torch module, not {type(model).__name__}; of a pipeline, give its `model`."
        )
    if isinstance(method, Explainer) and options:
        raise ValueError(
            f"Give the options {sorted(options)} to the explainer's constructor, not beside the explainer."
        )
    explainer = method if isinstance(method, Explainer) else build_explainer(method, **options)
    if model.training:
        warnings.warn(
            f"{type(model).__name__} is in training mode: dropout and batch statistics change what is explained. Call "
            "model.eval() first.",
            stacklevel=2,
        )
    # Inference mode would leave nothing to differentiate.
    with torch.inference_mode(False):
        batch = _batch(inputs)

        def classes(logits: torch.Tensor) -> torch.Tensor:
            chosen = resolve_target(_target(target, len(logits)), logits)
            for extreme in (chosen.max(), chosen.min()) if chosen.numel() else ():
                if not -1 <= extreme < logits.shape[1]:
                    raise ValueError(f"There is no class {int(extreme)}: the model has {logits.shape[1]} classes.")
            return chosen

        return explainer(model, batch, classes)


def _batch(inputs: Any) -> dict[str, Any]:
    """The forward's inputs without labels; refused where they are no batch of finite images."""
    if not isinstance(inputs, Mapping | torch.Tensor):
        raise ValueError(
            f"inputs must be a tensor (B, channels, H, W), or what an image processor gives, not "
            f'{type(inputs).__name__}: processor(images, return_tensors="pt").'
        )
    batch = {"pixel_values": inputs} if isinstance(inputs, torch.Tensor) else dict(inputs)
    batch.pop("labels", None)
    pixel_values = batch.get("pixel_values")
    if pixel_values is not None:
        if not isinstance(pixel_values, torch.Tensor):
            raise ValueError(
                f"pixel_values must be a tensor, not {type(pixel_values).__name__}: give the processor "
                'return_tensors="pt".'
            )
        if pixel_values.ndim != 4 or len(pixel_values) == 0:
            raise ValueError(
                f"pixel_values must have the shape (B, channels, H, W) with B at least 1, not "
                f"{tuple(pixel_values.shape)}; a single image is `image[None]`."
            )
        if not pixel_values.isfinite().all():
            rows = (~pixel_values.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
            raise ValueError(f"pixel_values holds NaN or infinite values in the samples {rows[:8]}. Leave them out.")
    return {
        key: value.clone() if isinstance(value, torch.Tensor) and value.is_inference() else value
        for key, value in batch.items()
    }


def _target(target: Any, samples: int) -> Target:
    """Numbers and sequences of numbers as a tensor."""
    if target is None or callable(target):
        return target
    try:
        chosen = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"The target must be a class's number, one or several numbers a sample, or None for the top class, not "
            f"{target!r}. `model.config.label2id` gives a name's number."
        ) from error
    if chosen.ndim == 0 and chosen < 0:
        raise ValueError(f"There is no class {target}; classes are counted from 0.")
    return chosen.expand(samples) if chosen.ndim == 0 else chosen
