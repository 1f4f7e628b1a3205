"""Quantised copies of a classifier: int8 by ONNX Runtime, static and dynamic, and weights alone by torchao.

onnxruntime and torchao are imported where they are used: the other recipes do without them.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from hf_e2kd.export import load_exported

MISSING_EXTRA = (
    "This recipe takes the packages onnx, onnxscript, onnxruntime and torchao: pip install 'hf-e2kd[quantization]'."
)

PACKAGES = ("onnx", "onnxscript", "onnxruntime", "torchao")

Batches = Iterable[Mapping[str, torch.Tensor]]


def require_packages() -> None:
    """Refuse to begin without the extra `quantization`.

    Raises:
        ImportError: a package of it is missing.
    """
    if any(find_spec(package) is None for package in PACKAGES):
        raise ImportError(MISSING_EXTRA)


def quantised_copies(
    model: nn.Module, float_file: Path, calibration: Callable[[], Batches]
) -> dict[str, Callable[[], nn.Module]]:
    """List the ways to quantise a classifier; each is a function that makes the quantised model.

    torchao's weights are those of linear layers. Its `Int4WeightOnlyConfig` has no kernels for the CPU;
    `IntxWeightOnlyConfig` rounds to the same 4 bits, in groups of 32 weights, and computes in float32.

    Args:
        model: The classifier.
        float_file: Its ONNX file in float32; the quantised files are written beside it.
        calibration: Function that gives the batches by which static quantisation finds the activations' ranges.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup, quantize_

    def by_onnxruntime(name: str, quantise: Callable[[Path, Path], None]) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            prepared, path = (float_file.with_name(f"{each}.onnx") for each in ("prepared", name))
            # Batch norms are folded into convolutions first, or their results would be rounded too.
            quant_pre_process(float_file, prepared, skip_symbolic_shape=True)
            quantise(prepared, path)
            return load_exported(path, class_names=list(model.config.id2label.values()))

        return make

    def static(per_channel: bool) -> Callable[[Path, Path], None]:
        # Unsigned activations and signed weights are what ONNX Runtime advises for x86.
        types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        return lambda source, path: quantize_static(
            source, path, Calibration(calibration()), per_channel=per_channel, **types
        )

    def by_torchao(config: object) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            quantised = copy.deepcopy(model).requires_grad_(False)
            quantize_(quantised, config)
            return quantised

        return make

    return {
        "static int8, per tensor": by_onnxruntime("static", static(per_channel=False)),
        "static int8, per channel": by_onnxruntime("static_per_channel", static(per_channel=True)),
        "dynamic int8": by_onnxruntime("dynamic", quantize_dynamic),
        "dynamic int8, per channel, reduce_range": by_onnxruntime(
            "dynamic_per_channel",
            lambda source, path: quantize_dynamic(source, path, per_channel=True, reduce_range=True),
        ),
        "torchao int8 weights": by_torchao(Int8WeightOnlyConfig()),
        "torchao int4 weights": by_torchao(IntxWeightOnlyConfig(torch.int4, PerGroup(32))),
    }


class Calibration:
    """Batches as `onnxruntime.quantization` reads them."""

    def __init__(self, batches: Batches):
        self.batches = iter(batches)

    def get_next(self) -> dict | None:
        """Return the next batch as arrays, or None after the last."""
        batch = next(self.batches, None)
        return None if batch is None else {name: value.numpy() for name, value in batch.items()}


def quantised_share(model: nn.Module) -> float:
    """Compute the share of a model's weights that aren't plain floating-point numbers."""
    weights = [parameter.data for parameter in model.parameters()]
    rounded = sum(each.numel() for each in weights if type(each) is not torch.Tensor or not each.is_floating_point())
    return rounded / sum(each.numel() for each in weights)
