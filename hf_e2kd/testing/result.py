"""Check of an explainer's result: logits, maps and targets."""

import copy
from typing import Any

import torch
from torch import nn

from ..architectures import call_model
from ..explainers import Explainer
from .derivatives import in_float64
from .failures import require


def check_result(
    explainer: Explainer, model: nn.Module, inputs: dict[str, Any], target: torch.Tensor | None, tolerance: float
) -> None:
    """Check logits, targets, and the maps' shapes, values and types."""
    with torch.no_grad():
        logits = call_model(model, inputs)
    found = explainer(model, inputs, target)
    require(
        found.logits.shape == logits.shape and torch.allclose(found.logits, logits, rtol=1e-4, atol=1e-5),
        "its logits are not those of the model's plain forward. It may call the model in another mode or on other "
        "inputs, or a hook of it changes what a layer gives.",
    )
    expected = logits.argmax(1) if target is None else target
    require(
        found.target.shape == expected.shape and torch.equal(found.target, expected),
        f"it says that it explains the classes {found.target.tolist()} where {expected.tolist()} were asked for. Give "
        "`resolve_target(target, logits)` as the explanation's target.",
    )
    require(
        len(found.maps) == len(logits) and found.maps.ndim >= 2,
        f"its maps have the shape {tuple(found.maps.shape)} for {len(logits)} samples, where one map a sample, "
        "(B, *grid), is expected.",
    )
    require(bool(found.maps.isfinite().all()), "its maps hold NaN or infinite values. A division by zero is likely.")
    require(
        bool(found.maps.flatten(1).any(1).all()),
        "its map of a sample is zero everywhere, so nothing can be checked on it. Give other inputs, a model with "
        "other weights or another target.",
    )
    with torch.autocast(logits.device.type, torch.bfloat16):
        dtype = explainer(model, inputs, target).maps.dtype
    require(
        dtype in (torch.float32, torch.float64),
        f"its maps are {dtype} in mixed precision, where gradients of an explanation underflow. Give "
        "`maps.float()` where they are in half precision.",
    )
    require(
        explainer(copy.deepcopy(model).double(), in_float64(inputs), target).maps.dtype == torch.float64,
        "its maps of a float64 model are not float64. Cast half precision alone.",
    )
    none = torch.full_like(expected, -1)
    several = explainer(model, inputs, torch.stack([expected, none], dim=1))
    require(
        several.maps.shape == (len(logits), 2, *found.maps.shape[1:]),
        f"for two targets a sample, (B, 2), its maps have the shape {tuple(several.maps.shape)}, where "
        f"{(len(logits), 2, *found.maps.shape[1:])} is expected: one map a target.",
    )
    require(
        torch.allclose(several.maps[:, 0], found.maps, rtol=1e-4, atol=1e-6 * float(found.maps.abs().max())),
        "the first of two targets has another map than the same target alone. The second may be mixed into it.",
    )
    require(
        not several.maps[:, 1].any(),
        "the map of the target −1, which explains nothing, is not zero. Multiply each map by `target >= 0`, or take "
        "the logits by `one_hots(target, logits)`.",
    )
