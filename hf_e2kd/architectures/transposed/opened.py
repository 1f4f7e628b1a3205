"""A model's forward pass with its last blocks in the open, and the transposed pass through them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..grids import Grid
from ..layers import LayerName, block_number
from .attention import widened
from .families import Embedded, Family, Move, find_family, known_families, own_forward
from .operations import Pullback, unchanged
from .refusals import TransposeError
from .rules import Rules


@dataclass
class Opened:
    """A forward pass that can be run backwards by rules.

    Args:
        logits: Logits (B, classes).
        value: What is explained: word embeddings (B, T, C), pixels (B, C, H, W), or a layer's activation (B, N, C).
        pullback: Takes a cotangent of the logits, (B, classes), to one of `value`.
        grid: Layout of an image's tokens in a layer's activation; None of a text's, and of pixels.
    """

    logits: torch.Tensor
    value: torch.Tensor
    pullback: Pullback
    grid: Grid | None


def require_family(model: nn.Module) -> Family:
    """Return the family of a model.

    Raises:
        TransposeError: the model's blocks can't be opened; the message lists the classes whose can.
    """
    family = find_family(model)
    if family is None:
        own = own_forward(model)
        inner = "" if own is None else f": {own} is not transformers' or timm's own"
        raise TransposeError(
            f"Relevance isn't propagated through {type(model).__name__}{inner}. Its rules are written for "
            f"{', '.join(known_families())}. Explain others by 'integrated_gradients', or images by 'gradcam'."
        )
    return family


def opened_blocks(model: nn.Module, layer: LayerName | None) -> dict[str, nn.Module]:
    """Return the blocks that are run in the open, by their paths.

    Args:
        layer: As of `block_number`; None for the input.

    Raises:
        TransposeError: the model's blocks can't be opened, or there is no such layer.
    """
    blocks = require_family(model).blocks
    try:
        first = 0 if layer is None else block_number(layer, list(blocks), model)
    except ValueError as error:
        raise TransposeError(str(error)) from None
    return dict(list(blocks.items())[first:])


def run_to(
    model: nn.Module, inputs: Mapping[str, Any], layer: LayerName | None, rules: Rules, move: Move = unchanged
) -> Embedded:
    """Run a model up to a layer, by its own blocks and whatever kernel it uses.

    Args:
        inputs: The forward's keyword arguments.
        layer: As of `block_number`; None for the input.
        move: Function that moves what the model reads: word embeddings or pixels.

    Returns:
        The activation in front of the opened blocks; of a layer, it is its own `value`.

    Raises:
        TransposeError: the model's blocks can't be opened, or there is no such layer.
    """
    opened = opened_blocks(model, layer)
    family = require_family(model)
    embedded = family.embed(inputs, rules, move)
    if layer is None:
        return embedded
    hidden = embedded.hidden
    for path, block in family.blocks.items():
        if path not in opened:
            hidden = family.run(block, hidden, embedded.context)
    return replace(embedded, hidden=hidden, value=hidden, pullback=unchanged)


def move_to(
    model: nn.Module, inputs: Mapping[str, Any], hidden: torch.Tensor, layer: LayerName, reached: Embedded
) -> Embedded:
    """Put another activation in the place of that which a layer had reached.

    Args:
        inputs: The forward's keyword arguments for the rows of `hidden`.
        hidden: Activation (B, tokens, C).
    """
    context = require_family(model).context(hidden, inputs)
    return replace(reached, hidden=hidden, value=hidden, context=context)


def run_from(model: nn.Module, reached: Embedded, layer: LayerName | None, rules: Rules) -> Opened:
    """Run a model from a layer on, block by block in the open.

    Args:
        reached: The activation there, as `run_to` returns it.
    """
    family, opened = require_family(model), opened_blocks(model, layer)
    hidden, pullbacks = reached.hidden, []
    for number, block in enumerate(opened.values(), start=1):
        read = family.read if number == len(opened) else None
        hidden, pullback = family.open(block, hidden, reached.context, read, rules)
        pullbacks.append(pullback)
    logits, pull_classifier = family.classify(hidden[:, : family.read], reached.context, rules)

    def pull(cotangent: torch.Tensor) -> torch.Tensor:
        cotangent = pull_classifier(cotangent)
        for pullback in reversed(pullbacks):
            cotangent = pullback(cotangent)
        return reached.pullback(widened(cotangent, reached.hidden.shape[1]))

    return Opened(logits, reached.value, pull, None if layer is None else reached.grid)


def open_forward(model: nn.Module, inputs: Mapping[str, Any], layer: LayerName | None, rules: Rules) -> Opened:
    """Run a model, from a layer on block by block in the open.

    Args, raises: as of `run_to`.
    """
    return run_from(model, run_to(model, inputs, layer, rules), layer, rules)
