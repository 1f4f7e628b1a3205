"""Checks for explainers and losses of your own, without a test framework: an `AssertionError` says what is wrong."""

from .derivatives import explained_gradients, explained_loss, loss_of, relative_error, total_norm
from .explainer import check_explainer
from .gradient import check_gradient, directional_derivative

__all__ = [
    "check_explainer",
    "check_gradient",
    "directional_derivative",
    "explained_gradients",
    "explained_loss",
    "loss_of",
    "relative_error",
    "total_norm",
]
