"""Exported students as models: their logits, and the map that they give themselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from ..explainers import Explainer, Explanation, GradCAM, Target
from ..explainers.base import resolve_target
from .metadata import ExportMetadata
from .runtimes import OnnxProgram, Program, TorchProgram
from .tracing import TOP_CLASS

SUFFIXES = (".onnx", ".pt2")


class ExportedStudent(nn.Module):
    """A classifier in an exported file, as a model: it has a configuration and gives logits, and has no gradients.

    Attributes:
        config: Configuration with the class names, `id2label`.
        processing_class: The processor's settings as timm's `pretrained_cfg` states them, or what `load_exported` was
            given; None where neither is known.
        metadata: The metadata of the file; None where it was made by something else.
        runtime, precision: Names of the runtime and of the weights' number formats, for a fidelity record.
    """

    def __init__(
        self, program: Program, source: str, processing_class: Any = None, class_names: Sequence[str] | None = None
    ):
        super().__init__()
        self.program = program
        self.source = source
        self.metadata = ExportMetadata.from_properties(program.properties, source)
        self.runtime, self.precision = program.runtime, program.precision
        self._names = _input_names(program, self.metadata, source)
        self.main_input_name = "input_ids" if "input_ids" in self._names else "pixel_values"
        self.config = _config(program, self.metadata, source, class_names)
        known = None if self.metadata is None else self.metadata.preprocessing
        self.processing_class = known or processing_class
        self.eval()

    @property
    def is_text(self) -> bool:
        """True for a classifier of texts."""
        return self.main_input_name == "input_ids"

    @property
    def has_map(self) -> bool:
        """True where the file gives a map with its logits."""
        return "map" in self.program.outputs and "target" in self.program.inputs

    def forward(self, **inputs: Any) -> dict[str, torch.Tensor]:
        """Return the `logits` (B, classes) of a batch; columns that the file doesn't take are left out."""
        return {"logits": self._run(inputs)["logits"]}

    def explain(
        self, inputs: Mapping[str, Any], target: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits (B, classes) and the maps (B, h, w) of a class.

        Args:
            inputs: `pixel_values` (B, channels, H, W).
            target: Classes (B,) to explain; None, or −1, for the top.

        Raises:
            ValueError: the file gives no map.
        """
        require_map(self)
        found = self._run(inputs, target)
        return found["logits"], found["map"]

    def own_explainer(self, explainer: Explainer) -> Explainer:
        """Return the explainer by which `hf_e2kd.explain` explains it: in the place of GradCAM, its file's own map."""
        return ExportedGradCAM(explainer.target_layer) if type(explainer) is GradCAM else explainer

    def _run(self, inputs: Mapping[str, Any], target: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        given = {own: inputs[name] for name, own in self._names.items() if inputs.get(name) is not None}
        if any(value.requires_grad for value in given.values()):
            raise ValueError(
                f"'{self.source}' is an exported model and has no gradients. Explain it by its own map "
                "(explainer='gradcam'), or by a method that takes no gradient."
            )
        lacking = [name for name, own in self._names.items() if own not in given]
        if lacking:
            raise ValueError(f"'{self.source}' takes {', '.join(self._names)}; the batch lacks {', '.join(lacking)}.")
        first = next(iter(given.values()))
        self._check_shape(given)
        if "target" in self.program.inputs:
            given["target"] = torch.full((len(first),), TOP_CLASS) if target is None else target
        found = self.program.run(given)
        if "logits" not in found:  # of a file that something else made
            found["logits"] = found[self.program.outputs[0]]
        return {name: value.to(first.device) for name, value in found.items()}

    def _check_shape(self, given: Mapping[str, torch.Tensor]) -> None:
        """Refuse images of another size than the file was exported for."""
        for name, expected in getattr(self.program, "shapes", {}).items():
            if name in given and len(expected) == 4:
                fixed = [isinstance(side, int) for side in expected[1:]]
                sides = zip(expected[1:], given[name].shape[1:], fixed, strict=True)
                if any(own != found for own, found, is_fixed in sides if is_fixed):
                    raise ValueError(
                        f"'{self.source}' takes images of {_sides(expected[1:])}, not of "
                        f"{_sides(given[name].shape[1:])}. Resize them, or export the model for that size: "
                        "hf-e2kd export … --image-size."
                    )


class ExportedGradCAM(GradCAM):
    """GradCAM of an exported student: the map that its file gives."""

    explains_any_output = False  # the file's map is of a logit

    def check(self, model: nn.Module, compiled: bool = False, trained: bool = True) -> None:
        require_map(model)
        stated = getattr(getattr(model, "metadata", None), "explainer", None) or {}
        if self.target_layer not in (None, stated.get("target_layer")):
            raise ValueError(
                f"The exported map is that of the layer '{stated.get('target_layer')}', and the target_layer "
                f"'{self.target_layer}' is named. Leave it out."
            )

    def forward(self, model: nn.Module, inputs: Mapping[str, Any], target: Target) -> Explanation:
        assert isinstance(model, ExportedStudent)
        logits, top_maps = model.explain(inputs)
        classes = resolve_target(target, logits)
        top = logits.argmax(1)
        columns = classes[:, None] if classes.ndim == 1 else classes
        maps = [
            top_maps if torch.equal(column, top) else model.explain(inputs, column)[1] for column in columns.unbind(1)
        ]
        # A class of −1 is none, and no top class here.
        found = torch.stack(maps, dim=1) * (columns >= 0)[:, :, None, None]
        return Explanation(logits, found if classes.ndim == 2 else found[:, 0], classes)


def load_exported(
    path: str | Path,
    processing_class: Any = None,
    class_names: Sequence[str] | None = None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
) -> ExportedStudent:
    """Load an exported student: an ONNX file, which ONNX Runtime runs, or a `torch.export` archive.

    Load archives (`.pt2`) of people whom you trust: what torch reads in them may run code.

    Args:
        path: File that ends in .onnx or .pt2.
        processing_class: Image processor or tokenizer, for files that state none.
        class_names: Names of the classes in the order of the logits, for files that state none.
        providers: ONNX Runtime's execution providers.

    Raises:
        ValueError: it is no such file, or the runtime is too old for it.
        OSError: it isn't there.
        ImportError: ONNX Runtime isn't installed.

    Example:

        student = load_exported("student.onnx")
        logits, maps = student.explain({"pixel_values": pixel_values})
    """
    path = Path(path)
    if not is_exported(path):
        raise ValueError(f"'{path}' should end in {' or '.join(SUFFIXES)}.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}'.")
    program: Program = OnnxProgram(path, providers) if path.suffix == ".onnx" else TorchProgram(path)
    return ExportedStudent(program, str(path), processing_class, class_names)


def is_exported(source: str | Path) -> bool:
    """Tell by its name whether a model is an exported file."""
    return Path(source).suffix in SUFFIXES


def exported_explainer(model: nn.Module, explainer: Explainer) -> Explainer:
    """Return the explainer of a model: in the place of GradCAM, an exported student's own map."""
    return model.own_explainer(explainer) if isinstance(model, ExportedStudent) else explainer


def gives_gradcam(model: nn.Module) -> bool:
    """Tell whether a model can be explained by GradCAM as far as its form says: an exported one needs its own map."""
    return not isinstance(model, ExportedStudent) or model.has_map


def require_map(model: nn.Module) -> None:
    """Refuse an exported student that gives logits alone.

    Raises:
        ValueError: with the remedy.
    """
    if not gives_gradcam(model):
        raise ValueError(
            f"'{model.source}' gives logits alone. Export the model with its explanation: hf-e2kd export MODEL "
            "OUT.onnx --explanation."
        )


def _config(
    program: Program, metadata: ExportMetadata | None, source: str, class_names: Sequence[str] | None
) -> PreTrainedConfig:
    """Make the configuration of an exported student: its classes, and what kind of problem it solves."""
    stated = None if metadata is None else metadata.class_names
    names = stated or class_names
    number = metadata.num_classes if metadata is not None else program.num_classes
    if names is not None and number not in (None, len(names)):
        raise ValueError(f"'{source}' has {number} classes, and {len(names)} names are given for them.")
    if names is None and number is None:
        raise ValueError(f"'{source}' doesn't say how many classes it has. Give their names as `class_names`.")
    problem = None if metadata is None else metadata.problem_type
    # As records name it; of somebody else's file only its name is known.
    architecture = Path(source).name if metadata is None else metadata.architecture
    if names is None:
        return PreTrainedConfig(num_labels=number, problem_type=problem, architecture=architecture)
    numbered = dict(enumerate(names))
    return PreTrainedConfig(
        id2label=numbered,
        label2id={name: number for number, name in numbered.items()},
        problem_type=problem,
        architecture=architecture,
    )


def _input_names(program: Program, metadata: ExportMetadata | None, source: str) -> dict[str, str]:
    """Map the names of a batch's columns to those of the file's inputs."""
    names = [name for name in program.inputs if name != "target"]
    if metadata is not None or "input_ids" in names:
        return {name: name for name in names}
    shapes = getattr(program, "shapes", {})
    if len(names) == 1 and len(shapes[names[0]]) == 4:
        return {"pixel_values": names[0]}
    raise ValueError(
        f"'{source}' takes {', '.join(names)}. A classifier takes images (B, channels, H, W) alone, or `input_ids` and "
        "what belongs to them. Export the model anew: hf-e2kd export MODEL OUT.onnx."
    )


def _sides(sides: Sequence[int | str]) -> str:
    return "×".join(str(side) for side in sides)
