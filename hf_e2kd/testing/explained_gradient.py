"""Check of the gradient of an explanation's loss."""

from typing import Any

import torch
from torch import nn

from ..architectures import call_model
from ..explainers import Explainer
from .derivatives import explained_loss, in_float64
from .failures import require
from .forward_order import parameters_in_order
from .gradient import check_gradient


def check_explained_gradient(
    explainer: Explainer, model: nn.Module, inputs: dict[str, Any], target: torch.Tensor | None, tolerance: float
) -> None:
    """Check the gradient of a loss of the maps against finite differences, in all groups of parameters."""
    if not explainer.trainable:
        _require_refusal(explainer, model, inputs, target)
        return
    model, inputs = model.double().requires_grad_(True), in_float64(inputs)
    if target is None:
        with torch.no_grad():
            target = call_model(model, inputs).argmax(1)
    explained = explainer(model, inputs, target, create_graph=True)
    require(
        explained.maps.requires_grad,
        "its maps carry no gradient, so a loss of them trains nothing. It may `detach` them, take them through "
        "`.data` or numpy, compute under `no_grad`, or call `torch.autograd.grad` without `create_graph=True`.",
    )
    require(
        explained.logits.requires_grad,
        "its logits carry no gradient, and the trainer takes the losses on logits from the same pass. Don't detach "
        "them.",
    )
    try:
        check_gradient(explained_loss(model, explainer, inputs, target), parameters_in_order(model, inputs), tolerance)
    except RuntimeError as error:
        raise AssertionError(
            f"its maps can't be differentiated: {error}. A layer behind the explained one may have no second "
            "derivative (fused attention: use eager attention or `sdpa_kernel(SDPBackend.MATH)`), or a graph was "
            "freed: give `torch.autograd.grad` `create_graph=True`."
        ) from error


def _require_refusal(
    explainer: Explainer, model: nn.Module, inputs: dict[str, Any], target: torch.Tensor | None
) -> None:
    """Require of a method without gradients that it says so, before a training and in it."""
    for refusing in (
        lambda: explainer.check(model, trained=True),
        lambda: explainer(model, inputs, target, create_graph=True),
    ):
        try:
            refusing()
        except ValueError:
            continue
        raise AssertionError(
            "it is `trainable = False` and doesn't refuse a training, whose loss of its maps would train nothing. "
            "Raise a ValueError in `check(…, trained=True)`, and in `forward` where gradients are on."
        )
    explainer.check(model, trained=False)
