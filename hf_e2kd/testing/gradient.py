"""The check of the gradient of an explanation's loss, by finite differences."""

from typing import Any

import torch
from torch import nn

from ..architectures import call_model
from ..explainers import Explainer
from .derivatives import STEPS, directional_derivative, explained_gradients, in_float64, loss_of, total_norm
from .failures import require, some
from .forward_order import parameter_groups


def check_gradient(
    explainer: Explainer, model: nn.Module, inputs: dict[str, Any], target: torch.Tensor | None, tolerance: float
) -> None:
    """The gradient of a loss of the maps is that of finite differences, in all groups of parameters."""
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
        _, gradients = explained_gradients(model, explainer, inputs, target)
    except RuntimeError as error:
        raise AssertionError(
            f"its maps can't be differentiated: {error}. A layer behind the explained one may have no second "
            "derivative (fused attention: use eager attention or `sdpa_kernel(SDPBackend.MATH)`), or a graph was "
            "freed: give `torch.autograd.grad` `create_graph=True`."
        ) from error
    parameters = dict(model.named_parameters())

    def loss() -> torch.Tensor:
        return loss_of(explainer(model, inputs, target))

    generator = torch.Generator().manual_seed(1)
    groups, norm = parameter_groups(model, inputs), max(total_norm(gradients), 1e-30)
    found, expected = torch.zeros(2, len(groups), dtype=torch.float64)
    for number, group in enumerate(groups):
        # The gradient itself, which stands out from rounding errors, and where it may be missing.
        random = {name: torch.randn(gradients[name].shape, generator=generator, dtype=torch.float64) for name in group}
        direction = {name: gradients[name] / norm + random[name] / total_norm(random) for name in group}
        found[number] = sum((gradients[name] * change).sum() for name, change in direction.items())
        expected[number] = torch.inf
        for step in STEPS:
            value = directional_derivative(loss, parameters, direction, step)
            if abs(value - found[number]) < abs(expected[number] - found[number]):
                expected[number] = value
            if abs(value - found[number]) < tolerance / 10 * norm:
                break
    # Relative to the whole: single parameters, as a key's bias, may have next to no gradient.
    errors = (found - expected) / expected.norm()
    if errors.norm() <= tolerance:
        return
    worst = int(errors.abs().argmax())
    missing = (found == 0) & (errors.abs() > tolerance)
    without = [name for group, is_missing in zip(groups, missing, strict=True) if is_missing for name in group]
    if without:
        cause = (
            f"no gradient reaches {some(without)}, though the maps depend on it. A gradient taken without "
            "`create_graph=True` is a constant to the loss, and so is what was detached: only a part of the parameters "
            "would be trained to explain"
        )
    else:
        cause = (
            f"the gradient of {some(groups[worst])} is wrong. A part of the graph may be detached, or a "
            "`torch.autograd.Function` written by hand lacks its second derivative"
        )
    raise AssertionError(
        f"{cause}. Along a random direction of these parameters the loss's derivative is {expected[worst]:.3e} by "
        f"finite differences and {found[worst]:.3e} by the gradient; the error of all is {errors.norm():.1e} of their "
        f"norm, and {tolerance:.0e} is allowed."
    )
