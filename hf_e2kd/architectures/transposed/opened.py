"""A model's forward pass with its last blocks in the open, and the transposed pass through them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..grids import Grid
from ..layers import LayerName, block_number
from .attention import widened
from .families import Family, find_family, known_families
from .operations import Pullback
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
        ValueError: the model's blocks can't be opened; the message lists the classes whose can.
    """
    family = find_family(model)
    if family is None:
        raise ValueError(
            f"Relevance isn't propagated through {type(model).__name__}. Its rules are written for "
            f"{', '.join(known_families())}. Explain others by 'integrated_gradients', or images by 'gradcam'."
        )
    return family


def open_forward(model: nn.Module, inputs: Mapping[str, Any], layer: LayerName | None, rules: Rules) -> Opened:
    """Run a model, from a layer on block by block in the open.

    The blocks in front of the layer run as the model's own, by whatever kernel it uses.

    Args:
        inputs: The forward's keyword arguments.
        layer: As of `block_number`; None for the input.

    Raises:
        ValueError: the model's blocks can't be opened, or there is no such layer.
    """
    family = require_family(model)
    blocks = family.blocks
    first = 0 if layer is None else block_number(layer, list(blocks), model)
    embedded = family.embed(inputs, rules)
    hidden = embedded.hidden
    for block in list(blocks.values())[:first]:
        hidden = family.run(block, hidden, embedded.context)
    start, pullbacks = hidden, []
    for number, block in list(enumerate(blocks.values()))[first:]:
        read = family.read if number == len(blocks) - 1 else None
        hidden, pullback = family.open(block, hidden, embedded.context, read, rules)
        pullbacks.append(pullback)
    logits, pull_classifier = family.classify(hidden[:, : family.read], embedded.context, rules)

    def pull(cotangent: torch.Tensor) -> torch.Tensor:
        cotangent = pull_classifier(cotangent)
        for pullback in reversed(pullbacks):
            cotangent = pullback(cotangent)
        return embedded.pullback(cotangent) if layer is None else widened(cotangent, start.shape[1])

    if layer is None:
        return Opened(logits, embedded.value, pull, None)
    return Opened(logits, start, pull, embedded.grid)
