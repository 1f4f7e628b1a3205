"""Modules and parameters in the order in which a forward pass uses them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..architectures import call_model


def modules_in_order(model: nn.Module, inputs: Mapping[str, Any]) -> list[nn.Module]:
    """List the modules without children, in the order in which the plain forward calls them."""
    called: list[nn.Module] = []
    leaves = [module for module in model.modules() if not list(module.children())]
    handles = [module.register_forward_pre_hook(lambda module, _: called.append(module)) for module in leaves]
    try:
        with torch.no_grad():
            call_model(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(called))


def parameters_in_order(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, nn.Parameter]:
    """List the parameters by name, in the order in which the forward pass uses them."""
    paths = {module: path for path, module in model.named_modules()}
    own = [
        f"{paths[module]}.{name}" if paths[module] else name
        for module in modules_in_order(model, inputs)
        for name, _ in module.named_parameters()
    ]
    known = dict(model.named_parameters())
    # Those that hang on a module with children, as a class token, come first; tied ones count once.
    ordered = [*(name for name in known if name not in set(own)), *own]
    return {name: known[name] for name in ordered if name in known}
