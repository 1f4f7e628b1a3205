"""ROAD (Rong et al., 2022): removal of pixels that neither leaves a trace nor takes a retraining."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ...architectures.base import evaluating
from ...explainers.perturbation.variants import BATCH_SIZE, all_variants, variant_values
from .faithfulness import pixel_ranks

FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the pixels that are removed."""

# Places around a pixel (down, right) and their weights: those at its edges count twice those at its corners.
_NEIGHBOURS = [((i, j), (2 - abs(i) * abs(j)) / 12) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]


def road_curve(
    model: nn.Module,
    inputs: Mapping[str, Any],
    maps: torch.Tensor,
    target: torch.Tensor,
    fractions: Sequence[float] = FRACTIONS,
    *,
    most_relevant_first: bool = True,
    noise: float = 0.01,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> torch.Tensor:
    """Probability of a class when pixels are replaced by what their neighbours say of them.

    With the most relevant ones replaced, low is faithful; with the least relevant ones, high.

    References:
        Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022, section 4
        (noisy linear imputation).

    Args:
        model, inputs: The model and a batch with `pixel_values` (B, channels, H, W).
        maps: Maps (B, h, w), enlarged bilinearly to the images.
        target: Classes (B,).
        fractions: Shares of the pixels, below 1.
        most_relevant_first: True to replace the pixels with the highest scores; False for the lowest.
        noise: Deviation of the noise that is added to them.
        seed: Seed of the noise.

    Returns:
        (B, fractions).

    Raises:
        ValueError: a fraction that leaves no pixel or replaces none.
    """
    pixels = inputs["pixel_values"]
    count = pixels.shape[-2] * pixels.shape[-1]
    if not all(0 < fraction < 1 and 0 < round(fraction * count) < count for fraction in fractions):
        raise ValueError(
            f"Of {count} pixels each fraction, between 0 and 1, must replace one at least and leave one: "
            f"{list(fractions)}."
        )
    ranks = pixel_ranks(maps if most_relevant_first else -maps, pixels)
    replaced = torch.tensor([round(fraction * count) for fraction in fractions], device=pixels.device)
    random = np.random.default_rng(seed)

    def vary(some: dict[str, Any], rows: torch.Tensor, numbers: torch.Tensor) -> dict[str, Any]:
        removed = ranks[rows] < replaced[numbers][:, None, None]
        filled = [
            impute(image, gone, noise, random)
            for image, gone in zip(some["pixel_values"].cpu().numpy(), removed.cpu().numpy(), strict=True)
        ]
        return {**some, "pixel_values": torch.from_numpy(np.stack(filled)).to(pixels)}

    with evaluating(model):
        values = variant_values(
            model,
            inputs,
            target[:, None],
            *all_variants(len(replaced), len(pixels), pixels.device),
            vary,
            batch_size=batch_size,
            probabilities=True,
            title="ROAD",
        )
    return values.view(len(replaced), len(pixels)).mT


def impute(image: np.ndarray, removed: np.ndarray, noise: float, random: np.random.Generator) -> np.ndarray:
    """Replace pixels by the weighted mean of their eight neighbours, removed ones included, and noise.

    The means are one sparse linear system for all removed pixels.

    Args:
        image: (channels, H, W).
        removed: (H, W) bool; not all of them.
        noise: Deviation of the noise.
        random: Generator of the noise.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.linalg import spsolve

    down, across = np.nonzero(removed)
    count = len(down)
    number = np.full(removed.shape, -1)
    number[down, across] = np.arange(count)
    diagonal, known = np.zeros(count), np.zeros((count, len(image)))
    entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for (i, j), weight in _NEIGHBOURS:
        rows, columns = down + i, across + j
        inside = np.nonzero((rows >= 0) & (rows < removed.shape[0]) & (columns >= 0) & (columns < removed.shape[1]))[0]
        other = number[rows[inside], columns[inside]]
        diagonal[inside] += weight
        unknown, given = inside[other >= 0], inside[other < 0]
        entries.append((np.full(len(unknown), -weight), unknown, other[other >= 0]))
        known[given] += weight * image[:, rows[given], columns[given]].T
    entries.append((diagonal, np.arange(count), np.arange(count)))
    values, at, to = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    solved = spsolve(coo_array((values, (at, to)), shape=(count, count)).tocsc(), known).reshape(count, -1)
    filled = image.copy()
    filled[:, down, across] = solved.T + noise * random.standard_normal((len(image), count))
    return filled
