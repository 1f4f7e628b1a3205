"""Fixed tensors, by a formula that other code can be given too."""

import math

import torch


def waves(*shape: int, shift: float = 0.0) -> torch.Tensor:
    """Make the values sin(1.7 n + shift), n = 0, 1, …, in rows of this shape."""
    return torch.sin(torch.arange(float(math.prod(shape))) * 1.7 + shift).reshape(shape)
