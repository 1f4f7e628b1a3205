"""The cost of running a model."""

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..architectures import FunctionModel, call_model
from ..architectures.base import evaluating
from ..architectures.discovery import in_own_precision
from .record import Cost

WARM_UPS, RUNS = 3, 20


def cost_of(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Cost | None:
    """Count parameters and operations of a model, and time its forward pass, as `costs_of` does of several."""
    return costs_of([(model, inputs)])[0]


def costs_of(models: Sequence[tuple[nn.Module, Mapping[str, torch.Tensor]]]) -> list[Cost | None]:
    """Count parameters and operations of models, and time their forward passes in turns.

    In turns, because a machine's speed changes while it is measured: what slows it down slows all of them.

    Args:
        models: Each model, whose mode stays, and its batch, of which the first sample is taken.

    Returns:
        Of each model the FLOPs of matrix products and convolutions, two a multiply-add, and the median and the
        quartiles of the time of 20 passes of one sample after three that aren't counted, in seconds. None of a
        function, whose operations can't be counted.
    """
    counted = [
        None if isinstance(model, FunctionModel) else (model, _first_sample(model, each)) for model, each in models
    ]
    timed = [each for each in counted if each is not None]
    times: list[list[float]] = [[] for _ in timed]
    with ExitStack() as stack, torch.no_grad():
        for model, _ in timed:
            stack.enter_context(evaluating(model))
        flops = [_count_flops(model, sample) for model, sample in timed]
        for _ in range(WARM_UPS + RUNS):
            for own, (model, sample) in zip(times, timed, strict=True):
                own.append(_timed(model, sample))
    found = iter(
        _cost(model, sample, count, own[WARM_UPS:])
        for (model, sample), count, own in zip(timed, flops, times, strict=True)
    )
    return [None if each is None else next(found) for each in counted]


def _cost(model: nn.Module, sample: Mapping[str, torch.Tensor], flops: int | None, times: Sequence[float]) -> Cost:
    tensors = [*model.parameters(), *model.buffers()]
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        flops=flops,
        seconds=median,
        seconds_low=low,
        seconds_high=high,
        device=device_name(_device(model)),
        input=_shape(sample),
    )


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters(), torch.empty(0)).device


def _first_sample(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    device = _device(model)
    tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor) and value.ndim}
    return in_own_precision(model, {name: value[:1].to(device) for name, value in tensors.items()})


def _count_flops(model: nn.Module, sample: Mapping[str, torch.Tensor]) -> int | None:
    # The counter follows the gradients of what modules are given and return, which ends in an error, where gradients
    # are off, of a view of a parameter, as Perceiver's places are.
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        # The counter knows no fused attention kernel of the CPU.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            call_model(model, sample)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    # Of an exported model torch sees no operation.
    return counter.get_total_flops() or None


def device_name(device: torch.device) -> str:
    """Name the device of a measurement: the accelerator, or the CPU with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
    return device.type


def _timed(model: nn.Module, sample: Mapping[str, Any]) -> float:
    device = _device(model)
    start = time.perf_counter()
    call_model(model, sample)
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start


def _shape(sample: Mapping[str, torch.Tensor]) -> str:
    if "pixel_values" in sample:
        return "×".join(str(side) for side in sample["pixel_values"].shape[1:])
    return f"{next(iter(sample.values())).shape[1]} tokens"
