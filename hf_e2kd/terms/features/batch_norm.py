"""Batch norm over all processes, for the layers that a term owns."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F


class ProcessBatchNorm(nn.BatchNorm1d):
    """Batch norm (N, C, …) whose statistics in a training are those of all processes' rows, on CPU and GPU alike.

    Several processes then train a term as one does with the whole batch, and its buffers are the same on each.
    `torch.nn.SyncBatchNorm` does so on GPUs alone. One value a channel, as in a last batch of one sample, has no
    variance and is normalised by the running statistics.
    """

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Accept any number of dimensions after the channels."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            if input.numel() == input.shape[1]:
                return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
            return super().forward(input)
        dims = [dim for dim in range(input.ndim) if dim != 1]
        shape = [1, -1, *[1] * (input.ndim - 2)]
        count = _all_sum(input.new_tensor([input.numel() / input.shape[1]]))
        mean = _all_sum(input.sum(dims)) / count
        centred = input - mean.view(shape)
        variance = _all_sum(centred.square().sum(dims)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        return normalised * self.weight.view(shape) + self.bias.view(shape)


class _AllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        total = values.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        # Each process's loss depends on each process's values.
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def _all_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum values over processes; gradients are summed likewise."""
    return _AllSum.apply(values)
