"""A loss of an explanation, and its gradient by autograd."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..explainers import Explainer, Explanation
from ..terms import explanation_loss


def loss_of(explanation: Explanation) -> torch.Tensor:
    """Compute the mean cosine loss of the maps against a fixed random reference, ()."""
    reference = torch.rand(explanation.maps.shape, generator=torch.Generator().manual_seed(5))
    return explanation_loss(explanation.maps, reference)[0].mean()


def explained_loss(
    model: nn.Module, explainer: Explainer, inputs: Mapping[str, Any], target: torch.Tensor
) -> Callable[[], torch.Tensor]:
    """Make the function that computes `loss_of` a model's explanation by its current weights, for `check_gradient`."""
    return lambda: loss_of(explainer(model, inputs, target, create_graph=torch.is_grad_enabled()))


def explained_gradients(
    model: nn.Module, explainer: Explainer, inputs: Mapping[str, Any], target: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Compute `loss_of` an explanation and its gradient by parameter, zero where a parameter has none."""
    model.zero_grad()
    loss = loss_of(explainer(model, inputs, target, create_graph=True))
    loss.backward()
    gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }
    model.zero_grad()
    return loss.detach(), gradients


def total_norm(gradients: Mapping[str, torch.Tensor]) -> float:
    """Compute the norm of all tensors together."""
    return float(torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt())


def relative_error(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """Compute the error of all gradients relative to their total norm: single ones may be almost zero."""
    assert found.keys() == expected.keys()
    difference = {name: found[name] - expected[name] for name in found}
    return total_norm(difference) / total_norm(expected)


def in_float64(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Convert floating-point inputs to double precision."""
    return {
        name: value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }
