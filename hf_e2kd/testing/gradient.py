"""A loss's gradient against finite differences."""

from collections.abc import Callable, Mapping

import torch

from .derivatives import total_norm
from .failures import require, some

STEPS = (1e-7, 1e-5, 1e-4, 1e-3)
"""The finite differences' step sizes. Models that compute a part in float32 need the long ones, kinks the short."""


def check_gradient(
    loss: Callable[[], torch.Tensor],
    parameters: Mapping[str, torch.Tensor],
    tolerance: float = 1e-5,
    groups: int = 12,
) -> None:
    """Compare the gradient of a loss with central finite differences, along a random direction of each parameter group.

    Where autograd follows a loss that holds a gradient itself (of an explanation, of a feature), parts of the graph are
    easily missing, and a training then learns something else without an error.

    Args:
        loss: Function that computes the loss, a float64 scalar (), from the parameters' current values, the same each
            time. It is called once with gradients enabled, and under `torch.no_grad` for the finite differences.
        parameters: Float64 parameters by name, in an order in which neighbours belong together. Their values change
            within the check by the finite differences' step, and are the same afterwards but for rounding.
        tolerance: Allowed error of all groups' directional derivatives, relative to their norm. Single parameters, as
            an attention key's bias, may have next to no gradient.
        groups: Number of groups at most: as many pairs of loss evaluations at least. Fewer are faster, and the message
            less exact.

    Raises:
        AssertionError: The gradient is wrong, with the parameters of which it is; or a parameter isn't float64.

    Example:
        >>> import torch
        >>> from hf_e2kd.testing import check_gradient
        >>> weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
        >>> check_gradient(lambda: weight.exp().sum(), {"weight": weight})
        >>> check_gradient(lambda: (weight * weight.detach()).sum(), {"weight": weight})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        AssertionError: the gradient of weight is wrong. ...
    """
    single = [name for name, parameter in parameters.items() if parameter.dtype != torch.float64]
    require(not single, f"finite differences need float64, and {some(single)} is not: take `model.double()`.")
    found = torch.autograd.grad(loss(), list(parameters.values()), allow_unused=True)
    gradients = {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(parameters.items(), found, strict=True)
    }
    _compare(loss, parameters, gradients, tolerance, _neighbours(list(parameters), groups))


def _neighbours(names: list[str], groups: int) -> list[list[str]]:
    size = -(-len(names) // groups)
    return [names[start : start + size] for start in range(0, len(names), size)]


def _compare(
    loss: Callable[[], torch.Tensor],
    parameters: Mapping[str, torch.Tensor],
    gradients: Mapping[str, torch.Tensor],
    tolerance: float,
    groups: list[list[str]],
) -> None:
    generator = torch.Generator().manual_seed(1)
    norm = max(total_norm(gradients), 1e-30)
    found, expected = torch.zeros(2, len(groups), dtype=torch.float64)
    for number, group in enumerate(groups):
        direction = {
            name: torch.randn(gradients[name].shape, generator=generator, dtype=torch.float64) for name in group
        }
        found[number] = sum((gradients[name] * change).sum() for name, change in direction.items())
        expected[number] = torch.inf
        for step in STEPS:
            value = directional_derivative(loss, parameters, direction, step)
            if abs(value - found[number]) < abs(expected[number] - found[number]):
                expected[number] = value
            if abs(value - found[number]) < tolerance / 4 * norm:
                break
    errors = (found - expected) / expected.norm()
    if errors.norm() <= tolerance:
        return
    worst = int(errors.abs().argmax())
    missing = (found == 0) & (errors.abs() > tolerance)
    without = [name for group, is_missing in zip(groups, missing, strict=True) if is_missing for name in group]
    if without:
        cause = (
            f"no gradient reaches {some(without)}, though the loss depends on it. A gradient taken without "
            "`create_graph=True` is a constant to the loss, and so is what was detached: only a part of the parameters "
            "would be trained"
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


@torch.no_grad()
def directional_derivative(
    loss: Callable[[], torch.Tensor],
    parameters: Mapping[str, torch.Tensor],
    direction: Mapping[str, torch.Tensor],
    step: float = STEPS[0],
) -> float:
    """Compute a loss's derivative along a direction of some parameters (float64), by central differences."""
    values = []
    for sign in (1, -2, 1):
        for name, change in direction.items():
            parameters[name].add_(sign * step * change)
        values.append(loss().item())
    return (values[0] - values[1]) / (2 * step)
