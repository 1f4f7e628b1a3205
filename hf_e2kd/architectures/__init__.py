"""Target layer, layout and head of the models that explainers look into."""

from torch import nn

from . import papers, vision  # noqa: F401  (register the families)
from .base import (
    Architecture,
    Split,
    available_architectures,
    explained_part,
    register_architecture,
    registered_architecture,
)
from .discovery import accepted_inputs, call_model, discover_target
from .functions import FunctionModel
from .grids import Grid, grid_of
from .timm import is_timm, timm_architecture, wrap_timm


def find_architecture(model: nn.Module) -> Architecture | None:
    """The entry of a model: the one registered for its class, timm's own interface, or its backbone's; else None."""
    part = explained_part(model)
    if part is not None:
        inner = find_architecture(model.get_submodule(part))
        return None if inner is None else papers.joined_architecture(part, inner)
    return registered_architecture(model) or timm_architecture(model)


__all__ = [
    "Architecture",
    "FunctionModel",
    "Grid",
    "Split",
    "accepted_inputs",
    "available_architectures",
    "call_model",
    "discover_target",
    "find_architecture",
    "grid_of",
    "is_timm",
    "register_architecture",
    "wrap_timm",
]
