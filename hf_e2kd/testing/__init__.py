"""Checks for explainers of your own, without a test framework: each failure is an `AssertionError` that says why."""

from .derivatives import directional_derivative, explained_gradients, loss_of, relative_error, total_norm
from .explainer import check_explainer

__all__ = [
    "check_explainer",
    "directional_derivative",
    "explained_gradients",
    "loss_of",
    "relative_error",
    "total_norm",
]
