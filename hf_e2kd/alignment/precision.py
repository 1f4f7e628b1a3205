"""The precision in which maps and losses are computed."""

import torch


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Convert to float32, but for float64, which stays."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
