"""Find the target layer of a model whose architecture isn't registered, by tracing shapes and gradients."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.dropout import _DropoutNd
from transformers import PreTrainedModel

from ..alignment.words import LAYOUT_COLUMNS
from ..logs import get_logger
from .base import evaluating, forget_biases
from .grids import Grid, layer_grid
from .taps import untapped
from .text import explain_missing_padding, refuse_unfit_text
from .timm import is_timm

logger = get_logger(__name__)

TOKEN_COLUMNS = ("bbox", "token_type_ids")
"""What some models of texts know of each token, and take to be zero where it is missing; others don't know it."""


def discover_target(model: nn.Module, inputs: Mapping[str, Any]) -> str:
    """Path of the last layer that is laid out in space and whose every place can reach the logits.

    One forward and backward pass in evaluation mode; each module's training mode is put back as it was.

    Args:
        inputs: Inputs of the model's forward; `pixel_values` (B, channels, H, W) among it.

    Raises:
        ValueError: the model has no such layer, or the inputs are no images.
    """
    height, width = image_size(model, inputs)
    outputs: dict[str, torch.Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _module, args, output, name=name: _keep(outputs, name, args, output))
        for name, module in model.named_modules()
        if name and _may_be_target(module)
    ]
    pixel_values = inputs["pixel_values"].detach().requires_grad_()
    try:
        with evaluating(model), untapped(), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            logits = call_model(model, {**inputs, "pixel_values": pixel_values})
            grids = {
                name: grid
                for name, output in outputs.items()
                if output.requires_grad
                and len(output) == len(logits)  # windows and the like stand in the batch's place
                and not _is_text(output, inputs)
                and (grid := _grid_of_output(model, name, output, height, width)) is not None
            }
            if not grids:
                raise _nothing_spatial(model)
            gradients = torch.autograd.grad(logits.amax(1).sum(), [outputs[name] for name in grids], allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    reaching = [
        name
        for (name, grid), gradient in zip(grids.items(), gradients, strict=True)
        if gradient is not None and (grid.cells(gradient).abs().sum(-1) > 0).float().mean() > 0.5
    ]
    if not reaching:
        raise _nothing_spatial(model)
    # Inside an attention a layer sees a part of what passes: its queries, keys or values.
    name = ([name for name in reaching if not _is_in_attention(model, name)] or reaching)[-1]
    # Once, though teacher and student may be of one class, and each explainer looks for itself.
    logger.warning_once(
        f"{type(model).__name__} is not registered: its layer '{name}' ({grids[name].height}×{grids[name].width} "
        "cells) is explained. Choose another one by the option `target_layer`, or call `register_architecture`."
    )
    return name


def image_size(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of the images that a layer laid out in space is explained for.

    Raises:
        ValueError: the inputs are no images (B, channels, H, W).
    """
    pixel_values = inputs.get("pixel_values")
    if pixel_values is None:
        raise ValueError(
            f"{type(model).__name__} is given {', '.join(inputs)} and no `pixel_values`, so no layer of it is laid out "
            "in space. Explain it at its inputs: by 'integrated_gradients', 'saliency' or 'input_x_gradient'."
        )
    if pixel_values.ndim != 4:
        raise ValueError(
            f"{type(model).__name__} is given `pixel_values` of shape {tuple(pixel_values.shape)}, and a map is laid "
            "out over images (batch, channels, height, width). Use a model whose processor gives whole images."
        )
    return pixel_values.shape[-2], pixel_values.shape[-1]


def call_model(model: nn.Module, inputs: Mapping[str, Any]) -> torch.Tensor:
    """The logits (B, classes) of a model's own forward, be its output a tensor, a tuple or a `ModelOutput`.

    A forward that doesn't know the name `pixel_values` (timm's, torchvision's) is given the images alone.

    Raises:
        ValueError: a text doesn't fit the model, or the model gives no logits.
    """
    eager = not torch.compiler.is_compiling()
    if eager:
        forget_biases(model)
    parameters = inspect.signature(model.forward).parameters
    named = "pixel_values" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if "pixel_values" in inputs and (not named or is_timm(model)):
        outputs = model(inputs["pixel_values"])
    else:
        if eager:
            refuse_unfit_text(model, inputs)
        try:
            outputs = model(**accepted_inputs(model, inputs))
        except ValueError as error:
            raise explain_missing_padding(model, error) from error
    if eager and torch.is_grad_enabled():
        forget_biases(model)
    return logits_of(model, outputs)


def logits_of(model: nn.Module, outputs: Any) -> torch.Tensor:
    """Return the logits (B, classes) of a model's output: a tensor, a tuple or a `ModelOutput`.

    Raises:
        ValueError: the output holds no logits.
    """
    if isinstance(outputs, torch.Tensor):
        return outputs
    if isinstance(outputs, Mapping) and "logits" not in outputs:
        last = outputs.get("last_hidden_state")
        if last is not None and last.ndim == 2:  # a classifier's, under another name (PP-LCNet)
            return last
        raise ValueError(
            f"{type(model).__name__} gives {', '.join(outputs)} and no logits, so no class of it can be explained. "
            "Load the model with its classifier, by AutoModelForImageClassification or "
            "AutoModelForSequenceClassification."
        )
    return outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]


def accepted_inputs(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the columns that describe tokens to explainers, and what the model doesn't know of `TOKEN_COLUMNS`.

    DistilBERT and BERT share a tokenizer, which gives token types, and DistilBERT's forward refuses or ignores them.
    """
    # An adapter of PEFT, or a wrapper of the user's, passes on what it doesn't name.
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    parameters = inspect.signature(base.forward).parameters
    passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters.values()) and not isinstance(base, PreTrainedModel)
    unknown = set() if passes_on else {name for name in TOKEN_COLUMNS if name not in parameters}
    return {key: value for key, value in inputs.items() if key not in unknown.union(LAYOUT_COLUMNS)}


def forward_inputs(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the columns of a batch of images that a model of transformers takes and ignores, or timm's can't take.

    The forward of transformers has `**kwargs` for attention kernels, not for columns of the data.
    """
    if "pixel_values" in inputs and is_timm(model):
        return {"pixel_values": inputs["pixel_values"]}
    if "pixel_values" not in inputs or not isinstance(model, PreTrainedModel):
        return dict(inputs)
    parameters = inspect.signature(model.forward).parameters
    return {key: value for key, value in inputs.items() if key in parameters or key in LAYOUT_COLUMNS}


def in_own_precision(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a batch's floats, such as images, for a model that was loaded in half precision.

    A function, or an exported file, converts them itself.
    """
    own = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    dtype = None if hasattr(model, "runtime") else next(own, None)
    if dtype is None:
        return dict(inputs)
    return {
        key: value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for key, value in inputs.items()
    }


def return_mappings(model: nn.Module) -> None:
    """Let a model whose `config.return_dict` is False return its outputs, and those of its parts, by name."""
    config = getattr(model, "config", None)
    if config is not None and getattr(config, "return_dict", True) is False:
        config.return_dict = True
        logger.warning_once(f"config.return_dict of {type(model).__name__} is set to True: outputs are read by name.")


@contextmanager
def named_outputs(model: nn.Module) -> Iterator[None]:
    """Let a model whose `config.return_dict` is False return its outputs by name while the context lasts."""
    config: Any = getattr(model, "config", None)
    if getattr(config, "return_dict", True) is not False:
        yield
        return
    config.return_dict = True
    try:
        yield
    finally:
        config.return_dict = False


def _may_be_target(module: nn.Module) -> bool:
    """Tell feature maps from attention weights and their projections, which may keep a grid's shape too."""
    return not isinstance(module, _DropoutNd | nn.Softmax | nn.Linear | nn.Identity | nn.ModuleList)


def _is_text(output: torch.Tensor, inputs: Mapping[str, Any]) -> bool:
    """Tell whether an activation has a row for each token of a prompt, which some counts would lay out as a grid."""
    ids = inputs.get("input_ids")
    return ids is not None and output.ndim == 3 and output.shape[1] == ids.shape[1]


def _is_in_attention(model: nn.Module, path: str) -> bool:
    """Tell whether one of the modules around a layer is an attention, by its class's name."""
    parts = path.split(".")
    around = [model.get_submodule(".".join(parts[:end])) for end in range(1, len(parts))]
    names = [type(module).__name__.lower() for module in around]
    return any("attention" in name or "attn" in name for name in names)


def _grid_of_output(model: nn.Module, path: str, output: torch.Tensor, height: int, width: int) -> Grid | None:
    module, grid = model.get_submodule(path), layer_grid(model, path, output, height, width)
    # A norm over the last axis has its channels there: these are an attention's queries or keys, (B, heads, tokens, d)
    # or (B, tokens, heads, d). Norms of other packages, of which some are over the second axis, tell it by their width.
    normed = tuple(getattr(module, "normalized_shape", None) or ())
    over_last_axis = type(module) in (nn.LayerNorm, nn.RMSNorm) or normed == output.shape[-1:] != output.shape[1:2]
    return None if grid is not None and grid.layout == "nchw" and over_last_axis else grid


def _keep(outputs: dict[str, torch.Tensor], name: str, args: tuple[Any, ...], output: Any) -> None:
    first = output[0] if isinstance(output, tuple) and output else output
    if isinstance(output, tuple) and any(first is given for given in args):
        return  # a block of several branches (CoaT's) hands one on as it is: that is an earlier layer's
    if isinstance(first, torch.Tensor) and first.is_floating_point():
        outputs.pop(name, None)  # a module called twice counts where it was called last
        outputs[name] = first


def _nothing_spatial(model: nn.Module) -> ValueError:
    return ValueError(
        f"{type(model).__name__} has no layer with a spatial grid that reaches the logits, so there is no map to "
        "explain it by. Use a model with feature maps or patch tokens, or name its layer: "
        'explainer_options={"target_layer": "path.of.the.layer"}.'
    )
