"""Feature taps: outputs of a model's layers, read during its forward pass, and the layers that are read by default."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .base import explained_part
from .grids import grid_of, layer_grid
from .timm import is_timm

# Lists of stages or blocks, below a model of transformers' backbone.
_LISTS = (
    *("encoder.stages", "encoder.layers", "encoder.layer", "encoder.blocks", "encoder.block"),
    *("layers", "layer", "blocks", "stages", "transformer.layer", "model.layer", "model.stages"),
    *("vision_model.encoder.layers", "h"),  # CLIP's and SigLIP's classifiers; GPT-2, Bloom, Falcon
    "encoder.network",  # SwiftFormer's stages, with what lowers the resolution between them
)


class Taps:
    """Hooks that read the outputs of a model's layers while they are switched on.

    The hooks stay on the model, switched off, so that a compiled model sees the same ones at each call. Each layer's
    first output after `start` counts, as a copy that later operations in place can't change.

    Args:
        model: The model.
        paths: Paths of the layers, as in `model.get_submodule`.

    Raises:
        ValueError: the model has no such layer; the nearest paths are listed.
    """

    def __init__(self, model: nn.Module, paths: Sequence[str]):
        self.paths = tuple(dict.fromkeys(paths))
        self.outputs: dict[str, torch.Tensor] = {}
        self.on = False
        self.model = model
        self._handles = [find_layer(model, path).register_forward_hook(_Hook(self, path)) for path in self.paths]

    def start(self) -> None:
        """Switch the hooks on, with no outputs kept."""
        self.outputs.clear()
        self.on = True

    def stop(self, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Switch the hooks off and return the outputs by path, laid out by `feature_cells`.

        Args:
            inputs: The forward's inputs.

        Raises:
            ValueError: a layer wasn't called, or is a part of what is differentiated inside the forward pass.
        """
        self.on = False
        outputs = dict(self.outputs)
        self.outputs.clear()
        missing = [path for path in self.paths if path not in outputs]
        if missing:
            raise ValueError(f"The forward pass doesn't call the layers {missing}. Tap others, such as whole blocks.")
        return {path: feature_cells(outputs[path], inputs, path, self.model) for path in self.paths}

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()


class _Hook:
    """A layer's hook; an object with its taps, so that models with hooks are copied and pickled whole."""

    def __init__(self, taps: Taps, path: str):
        self.taps = taps
        self.path = path

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        taps, path = self.taps, self.path
        if not taps.on or _PROBING or path in taps.outputs:
            return
        feature = output
        while isinstance(feature, tuple) and feature:  # PVTv2's layers give a tuple in a tuple
            feature = feature[0]
        if not isinstance(feature, torch.Tensor):
            raise ValueError(
                f"The layer '{path}' gives a {type(feature).__name__}, not a tensor. Tap a layer inside it."
            )
        if not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(feature):
            raise ValueError(
                f"The layer '{path}' lies in the head that GradCAM differentiates inside the forward pass. Tap a layer "
                "before it, such as the last stage or block."
            )
        taps.outputs[path] = feature.clone()


_PROBING: list[bool] = []


@contextmanager
def untapped() -> Iterator[None]:
    """Keep taps from reading for a while: a pass that probes a model isn't the one whose features are compared."""
    _PROBING.append(True)
    try:
        yield
    finally:
        _PROBING.pop()


def find_layer(model: nn.Module, path: str) -> nn.Module:
    """Return the layer at a path.

    Raises:
        ValueError: there is none; the nearest paths are listed.
    """
    layers = {name: module for name, module in model.named_modules() if name}
    if path in layers:
        return layers[path]
    close = difflib.get_close_matches(path, layers, n=5)
    nearest = f"The nearest: {', '.join(close)}." if close else f"Its layers: {', '.join(layers)}."
    raise ValueError(f"{type(model).__name__} has no layer '{path}'. {nearest}")


def feature_cells(
    feature: torch.Tensor, inputs: Mapping[str, Any], path: str = "", model: nn.Module | None = None
) -> torch.Tensor:
    """Lay out a layer's output by places.

    Args:
        feature: Output (B, C, h, w), (B, h, w, C), (B, prefix + h·w, C) or (B, C); of texts (B, T, C) or (B, C).
        inputs: The forward's inputs; `pixel_values` (B, channels, H, W) tells the image's shape.
        path: Path of the layer, for the error.
        model: The model, which states what the shape alone doesn't tell.

    Returns:
        (B, h, w, C) of images, without prefix tokens; (B, T, C) of texts; (B, C) of pooled features.

    Raises:
        ValueError: a layout that isn't known, or rows that aren't the batch's samples.
    """
    pixel_values = inputs.get("pixel_values")
    batch = inputs.get("input_ids") if pixel_values is None else pixel_values
    if batch is not None and len(feature) != len(batch):
        raise ValueError(
            f"The output of the layer '{path}' has the shape {tuple(feature.shape)} for a batch of {len(batch)}: its "
            "rows are windows, patches or tokens, and not samples. Tap another layer."
        )
    if feature.ndim == 2:
        return feature
    if pixel_values is None:
        if feature.ndim == 3:
            return feature
    elif feature.ndim == 4 and feature.shape[2:].numel() == 1:
        return feature.flatten(1)
    elif feature.ndim == 4 and feature.shape[1:3].numel() == 1:  # one place, channels last
        return feature
    else:
        size = pixel_values.shape[-2:]
        grid = grid_of(feature, *size) if model is None else layer_grid(model, path, feature, *size)
        if grid is not None:
            return grid.cells(feature)
    raise ValueError(
        f"The output of the layer '{path}' has the shape {tuple(feature.shape)}, which is neither laid out in space "
        "nor a row of tokens. Tap another layer, such as a whole stage or block."
    )


def default_taps(model: nn.Module) -> list[str]:
    """Return the paths of a model's stages, or of its blocks where it has no stages, from the first to the last.

    A stage ends where the resolution is lowered next.

    Raises:
        ValueError: the model's stages or blocks aren't known.
    """
    return [last for _, last in stages(model)]


def stages(model: nn.Module) -> list[tuple[str, str]]:
    """Return for each of a model's stages, or blocks, the paths of the layer that is given its input and of its end.

    Raises:
        ValueError: the model's stages or blocks aren't known.
    """
    part = explained_part(model)
    if part is not None:
        return [(f"{part}.{first}", f"{part}.{last}") for first, last in stages(model.get_submodule(part))]
    bare: Any = getattr(model, "timm_model", model)
    if is_timm(bare) and (found := _timm_stages(bare)):
        prefix = "" if bare is model else "timm_model."
        return [(f"{prefix}{first}", f"{prefix}{last}") for first, last in found]
    backbone = getattr(model, "base_model", model)
    prefix = next((f"{name}." for name, module in model.named_modules() if module is backbone and name), "")
    for name in _LISTS:
        try:
            blocks = backbone.get_submodule(name)
        except AttributeError:
            continue
        if isinstance(blocks, nn.ModuleList) and len(blocks):
            ends = list(range(len(blocks))) if name.endswith("stages") else _ends_of_stages(list(blocks))
            begins = [0, *(end + 1 for end in ends)]
            path = f"{prefix}{name}."
            return [
                (f"{path}{begin}{_first_block(blocks[begin])}", f"{path}{end}{_last_block(blocks[end])}")
                for begin, end in zip(begins, ends, strict=False)
            ]
    raise ValueError(
        f"The stages or blocks of {type(model).__name__} aren't known. Name the layers to compare: "
        'layers={"path.in.the.student": "path.in.the.teacher"}.'
    )


def _timm_stages(bare: Any) -> list[tuple[str, str]]:
    """The layers that a timm model states as its stages; of a list, whose blocks are called one by one, both ends.

    Raises:
        ValueError: a stage gives the feature maps of several branches.
    """
    known = dict(bare.named_modules())
    paths = [each["module"] for each in getattr(bare, "feature_info", None) or ()]
    branched = sorted({path for path in paths if paths.count(path) > 1})
    if branched:
        raise ValueError(
            f"{type(bare).__name__} gives the feature maps of several branches at once ({', '.join(branched)}), so its "
            'stages have no one output each. Name the layers to compare: layers={"path.in.the.student": '
            '"path.in.the.teacher"}.'
        )
    return [
        (f"{path}.0", f"{path}.{len(known[path]) - 1}") if isinstance(known[path], nn.ModuleList) else (path, path)
        for path in paths
        if path and path in known  # MViT's names are those of another version of it
    ]


def _first_block(stage: nn.Module) -> str:
    """The beginning's path in a stage: of a list, whose blocks are called one by one (PVT, PoolFormer), the first."""
    return ".0" if isinstance(stage, nn.ModuleList) else ""


def _last_block(stage: nn.Module) -> str:
    """The end's path in a stage: the last block of a list, and of stages that lower the resolution behind it (Swin)."""
    if isinstance(stage, nn.ModuleList):
        return f".{len(stage) - 1}"
    if isinstance(getattr(stage, "downsample", None), nn.Module):
        for name in ("blocks", "layers"):
            if isinstance(blocks := getattr(stage, name, None), nn.ModuleList):
                return f".{name}.{len(blocks) - 1}"
    return ""


def pair_layers(student: Sequence[str], teacher: Sequence[str], at_most: int | None = None) -> dict[str, str]:
    """Pair two models' layers, the last with the last and the others at the same relative depth.

    Args:
        student, teacher: Paths of both models' layers, from the first to the last.
        at_most: Largest number of pairs; None for all.

    Example:
        >>> pair_layers(["a", "b"], ["1", "2", "3", "4"])
        {'a': '2', 'b': '4'}
    """
    count = min(len(student), len(teacher), at_most or len(student))

    def spread(paths: Sequence[str]) -> list[str]:
        return [paths[-(-number * len(paths) // count) - 1] for number in range(1, count + 1)]

    return dict(zip(spread(student), spread(teacher), strict=True))


def _ends_of_stages(blocks: Sequence[nn.Module]) -> list[int]:
    lowers = [any(isinstance(m, nn.Conv2d) and max(m.stride) > 1 for m in block.modules()) for block in blocks]
    # A list is a stage: PVT's attention lowers the resolution of its keys alone, by a stride too.
    if not any(lowers[1:]) or isinstance(blocks[0], nn.ModuleList):
        return list(range(len(blocks)))
    return [number for number in range(len(blocks)) if number + 1 == len(blocks) or lowers[number + 1]]
