"""Places of a model at which gradients along a path from a baseline are taken: its input, or a layer."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..alignment.precision import at_least_float32
from ..architectures import Grid, call_model
from ..architectures.discovery import accepted_inputs, image_size
from ..architectures.layers import LayerName
from ..architectures.text import moved_embeddings, word_embeddings
from ..architectures.transposed import DERIVATIVE, Embedded, move_to, run_from, run_to
from .hooks import Move
from .input_gradients import differentiate, over_channels, require_moved, rows_of
from .layer_gradients import differentiate_layer, run_to_layer
from .lrp import LRP, pulled_back


class InputPlace:
    """The input: pixels, or word embeddings before positions are added. The object serves one batch."""

    def run(self, model: nn.Module, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return the logits (B, classes) of a batch."""
        if inputs.get("pixel_values") is not None:
            image_size(model, inputs)
        return call_model(model, inputs)

    def start(
        self, model: nn.Module, inputs: Mapping[str, Any], baseline: torch.Tensor | None, rows: torch.Tensor
    ) -> torch.Tensor | None:
        """Return where the path of some rows of the batch begins; None for zero.

        Args:
            baseline: Baseline of the input, which broadcasts to it; None for zero.
            rows: Numbers of the rows that are explained.
        """
        is_own = baseline is not None and _is_per_sample(baseline, inputs)
        return baseline[rows] if is_own and baseline is not None else baseline

    def differentiate(
        self, model: nn.Module, inputs: Mapping[str, Any], rows: torch.Tensor, target: torch.Tensor, move: Move
    ) -> list[torch.Tensor]:
        """Return the gradient of each of the K targets' logits at another value than the place's own.

        Args:
            inputs: The explained rows, perhaps several times one after the other.
            rows: Their numbers in the batch.
            target: Their classes (B,) or (B, K).
            move: Function of the place's value that gives the other one.
        """
        return differentiate(model, inputs, target, move).gradients

    def lay_out(self, values: torch.Tensor, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Sum values over the channels: (B, H, W) of an image, (B, T) of a text."""
        return over_channels(values, inputs)

    def nothing(self, logits: torch.Tensor, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Make zero maps, on the logits' graph, so that a loss of them alone has a gradient, of zero."""
        pixels = inputs.get("pixel_values")
        grid = inputs["input_ids"].shape[1:] if pixels is None else pixels.shape[-2:]
        return at_least_float32(logits.new_zeros(len(logits), *grid) + 0 * logits.sum())


class LayerPlace(InputPlace):
    """The activation of a layer, as `layer_place` names it. The path begins at its activation for the baseline."""

    activation: torch.Tensor
    grid: Grid

    def __init__(self, layer: LayerName):
        self.layer = layer

    def run(self, model: nn.Module, inputs: Mapping[str, Any]) -> torch.Tensor:
        logits, self.activation, self.grid = run_to_layer(model, self.layer, inputs)
        return logits

    def start(
        self, model: nn.Module, inputs: Mapping[str, Any], baseline: torch.Tensor | None, rows: torch.Tensor
    ) -> torch.Tensor | None:
        pixels, move = inputs.get("pixel_values"), to_baseline(baseline)
        if pixels is not None:
            return run_to_layer(model, self.layer, {**inputs, "pixel_values": move(pixels)})[1][rows]
        with moved_embeddings(model, inputs["input_ids"], move) as moved:
            start = run_to_layer(model, self.layer, inputs)[1]
        require_moved(model, moved)
        return start[rows]

    def differentiate(
        self, model: nn.Module, inputs: Mapping[str, Any], rows: torch.Tensor, target: torch.Tensor, move: Move
    ) -> list[torch.Tensor]:
        own = self.activation[rows]

        def move_own(value: torch.Tensor) -> torch.Tensor:
            # The activation of the step's own pass: what leads to it is differentiated once.
            return move(own.repeat(len(value) // len(own), *[1] * (own.ndim - 1)))

        return differentiate_layer(model, self.layer, inputs, target, move_own)[2]

    def lay_out(self, values: torch.Tensor, inputs: Mapping[str, Any]) -> torch.Tensor:
        maps = self.grid.cells(values).sum(-1)
        return maps if inputs.get("pixel_values") is not None else maps.squeeze(-2)

    def nothing(self, logits: torch.Tensor, inputs: Mapping[str, Any]) -> torch.Tensor:
        return self.lay_out(at_least_float32(0 * self.activation), inputs)


class OpenedPlace(InputPlace):
    """The words, or a layer's activation, of a model whose blocks can be opened.

    The derivative is written out as a transposed pass, which a loss of it differentiates once. What leads to a layer
    runs for its activation and for the baseline's, and not again for each point of the path.

    Raises:
        TransposeError: the model's blocks can't be opened.
    """

    reached: Embedded

    def __init__(self, layer: LayerName | None):
        self.layer = layer

    def run(self, model: nn.Module, inputs: Mapping[str, Any]) -> torch.Tensor:
        LRP(layer=self.layer).refuse(model, inputs)
        # Of the last block, the classifier mostly reads one token: this pass computes no other.
        layer = "last" if self.layer is None else self.layer
        self.reached = run_to(model, accepted_inputs(model, inputs), layer, DERIVATIVE)
        return run_from(model, self.reached, layer, DERIVATIVE).logits

    def start(
        self, model: nn.Module, inputs: Mapping[str, Any], baseline: torch.Tensor | None, rows: torch.Tensor
    ) -> torch.Tensor | None:
        baseline = super().start(model, inputs, baseline, rows)
        if self.layer is None:
            return baseline
        some = accepted_inputs(model, rows_of(inputs, rows, len(self.reached.hidden)))
        return run_to(model, some, self.layer, DERIVATIVE, to_baseline(baseline)).hidden

    def differentiate(
        self, model: nn.Module, inputs: Mapping[str, Any], rows: torch.Tensor, target: torch.Tensor, move: Move
    ) -> list[torch.Tensor]:
        inputs = accepted_inputs(model, inputs)
        if self.layer is None:
            reached = run_to(model, inputs, None, DERIVATIVE, move)
        else:
            own = self.reached.hidden[rows]
            moved = move(own.repeat(len(target) // len(own), 1, 1))
            reached = move_to(model, inputs, moved, self.layer, self.reached)
        return pulled_back(run_from(model, reached, self.layer, DERIVATIVE), target)

    def lay_out(self, values: torch.Tensor, inputs: Mapping[str, Any]) -> torch.Tensor:
        return values.sum(-1) if self.reached.grid is None else self.reached.grid.cells(values).sum(-1)

    def nothing(self, logits: torch.Tensor, inputs: Mapping[str, Any]) -> torch.Tensor:
        return self.lay_out(at_least_float32(0 * self.reached.hidden), inputs)


def _is_per_sample(baseline: torch.Tensor, inputs: Mapping[str, Any]) -> bool:
    """Tell whether each sample has a baseline of its own."""
    return baseline.ndim == (3 if inputs.get("pixel_values") is None else 4) and len(baseline) > 1


def to_baseline(baseline: torch.Tensor | None) -> Move:
    """Make the move of an input to its baseline, which broadcasts to it; None for zero."""
    return lambda value: torch.zeros_like(value) if baseline is None else baseline.to(value).expand_as(value)


def refuse_unfit_baseline(model: nn.Module, inputs: Mapping[str, Any], baseline: torch.Tensor) -> None:
    """Refuse a baseline that doesn't broadcast to the batch's pixels or word embeddings.

    Raises:
        ValueError: naming both shapes.
    """
    pixels = inputs.get("pixel_values")
    width = () if pixels is not None else word_embeddings(model).weight.shape[-1:]
    shape = (*(inputs["input_ids"] if pixels is None else pixels).shape, *width)
    try:
        fits = torch.broadcast_shapes(baseline.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"The baseline of shape {tuple(baseline.shape)} doesn't broadcast to a batch of {shape[0]}, {shape}. Give "
            "one for all samples, without the first dimension."
        )
