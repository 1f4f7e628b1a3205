"""Faithfulness of explanations: a model run without the parts that its explanation names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchvision.transforms.v2.functional import gaussian_blur

from ...alignment.grids import resize_maps
from ...architectures.base import evaluating
from ...explainers.perturbation import Occlusion, PerturbationExplainer
from ...explainers.perturbation.base import require_count
from ...explainers.perturbation.variants import (
    BATCH_SIZE,
    Vary,
    all_variants,
    is_padded_before,
    text_units,
    unit_counts,
    variant_values,
    with_pixels,
)
from ...metrics import curve_area, mean_drop
from ...metrics.inputs import check_batch, check_maps, check_same_length

STEPS = 16
"""Equal parts of an image's pixels that are taken out or put back one after the other."""

FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Shares of a text's words, as in ERASER."""

ROUNDED_BITS = 6
"""Last bits of a float32 score, about 1e-5 of it, in which equal pixels or words may differ by rounding errors."""

_BLUR = {"kernel_size": [11, 11], "sigma": [5.0, 5.0]}  # as in RISE's code


@dataclass(frozen=True)
class Faithfulness:
    """Measurement of how far explanations name what a decision rests on.

    Of images deletion and insertion, of texts comprehensiveness and sufficiency, all of the explained class's
    probability among the model's own classes.

    Args:
        steps: Equal parts of an image's pixels.
        fractions: Shares of a text's words; of each at least one word.
        filling: Value of the pixels that are taken out, as the model gets them.
        batch_size: Changed inputs in one forward pass.

    Raises:
        ValueError: an option that can't be.
    """

    steps: int = STEPS
    fractions: Sequence[float] = FRACTIONS
    filling: float = 0.0
    batch_size: int = BATCH_SIZE

    def __post_init__(self) -> None:
        require_count("steps", self.steps)
        require_count("batch_size", self.batch_size)
        shares = self.fractions
        if not shares or not all(isinstance(share, int | float) and 0 < share <= 1 for share in shares):
            raise ValueError(f"fractions are shares of a text's words, above 0 and at most 1, not {shares!r}.")
        if not isinstance(self.filling, int | float):
            raise ValueError(f"filling is the value of the pixels that are taken out, a number, not {self.filling!r}.")

    def options(self, modality: str) -> dict[str, Any]:
        """Return the options that change the figures of images or of texts, for the record."""
        if modality == "image":
            return {"steps": self.steps, "filling": self.filling}
        return {"fractions": list(self.fractions)}

    def passes(self, is_image: bool) -> int:
        """Return the number of forward passes that one explanation of a sample takes."""
        return 2 * (1 + (self.steps if is_image else len(self.fractions)))

    def __call__(
        self, model: nn.Module, inputs: Mapping[str, Any], maps: torch.Tensor, target: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Measure explanations of a batch.

        Args:
            model: The explained model.
            inputs: Its inputs.
            maps: Maps (B, h, w) of images, or (B, cells) of texts' words or tokens.
            target: Explained classes (B,); −1 for none.

        Returns:
            Values (B,) by name, NaN where no class is explained.
        """
        explained = model, inputs, maps, target
        at_once = self.batch_size
        if inputs.get("pixel_values") is not None:
            values = {
                "deletion": curve_area(deletion_curve(*explained, self.steps, self.filling, batch_size=at_once)),
                "insertion": curve_area(insertion_curve(*explained, self.steps, batch_size=at_once)),
            }
        else:
            values = {
                "comprehensiveness": comprehensiveness(*explained, self.fractions, batch_size=at_once),
                "sufficiency": sufficiency(*explained, self.fractions, batch_size=at_once),
            }
        return {name: torch.where(target >= 0, value, torch.nan) for name, value in values.items()}


def deletion_curve(
    model: nn.Module,
    inputs: Mapping[str, Any],
    maps: torch.Tensor,
    target: torch.Tensor,
    steps: int = STEPS,
    filling: float = 0.0,
    *,
    batch_size: int = BATCH_SIZE,
) -> torch.Tensor:
    """Probability of a class while an image's pixels are taken out, those with the highest scores first.

    References:
        Petsiuk et al., "RISE", BMVC 2018, section 4.2.

    Args:
        model, inputs: The model and a batch with `pixel_values` (B, channels, H, W).
        maps: Maps (B, h, w), enlarged bilinearly to the images.
        target: Classes (B,).
        steps: Equal parts of the pixels.
        filling: Value of the pixels that are taken out, as the model gets them.

    Returns:
        (B, steps + 1), from the whole image to none of it.
    """
    ranks = pixel_ranks(maps, inputs["pixel_values"])

    def vary(some: dict[str, Any], rows: torch.Tensor, numbers: torch.Tensor) -> dict[str, Any]:
        return with_pixels(some, ranks[rows] >= _pixels_of(numbers, steps, ranks), filling)

    return _curve(model, inputs, target, steps + 1, vary, batch_size, "Deletion")


def insertion_curve(
    model: nn.Module,
    inputs: Mapping[str, Any],
    maps: torch.Tensor,
    target: torch.Tensor,
    steps: int = STEPS,
    *,
    batch_size: int = BATCH_SIZE,
) -> torch.Tensor:
    """Probability of a class while a blurred image's pixels are put back, those with the highest scores first.

    The blur is that of RISE's code, over 11 × 11 pixels with a deviation of 5.

    Args:
        model, inputs, maps, target, steps: As of `deletion_curve`.

    Returns:
        (B, steps + 1), from the blurred image to the whole one.
    """
    ranks = pixel_ranks(maps, inputs["pixel_values"])

    def vary(some: dict[str, Any], rows: torch.Tensor, numbers: torch.Tensor) -> dict[str, Any]:
        blurred = gaussian_blur(some["pixel_values"], **_BLUR)
        return with_pixels(some, ranks[rows] < _pixels_of(numbers, steps, ranks), blurred)

    return _curve(model, inputs, target, steps + 1, vary, batch_size, "Insertion")


def comprehensiveness(
    model: nn.Module,
    inputs: Mapping[str, Any],
    maps: torch.Tensor,
    target: torch.Tensor,
    fractions: Sequence[float] = FRACTIONS,
    *,
    removal: PerturbationExplainer | None = None,
    batch_size: int = BATCH_SIZE,
) -> torch.Tensor:
    """Mean fall of a class's probability when a text's highest words are taken out: high is faithful.

    References:
        DeYoung et al., "ERASER", ACL 2020, section 4.2, averaged over the fractions (AOPC).

    Args:
        model, inputs: The model and a batch with `input_ids` (B, T), by words where it has `word_ids`, else by tokens.
        maps: Scores (B, cells) of the words, or of the tokens, as an explanation's maps.
        target: Classes (B,).
        fractions: Shares of the words, rounded up to whole words.
        removal: Explainer whose `words` says how words are taken out; by default they are left out.

    Returns:
        (B,).
    """
    return _text_drop(model, inputs, maps, target, fractions, removal, batch_size, keeps=False)


def sufficiency(
    model: nn.Module,
    inputs: Mapping[str, Any],
    maps: torch.Tensor,
    target: torch.Tensor,
    fractions: Sequence[float] = FRACTIONS,
    *,
    removal: PerturbationExplainer | None = None,
    batch_size: int = BATCH_SIZE,
) -> torch.Tensor:
    """Mean fall of a class's probability when a text's highest words alone are kept: low is faithful.

    Args:
        model, inputs, maps, target, fractions, removal: As of `comprehensiveness`.

    Returns:
        (B,).
    """
    return _text_drop(model, inputs, maps, target, fractions, removal, batch_size, keeps=True)


def pixel_ranks(maps: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Rank the pixels (B, H, W) of images by their maps (B, h, w), the highest 0; of equal ones the first.

    Raises:
        ValueError: maps of other axes or other samples, or NaN or infinite ones, which have no order.
    """
    check_maps("maps", maps)
    check_same_length("maps", maps, "pixel_values", pixels)
    large = resize_maps(maps.float(), (pixels.shape[-2], pixels.shape[-1]))
    return _ranks(large.flatten(1)).view_as(large)


def _ranks(scores: torch.Tensor) -> torch.Tensor:
    """Rank scores (B, N), the highest 0; of those that differ by rounding errors alone, the first one leads."""
    # Digits of each score, not levels of the peak: beside one bright pixel all others would count as equal.
    last = 1 << ROUNDED_BITS
    bits = scores.float().view(torch.int32)
    rounded = ((bits + last // 2) & -last).view(torch.float32)
    return rounded.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def _pixels_of(numbers: torch.Tensor, steps: int, ranks: torch.Tensor) -> torch.Tensor:
    """Number of pixels (n, 1, 1) that so many steps take."""
    return (numbers * ranks[0].numel() / steps).round()[:, None, None]


def _curve(
    model: nn.Module,
    inputs: Mapping[str, Any],
    target: torch.Tensor,
    count: int,
    vary: Vary,
    batch_size: int,
    title: str,
) -> torch.Tensor:
    """Probabilities (B, count) of the classes for so many variants of each sample, in evaluation mode."""
    rows, numbers = all_variants(count, len(target), target.device)
    with evaluating(model):
        values = variant_values(
            model,
            inputs,
            target[:, None],
            rows,
            numbers,
            vary,
            batch_size=batch_size,
            probabilities=True,
            title=title,
        )
    return values.view(count, len(target)).mT


def _text_drop(
    model: nn.Module,
    inputs: Mapping[str, Any],
    maps: torch.Tensor,
    target: torch.Tensor,
    fractions: Sequence[float],
    removal: PerturbationExplainer | None,
    batch_size: int,
    keeps: bool,
) -> torch.Tensor:
    check_batch("maps", maps, "(B, cells)")
    check_same_length("maps", maps, "input_ids", inputs["input_ids"])
    removal = Occlusion() if removal is None else removal
    units = text_units(inputs)
    counts = unit_counts(units)
    places = torch.arange(int(counts.max()), device=units.device)
    scores = maps[:, : len(places)] if inputs.get("word_ids") is not None else _of_units(maps, units, len(places))
    # Places beyond a text's own words come last.
    ranks = _ranks(scores.masked_fill(places >= counts[:, None], -torch.inf))
    shares = torch.tensor([*fractions, 0.0 if not keeps else 1.0], dtype=torch.float64)
    # 0.6 of 25 words are 15, though the product of the two floats is more.
    taken = (shares[:, None] * counts.cpu() - 1e-9).ceil().to(units)
    before = is_padded_before(model, inputs)

    def vary(some: dict[str, Any], rows: torch.Tensor, numbers: torch.Tensor) -> dict[str, Any]:
        highest = ranks[rows] < taken[numbers, rows][:, None]
        return removal.text_without(model, some, highest if keeps else ~highest, before)

    values = _curve(model, inputs, target, len(shares), vary, batch_size, "Words")
    return mean_drop(values[:, -1], values[:, :-1])


def _of_units(maps: torch.Tensor, units: torch.Tensor, count: int) -> torch.Tensor:
    """Gather the scores (B, count) of tokens that count from maps (B, T)."""
    scores = maps.new_zeros(len(maps), count + 1)
    return scores.scatter(1, units + 1, maps)[:, 1:]
