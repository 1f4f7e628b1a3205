"""What the tests of gradients share, and users' own tests with them."""

from hf_e2kd.testing import directional_derivative, explained_gradients, loss_of, relative_error, total_norm

__all__ = ["directional_derivative", "explained_gradients", "loss_of", "relative_error", "total_norm"]
