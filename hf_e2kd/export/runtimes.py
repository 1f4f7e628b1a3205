"""Programs of exported files, run by ONNX Runtime or by torch."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

METADATA_FILE = "hf_e2kd.json"
"""The file in a `torch.export` archive that holds the metadata's properties."""

MISSING_EXTRA = "An ONNX file takes the packages onnx, onnxscript and onnxruntime: pip install 'hf-e2kd[export]'."

_TYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
}


class Program(nn.Module, ABC):
    """The computation of an exported file. Its parameters are the file's weights.

    Attributes:
        inputs, outputs: Names of the file's inputs and outputs.
        properties: Properties of the file by name.
        num_classes: Number of logits, as far as the file's own shapes say so.
        runtime, precision: Names of the runtime and of the weights' number formats.
    """

    inputs: list[str]
    outputs: list[str]
    properties: dict[str, str]
    runtime: str
    precision: str
    num_classes: int | None = None

    @abstractmethod
    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute the outputs by name, on the CPU."""


class OnnxProgram(Program):
    """A file that ONNX Runtime runs, on as many threads as torch does when it is loaded.

    Raises:
        ValueError: it is no ONNX file, or needs a newer runtime.
        ImportError: ONNX Runtime isn't installed.
    """

    def __init__(self, path: Path, providers: Sequence[str]):
        super().__init__()
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise ImportError(MISSING_EXTRA) from error
        options = onnxruntime.SessionOptions()
        # Its own default is every core, whatever torch was told.
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=list(providers))
        except Exception as error:  # ONNX Runtime's own errors have no common class
            # The reason stands last, after the runtime's own places in its source.
            reason = " ".join(str(error).split()).rstrip(".")[-200:]
            raise ValueError(
                f"ONNX Runtime {onnxruntime.__version__} can't load '{path}': … {reason}. Where the file is newer than "
                "the runtime: pip install -U onnxruntime. Otherwise export it anew."
            ) from error
        self.inputs = [each.name for each in self.session.get_inputs()]
        self.outputs = [each.name for each in self.session.get_outputs()]
        self.shapes = {each.name: each.shape for each in self.session.get_inputs()}
        logits = self.session.get_outputs()[0].shape
        if len(logits) == 2 and isinstance(logits[1], int):
            self.num_classes = logits[1]
        self._types = {each.name: each.type for each in self.session.get_inputs()}
        self.properties = dict(self.session.get_modelmeta().custom_metadata_map)
        numbers: dict[torch.dtype, int] = {}
        for number, tensor in enumerate(onnx.load(path).graph.initializer):
            values = torch.as_tensor(onnx.numpy_helper.to_array(tensor).copy())
            self.register_parameter(f"weight_{number}", nn.Parameter(values, requires_grad=False))
            numbers[values.dtype] = numbers.get(values.dtype, 0) + values.numel()
        self.runtime = f"onnxruntime {onnxruntime.__version__}, {self.session.get_providers()[0]}"
        self.precision = _precision(numbers)

    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        given = {name: value.detach().cpu().to(_TYPES[self._types[name]]) for name, value in inputs.items()}
        found = [self.session.run(None, part) for part in self._parts(given)]
        outputs = [torch.cat([torch.as_tensor(each) for each in own]) for own in zip(*found, strict=True)]
        return dict(zip(self.outputs, outputs, strict=True))

    def _parts(self, inputs: dict[str, torch.Tensor]) -> Iterator[dict[str, Any]]:
        """Split a batch for a file that takes a fixed number of samples."""
        samples = len(next(iter(inputs.values())))
        fixed = next((shape[0] for shape in self.shapes.values() if shape and isinstance(shape[0], int)), samples)
        if samples % fixed:
            raise ValueError(
                f"The file takes {fixed} samples at a time, and these are {samples}. Export it for any number of them, "
                f"or give batches of {fixed} from a data set whose size that divides."
            )
        for start in range(0, samples, fixed):
            yield {name: value[start : start + fixed].numpy() for name, value in inputs.items()}


class TorchProgram(Program):
    """A `torch.export` archive.

    Raises:
        ValueError: it can't be loaded, or wasn't made by `export_model`.
    """

    def __init__(self, path: Path):
        super().__init__()
        files = {METADATA_FILE: ""}
        try:
            program = torch.export.load(path, extra_files=files)
        except Exception as error:
            raise ValueError(
                f"torch {torch.__version__} can't load '{path}': {' '.join(str(error).split())[:300]}. Export it anew "
                "with the version that loads it."
            ) from error
        if not files[METADATA_FILE]:
            raise ValueError(
                f"'{path}' doesn't say what it takes: it has no {METADATA_FILE}. Make it by hf-e2kd export."
            )
        stated = json.loads(files[METADATA_FILE])
        self.inputs, self.outputs, self.properties = stated["inputs"], stated["outputs"], stated["properties"]
        # As ONNX Runtime states them: a size that may be any isn't a number.
        examples = {
            node.name: node.meta["val"]
            for node in program.graph.nodes
            if node.op == "placeholder" and node.name in self.inputs
        }
        self.shapes = {
            name: [side if isinstance(side, int) else "any" for side in value.shape] for name, value in examples.items()
        }
        self._types = {name: value.dtype for name, value in examples.items()}
        self.program = program.module().requires_grad_(False)
        numbers: dict[torch.dtype, int] = {}
        for parameter in self.program.parameters():
            numbers[parameter.dtype] = numbers.get(parameter.dtype, 0) + parameter.numel()
        self.runtime = f"torch.export, torch {version('torch')}"
        self.precision = _precision(numbers)

    def train(self, mode: bool = True) -> "TorchProgram":
        # An exported program has no modes: it is what it was traced in, evaluation.
        return self

    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        device = next(self.program.parameters()).device
        with torch.no_grad():
            found = self.program(**{name: inputs[name].to(device, self._types[name]) for name in self.inputs})
        found = [found] if isinstance(found, torch.Tensor) else found
        return {name: value.cpu() for name, value in zip(self.outputs, found, strict=True)}


def _precision(numbers: Mapping[torch.dtype, int]) -> str:
    """Name the types of the weights, that of most of them first; without sizes and indices, which are int64 or bool."""
    types = sorted(numbers.keys() - {torch.int64, torch.bool}, key=lambda dtype: -numbers[dtype])
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in types) or "no weights"
