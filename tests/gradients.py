"""What the tests of gradients share: the loss of an explanation, and its derivative by finite differences."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from hf_e2kd.explainers import Explainer, Explanation
from hf_e2kd.losses import explanation_loss


def loss_of(explanation: Explanation) -> torch.Tensor:
    """The mean explanation loss against a fixed random reference."""
    reference = torch.rand(explanation.maps.shape, generator=torch.Generator().manual_seed(5))
    return explanation_loss(explanation.maps, reference)[0].mean()


def explained_gradients(
    model: nn.Module, explainer: Explainer, inputs: Mapping[str, Any], target: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The explanation loss and its gradient by parameter, zero where a parameter has none."""
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
    return float(torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt())


def relative_error(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """Of all gradients together, relative to their total norm: single ones (a key's bias) may be almost zero."""
    assert found.keys() == expected.keys()
    difference = {name: found[name] - expected[name] for name in found}
    return total_norm(difference) / total_norm(expected)


@torch.no_grad()
def directional_derivative(
    loss: Callable[[], torch.Tensor], parameters: Mapping[str, torch.Tensor], direction: Mapping[str, torch.Tensor]
) -> float:
    """The loss's derivative along a direction of the parameters, by central differences."""
    step = 1e-7
    values = []
    for sign in (1, -2, 1):
        for name, change in direction.items():
            parameters[name].add_(sign * step * change)
        values.append(loss().item())
    return (values[0] - values[1]) / (2 * step)
