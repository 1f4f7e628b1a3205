"""Layers of a model by a word: `"last"`, a block's number, or a path."""

from collections.abc import Sequence

from torch import nn

from .base import explained_part
from .taps import find_layer, stages

LayerName = str | int
"""`"last"` or a number: the activation in front of that block, negative numbers counted from the end. Another string,
or one that a layer of the model has for its path: the output of that layer."""


def layer_place(model: nn.Module, layer: LayerName) -> tuple[str, bool]:
    """Find the layer that a word names.

    Args:
        layer: `"last"`, a number of a block (of a stage, where a model has stages), or a path, of a composed model also
            one within its explained part.

    Returns:
        The path of a module, and whether its input is meant, in the place of its output.

    Raises:
        ValueError: there is no such layer.
    """
    paths = dict(model.named_modules())
    if isinstance(layer, str) and (layer != "last" or layer in paths):
        of_part = f"{explained_part(model)}.{layer}"
        if layer not in paths and of_part in paths:
            return of_part, False
        find_layer(model, layer)
        return layer, False
    try:
        found = stages(model)
    except ValueError as error:
        raise ValueError(
            f"layer={layer!r} names a block, and the blocks of {type(model).__name__} aren't known. Give the path of a "
            'layer, whose output is meant: layer="path.of.the.layer".'
        ) from error
    return found[block_number(layer, [last for _, last in found], model)][0], True


def block_number(layer: LayerName, blocks: Sequence[str], model: nn.Module) -> int:
    """Return the number of the block in front of which a layer's activation stands; behind the last, their count.

    Args:
        layer: `"last"`, a number, or the path of a block, whose output is meant.
        blocks: Paths of the model's blocks.

    Raises:
        ValueError: there is no such block; the message gives the valid ones.
    """
    count = len(blocks)
    if layer == "last":
        return count - 1
    if isinstance(layer, int) and not isinstance(layer, bool) and -count <= layer < count:
        return layer % count
    if layer in blocks:
        return blocks.index(str(layer)) + 1
    raise ValueError(
        f"layer={layer!r}: {type(model).__name__} has {count} blocks. Give 'last', a number from {-count} to "
        f"{count - 1}, or a path: {', '.join(blocks)}."
    )
