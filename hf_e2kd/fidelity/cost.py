"""The cost of running a model."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..architectures import FunctionModel, call_model
from ..architectures.base import evaluating
from .record import Cost

WARM_UPS, RUNS = 3, 20


def cost_of(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Cost | None:
    """Count parameters and operations of a model, and time its forward pass.

    Args:
        model: The model; its mode stays.
        inputs: Batch, of which the first sample is taken.

    Returns:
        FLOPs of matrix products and convolutions, two a multiply-add; the median time of 20 passes of one sample after
        three that aren't counted, in seconds. None of a function, whose operations can't be counted.
    """
    if isinstance(model, FunctionModel):
        return None
    device = next(model.parameters(), torch.empty(0)).device
    sample = {
        name: value[:1].to(device) for name, value in inputs.items() if isinstance(value, torch.Tensor) and value.ndim
    }
    tensors = [*model.parameters(), *model.buffers()]
    with evaluating(model), torch.no_grad():
        # The counter knows no fused attention kernel of the CPU.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            call_model(model, sample)
        times = [_timed(model, sample, device) for _ in range(WARM_UPS + RUNS)][WARM_UPS:]
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        # Of an exported model torch sees no operation.
        flops=counter.get_total_flops() or None,
        seconds=statistics.median(times),
        device=device_name(device),
        input=_shape(sample),
    )


def device_name(device: torch.device) -> str:
    """Name the device of a measurement: the accelerator, or the CPU with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
    return device.type


def _timed(model: nn.Module, sample: Mapping[str, Any], device: torch.device) -> float:
    start = time.perf_counter()
    call_model(model, sample)
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start


def _shape(sample: Mapping[str, torch.Tensor]) -> str:
    if "pixel_values" in sample:
        return "×".join(str(side) for side in sample["pixel_values"].shape[1:])
    return f"{next(iter(sample.values())).shape[1]} tokens"
