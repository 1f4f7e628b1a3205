"""What the tests of gradients share, and users' own tests with them."""

from hf_e2kd.testing import check_gradient, explained_gradients, explained_loss, loss_of, relative_error

__all__ = ["check_gradient", "explained_gradients", "explained_loss", "loss_of", "relative_error"]
