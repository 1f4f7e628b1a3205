"""Changed copies of a batch's inputs, and a model's logits for many of them at a time."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from ...alignment.labels import is_multi_label
from ...alignment.precision import at_least_float32
from ...architectures import call_model
from ...architectures.discovery import in_own_precision
from ...architectures.taps import untapped
from ..input_gradients import frozen_statistics, rows_of

Vary = Callable[[dict[str, Any], torch.Tensor, torch.Tensor], Mapping[str, Any]]
"""(inputs of n samples, their rows (n,) in the batch, number (n,) of the variant wanted of each) → changed inputs."""

BATCH_SIZE = 64
"""Changed inputs in one forward pass, unless an option says otherwise."""

_SHOWN_AFTER = 1.0
"""Seconds after which a run shows its progress."""


@torch.no_grad()
def variant_values(
    model: nn.Module,
    inputs: Mapping[str, Any],
    target: torch.Tensor,
    rows: torch.Tensor,
    numbers: torch.Tensor,
    vary: Vary,
    *,
    batch_size: int = BATCH_SIZE,
    probabilities: bool = False,
    title: str = "Changed inputs",
) -> torch.Tensor:
    """Compute the target classes' logits, or probabilities, of changed inputs.

    Args:
        model: A classifier; batch norms in training mode don't record the changed inputs' statistics.
        inputs: Inputs of its forward for a batch of B samples.
        target: (B, K) classes; −1 where there is none, whose value has no meaning.
        rows, numbers: (N,) the sample of each variant, and its number, which `vary` is given.
        vary: Function that changes the inputs.
        batch_size: Changed inputs in one forward pass.
        probabilities: True for probabilities in the place of logits.
        title: Title of the progress bar of long runs.

    Returns:
        (N, K), in at least float32.
    """
    found = []
    bar = tqdm(total=len(rows), desc=title, delay=_SHOWN_AFTER, leave=False, disable=None)
    # Features are those of the inputs as they are.
    with untapped(), frozen_statistics(model), bar as progress:
        for start in range(0, len(rows), batch_size):
            here, wanted = rows[start : start + batch_size], numbers[start : start + batch_size]
            changed = vary(rows_of(inputs, here, len(target)), here, wanted)
            logits = call_model(model, in_own_precision(model, changed))
            scores = class_probabilities(model, logits) if probabilities else at_least_float32(logits)
            found.append(scores.gather(1, target[here].clamp(min=0)))
            progress.update(len(here))
    return torch.cat(found)


def class_probabilities(model: nn.Module, logits: torch.Tensor) -> torch.Tensor:
    """Turn logits (B, classes) to probabilities: softmax, a sigmoid each of several labels; a score stays as it is."""
    logits = at_least_float32(logits)
    if is_multi_label(model):
        return logits.sigmoid()
    return logits if logits.shape[1] == 1 else logits.softmax(dim=1)


def all_variants(count: int, batch: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and numbers (count · batch,) of `count` variants of each sample, one variant of all after the other."""
    rows = torch.arange(batch, device=device).repeat(count)
    return rows, torch.arange(count, device=device).repeat_interleave(batch)


def with_pixels(inputs: Mapping[str, Any], keep: torch.Tensor, filling: torch.Tensor | float) -> dict[str, Any]:
    """Blend images with a filling.

    Args:
        inputs: Batch with `pixel_values` (n, channels, H, W).
        keep: (n, H, W) share of each pixel that is kept.
        filling: What stands in the place of the rest: a number, or images (n, channels, H, W).
    """
    pixels = inputs["pixel_values"]
    share = keep.to(pixels.dtype)[:, None]
    return {**inputs, "pixel_values": share * pixels + (1 - share) * filling}


def text_units(inputs: Mapping[str, Any]) -> torch.Tensor:
    """Number the parts that a text is cut into: its words where the batch knows them, else its tokens.

    Args:
        inputs: Batch with `input_ids` (B, T), and `word_ids`, or `attention_mask` and `special_tokens_mask`, as far
            as they are given.

    Returns:
        (B, T) number of each token's part; −1 for special tokens and padding, which stay in every variant.
    """
    if inputs.get("word_ids") is not None:
        return inputs["word_ids"]
    counted = torch.ones_like(inputs["input_ids"], dtype=torch.bool)
    for name, kept in (("attention_mask", 1), ("special_tokens_mask", 0)):
        if inputs.get(name) is not None:
            counted = counted & (inputs[name] == kept)
    return torch.where(counted, counted.cumsum(1) - 1, -1)


def unit_counts(units: torch.Tensor) -> torch.Tensor:
    """Number of parts (B,) of each text."""
    return units.amax(1) + 1


def kept_tokens(units: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Tell which tokens (n, T) stay where parts (n, U) bool stay; those of no part always do."""
    stays = torch.cat([kept.new_ones(len(kept), 1), kept], dim=1)
    return stays.gather(1, units + 1)


def is_padded_before(model: nn.Module, inputs: Mapping[str, Any]) -> bool:
    """Tell whether a batch's padding stands before the texts, as of classifiers that read the last place."""
    mask = inputs.get("attention_mask")
    if mask is not None and bool((mask[:, 0] == 0).any()):
        return True
    return getattr(getattr(model, "config", None), "summary_type", None) == "last"  # XLNet, of texts without padding


def without_tokens(inputs: Mapping[str, Any], keep: torch.Tensor, padding: int, before: bool = False) -> dict[str, Any]:
    """Leave tokens out of texts: the others move together, as in a text that was written without them.

    Args:
        inputs: Batch with `input_ids` (n, T) and what belongs to it.
        keep: (n, T) bool.
        padding: Id of the padding, which fills the end.
        before: True to fill the beginning.
    """
    ids = inputs["input_ids"]
    order = (keep if before else ~keep).byte().argsort(dim=1, stable=True)
    stays = keep.gather(1, order)
    # All that belongs to tokens, such as their types and their boxes on a page; positions are counted anew.
    moved = {
        name: value.gather(1, order.view(*order.shape, *[1] * (value.ndim - 2)).expand_as(value))
        for name, value in {"attention_mask": torch.ones_like(ids), **inputs}.items()
        if isinstance(value, torch.Tensor) and value.shape[:2] == ids.shape and name != "position_ids"
    }
    moved["input_ids"] = moved["input_ids"].where(stays, padding)
    moved["attention_mask"] = moved["attention_mask"] * stays
    return {**inputs, **moved}


def spread_over_tokens(scores: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
    """Share each part's score out equally among its tokens, whose sum is then the part's.

    Args:
        scores: (B, K, U) scores of parts.
        units: (B, T) part of each token; −1 for none.

    Returns:
        (B, K, T).
    """
    counts = torch.zeros(len(units), scores.shape[2] + 1, device=units.device)
    counts = counts.scatter_add(1, units + 1, torch.ones_like(units, dtype=counts.dtype))
    shares = scores / counts[:, None, 1:].clamp(min=1)
    padded = torch.cat([torch.zeros_like(shares[..., :1]), shares], dim=2)
    return padded.gather(2, (units + 1)[:, None].expand(-1, scores.shape[1], -1))
