"""Reads one layer's output during a model's own forward."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def captured_output(model: nn.Module, path: str) -> Iterator[list[torch.Tensor]]:
    """Collects what the layer at `path` gives while the context lasts; the hook is gone after it, errors included.

    The model goes on with a copy, so that a following in-place operation can't change what was captured. A tensor
    without gradient (a frozen model's) is captured as a leaf that requires one. Within `torch.compile` a hook that is
    registered now captures nothing: decorate the caller with `torch.compiler.disable`.

    Raises:
        ValueError: the model has no such layer.
    """
    modules = dict(model.named_modules())
    if path not in modules or not path:
        raise ValueError(f"{type(model).__name__} has no layer '{path}'. Its layers: {sorted(filter(None, modules))}.")
    captured: list[torch.Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> Any:
        feature = output[0] if isinstance(output, tuple) else output
        if isinstance(feature, dict):
            raise ValueError(
                f"The layer '{path}' gives a {type(feature).__name__}, not a tensor; name a layer inside it."
            )
        if not feature.requires_grad:
            feature = feature.detach().requires_grad_()
        captured.append(feature)
        return (feature.clone(), *output[1:]) if isinstance(output, tuple) else feature.clone()

    handle = modules[path].register_forward_hook(keep)
    try:
        yield captured
    finally:
        handle.remove()
