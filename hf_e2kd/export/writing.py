"""Export of a model as an ONNX file or a `torch.export` archive, checked against the model before it is kept."""

import copy
import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from ..alignment.inputs import ImageView, image_channels, image_view
from ..alignment.labels import class_names
from ..alignment.own_processing import own_image_processor
from ..architectures import call_model, find_architecture
from ..architectures.base import forget_biases
from ..explainers import explain
from ..logs import get_logger
from ..version import __version__
from .metadata import ExportMetadata
from .reading import SUFFIXES, ExportedStudent, load_exported
from .runtimes import METADATA_FILE, MISSING_EXTRA
from .tracing import TRACED_SAMPLES, gradcam_program, logits_program, require_explainable

logger = get_logger(__name__)

OPSET = 18
"""Version of ONNX's operators that is written, and the oldest that `torch.onnx` writes without conversion."""

TOLERANCE = 1e-5
"""Largest difference of an exported map from `explain`'s, of the peak."""

LOGITS_TOLERANCE = 1e-4
"""Largest difference of an exported logit, of the largest logit."""

ROUNDING = 8
"""Multiples of float32's own rounding, measured against float64, by which two orders of summation may differ."""

CHECKED_CLASSES = 4
"""Classes that are explained beside the top one when an exported map is checked."""

TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def export_model(
    model: nn.Module,
    path: str | Path,
    *,
    explanation: bool = False,
    processing_class: Any = None,
    image_size: int | tuple[int, int] | None = None,
    opset: int = OPSET,
    probe: torch.Tensor | None = None,
) -> Path:
    """Export a classifier as an ONNX file (.onnx) or a `torch.export` archive (.pt2), for any number of samples.

    The file's inputs are `pixel_values` (B, channels, H, W) or a text's `input_ids`, `attention_mask` and so on, its
    output is `logits`. With `explanation` it also takes `target` (B,), the classes to explain (−1 for the top one), and
    gives `map` (B, h, w), GradCAM as `hf_e2kd.explain` computes it, without autograd. It carries the class names and
    the processor's settings. The model is computed in float32 and in evaluation mode, and stays as it is.

    The exported file is run before it takes its name, and refused where its logits or maps aren't the model's.

    Args:
        model: A classifier of images or, without `explanation`, of texts.
        path: File to write; an earlier one is replaced once the new one is complete.
        explanation: True for the map beside the logits.
        processing_class: Image processor (or timm's `pretrained_cfg`) or tokenizer. By default that which the model
            states itself.
        image_size: Size of the images in pixels, or (height, width). By default the processor's.
        opset: Version of ONNX's operators.
        probe: Images (B, channels, H, W) on which the exported map is compared; random ones by default.

    Returns:
        The path.

    Raises:
        ValueError: the model, or its map, can't be exported, with the reason; or what is exported isn't equal to it.
        OSError: there is no such folder.
        ImportError: a package of the extra `export` is missing.

    Example:

        export_model(student, "student.onnx", explanation=True, processing_class=processor)
    """
    path = Path(path)
    check_request(path, opset)
    if explanation:
        require_explainable(model)
    forget_biases(model)
    model = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    is_text = getattr(model, "main_input_name", "pixel_values") == "input_ids"
    view = None if is_text else _view(model, processing_class)
    if is_text:
        inputs, options = _example_text(model, processing_class), {}
    else:
        size = _image_size(model, view, image_size)
        view = None if view is None else replace(view, size=size)
        inputs = {"pixel_values": _example_images(model, view, size) if probe is None else probe.cpu().float()}
        options = _size_options(model, size)
    # Before the program is traced, see `gradcam_program`.
    expected = _expected(model, inputs, options, explanation)
    metadata = ExportMetadata(
        modality="text" if is_text else "image",
        architecture=_architecture(model),
        num_classes=expected[0].shape[1],
        class_names=class_names(model),
        problem_type=getattr(getattr(model, "config", None), "problem_type", None),
        preprocessing=None if view is None else view.timm_settings(),
        explainer=_explainer(model) if explanation else None,
        versions={"hf_e2kd": __version__, "torch": version("torch")},
    )
    traced = {name: value[torch.arange(TRACED_SAMPLES) % len(value)] for name, value in inputs.items()}
    if explanation:
        program = gradcam_program(model, traced["pixel_values"], options)
        names, outputs = ["pixel_values", "target"], ["logits", "map"]
    else:
        program = logits_program(model, traced, options)
        names, outputs = list(traced), ["logits"]
    # In the same folder, so that the last step is a change of name alone.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder:
        written = Path(folder) / path.name
        if path.suffix == ".onnx":
            _save_onnx(program, written, names, outputs, metadata, opset)
        else:
            _save_archive(program, written, names, outputs, metadata)
        _check(load_exported(written), model, inputs, options, expected)
        os.replace(written, path)
    return path


def check_request(path: Path, opset: int) -> None:
    """Refuse, before anything is computed, a file that couldn't be written in the end.

    Args:
        path: File to write.
        opset: Version of ONNX's operators.

    Raises:
        ValueError: another suffix, a folder, or an opset that can't be written.
        FileNotFoundError: its folder isn't there.
        ImportError: a package of the extra `export` is missing.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"'{path}' should end in .onnx, or in .pt2 for torch.export.")
    if path.is_dir():
        raise ValueError(f"'{path}' is a folder, and the export writes a file.")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"There is no folder '{path.parent}' for '{path.name}'.")
    if path.suffix != ".onnx":
        return
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(MISSING_EXTRA) from error
    newest = onnx.defs.onnx_opset_version()
    if not OPSET <= opset <= newest:
        raise ValueError(
            f"Opset {opset} can't be written: torch.onnx writes {OPSET} and newer, and onnx {onnx.__version__} knows "
            f"those up to {newest}."
        )


def _view(model: nn.Module, processing_class: Any) -> ImageView | None:
    processor = own_image_processor(model) if processing_class is None else processing_class
    if processor is None:
        return None
    try:
        return image_view(processor)
    except ValueError as error:
        logger.warning(f"The exported file doesn't state how images are made for it. {error}")
        return None


def _image_size(model: nn.Module, view: ImageView | None, given: int | tuple[int, int] | None) -> tuple[int, int]:
    stated = given or (None if view is None else view.size) or _configured_size(model)
    if stated is None:
        raise ValueError(
            f"Nothing says for which images {type(model).__name__} is: give its processor as `processing_class`, or "
            "`image_size` (--image-size), its images' height and width in pixels."
        )
    height, width = (stated, stated) if isinstance(stated, int) else stated
    return height, width


def _configured_size(model: nn.Module) -> Any:
    """The image size of a model's configuration; of CLIP's and SigLIP's, of its part for images."""
    config = getattr(model, "config", None)
    return getattr(config, "image_size", None) or getattr(getattr(config, "vision_config", None), "image_size", None)


def _size_options(model: nn.Module, size: tuple[int, int]) -> dict[str, Any]:
    """Return what the forward of a ViT is given beside images of another size than its configuration's."""
    configured = _configured_size(model)
    if configured is None or "interpolate_pos_encoding" not in signature(model.forward).parameters:
        return {}
    height, width = (configured, configured) if isinstance(configured, int) else configured
    return {} if (height, width) == size else {"interpolate_pos_encoding": True}


def _example_images(model: nn.Module, view: ImageView | None, size: tuple[int, int]) -> torch.Tensor:
    channels = image_channels(model) or (3 if view is None else len(view.mean))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, channels, *size, generator=generator)
    # With structure over several pixels too, to which networks respond.
    return noise + 2 * nn.functional.avg_pool2d(noise, 9, stride=1, padding=4)


def _example_text(model: nn.Module, tokenizer: Any) -> dict[str, torch.Tensor]:
    """Make two texts of random tokens, the second of them padded."""
    taken = signature(model.forward).parameters
    made = getattr(tokenizer, "model_input_names", TEXT_INPUTS[:2])
    ids = torch.randint(model.config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    padding = getattr(model.config, "pad_token_id", None) or 0
    ids = torch.where(ids == padding, (padding + 1) % model.config.vocab_size, ids).where(mask.bool(), padding)
    values = dict(zip(TEXT_INPUTS, (ids, mask, torch.zeros_like(ids)), strict=True))
    return {name: value for name, value in values.items() if name in taken and name in made}


def _architecture(model: nn.Module) -> str:
    return getattr(getattr(model, "config", None), "architecture", None) or type(model).__name__


def _explainer(model: nn.Module) -> dict[str, Any]:
    architecture = find_architecture(model)
    assert architecture is not None
    return {"name": "gradcam", "target_layer": architecture.target_path(model)}


def _save_onnx(
    program: ExportedProgram, path: Path, inputs: list[str], outputs: list[str], metadata: ExportMetadata, opset: int
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own use of torch
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            input_names=inputs,
            output_names=outputs,
            verbose=False,
        )
    assert exported is not None
    graph = exported.model
    # The exporter notes the source lines, and so the paths, of the machine that it runs on.
    for node in graph.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*graph.graph.inputs, *graph.graph.initializers.values()):
        value.metadata_props.clear()
    graph.graph.metadata_props.clear()
    graph.metadata_props.clear()
    graph.metadata_props.update(metadata.to_properties())
    exported.save(str(path))


def _save_archive(
    program: ExportedProgram, path: Path, inputs: list[str], outputs: list[str], metadata: ExportMetadata
) -> None:
    # As with ONNX: the source lines of this machine.
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    stated = {"inputs": inputs, "outputs": outputs, "properties": metadata.to_properties()}
    torch.export.save(program, str(path), extra_files={METADATA_FILE: json.dumps(stated)})


@torch.no_grad()
def _expected(
    model: nn.Module, inputs: Mapping[str, torch.Tensor], options: Mapping[str, Any], explanation: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the logits (B, classes), and of several classes (B, K) each the maps (B, K, h, w), none without them."""
    try:
        logits = call_model(model, {**inputs, **options})
    except (RuntimeError, AssertionError) as error:
        if "pixel_values" not in inputs:
            raise
        height, width = inputs["pixel_values"].shape[-2:]
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise ValueError(
            f"{type(model).__name__} can't be exported for images of {height}×{width} pixels: {reason}. Give the "
            "size that it was built for as `image_size` (--image-size)."
        ) from error
    fixed = torch.linspace(0, logits.shape[1] - 1, CHECKED_CLASSES if explanation else 0).long()
    classes = torch.cat([logits.argmax(1, keepdim=True), fixed.expand(len(logits), -1)], 1)
    if not explanation:
        return logits, classes, torch.zeros(0)
    maps = explain(model, {**inputs, **options}, "gradcam", classes).maps
    if not maps.any():
        raise ValueError(
            f"All maps of the {len(logits)} images on which {type(model).__name__} is compared are zero, so nothing "
            "would be shown by their equality. Give images that it recognises as `probe`."
        )
    return logits, classes, maps


def _check(
    exported: ExportedStudent,
    model: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    options: Mapping[str, Any],
    expected: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    """Refuse an export that isn't equal to its model, on the whole batch and on its first sample alone."""
    logits, classes, maps = expected
    of_logits, of_maps = [], []
    for samples in (len(logits), 1):
        batch = {name: value[:samples] for name, value in inputs.items()}
        found = exported(**batch)["logits"]
        of_logits.append((found - logits[:samples]).abs().max() / logits.abs().max())
        for number, column in enumerate(classes.T if maps.numel() else ()):
            _, found = exported.explain(batch, column[:samples])
            of_maps.append((found - maps[:samples, number]).abs().max() / maps.max())
    # A difference of NaN is one too.
    if not (difference := torch.stack(of_logits).max()) <= LOGITS_TOLERANCE:
        raise _unequal("logits", float(difference), LOGITS_TOLERANCE)
    if not of_maps or (difference := torch.stack(of_maps).max()) <= TOLERANCE:
        return
    if not difference <= ROUNDING * _rounding(model, inputs, options, classes, maps):
        raise _unequal("map", float(difference), TOLERANCE)


def _rounding(
    model: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    options: Mapping[str, Any],
    classes: torch.Tensor,
    maps: torch.Tensor,
) -> float:
    """Measure how far float32's rounding puts a model's maps, of the peak; more than 1e-5 where much cancels out."""
    precise = {name: value.double() for name, value in inputs.items()}
    exact = explain(copy.deepcopy(model).double(), {**precise, **options}, "gradcam", classes).maps
    return float((exact - maps).abs().max() / maps.max())


def _unequal(output: str, difference: float, tolerance: float) -> ValueError:
    return ValueError(
        f"The exported {output} differ{'s' if output == 'map' else ''} from the model's by {difference:.1e} of the "
        f"peak, more than {tolerance:.0e}, so nothing was written. Export to the other format (.onnx, .pt2), and "
        "please report the model."
    )
