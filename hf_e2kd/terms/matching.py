"""Alignment of a student's and a reference's maps: one target per row, one grid, one mask."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from ..alignment.grids import common_size, enlarged_coordinates, resize_maps, sample_maps
from ..explainers import ExplainedOutput
from .base import ReferenceOutput

ComparisonGrid = Literal["image", "native"]
"""Grid on which maps of images are compared: the student's image, as the papers' code does, or the larger of both
maps' own grids."""

COMPARISON_GRIDS = ("image", "native")


def concat_targets(
    targets: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, list[int | slice | None]]:
    """Concatenate the targets (B,) or (B, K) of several references to one target.

    Returns:
        The target, (B,) of one reference or else (B, ΣK), and each reference's place in it: None for the whole, a
        column, or a slice of columns.
    """
    if len(targets) == 1:
        return targets[0], [None]
    columns = [target[:, None] if target.ndim == 1 else target for target in targets]
    places: list[int | slice | None] = []
    start = 0
    for target, own in zip(targets, columns, strict=True):
        places.append(start if target.ndim == 1 else slice(start, start + own.shape[1]))
        start += own.shape[1]
    return torch.cat(columns, dim=1), places


def flatten_targets(
    explained: ExplainedOutput, reference_output: ReferenceOutput
) -> tuple[ExplainedOutput, ReferenceOutput]:
    """Flatten explanations of K targets a sample, (B, K, …), to those of B·K samples with one target each."""
    if reference_output.target.ndim == 1:
        return explained, reference_output
    count = reference_output.target.shape[1]

    def of_targets(values: torch.Tensor | None) -> torch.Tensor | None:
        return None if values is None else values.flatten(0, 1)

    def of_samples(values: torch.Tensor | None) -> torch.Tensor | None:
        return None if values is None else values.repeat_interleave(count, 0)

    single = replace(
        explained,
        maps=of_targets(explained.maps),
        vectors=of_targets(explained.vectors),
        mask=of_samples(explained.mask),
    )
    return single, replace(
        reference_output,
        target=reference_output.target.flatten(),
        maps=of_targets(reference_output.maps),
        vectors=of_targets(reference_output.vectors),
        annotation=of_targets(reference_output.annotation),
        mask=of_samples(reference_output.mask),
        view_matrix=of_samples(reference_output.view_matrix),
    )


def mean_over_targets(values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Average values (B,) or (B·K,) over each sample's targets: (B,), 0 for a sample without a target."""
    if target.ndim == 1:
        return values
    exists = target >= 0
    return (values.view_as(target) * exists).sum(1) / exists.sum(1).clamp(min=1)


def mean_of_explained(values: torch.Tensor, target: torch.Tensor, sample_mask: torch.Tensor | None) -> torch.Tensor:
    """Average values over each sample's targets, and keep the samples that were to be explained.

    Args:
        values: Values (B,), or (B·K,) for targets (B, K).
        target: Explained classes (B,) or (B, K).
        sample_mask: Mask (B,) bool of the samples that were to be explained; None for all.
    """
    values = mean_over_targets(values, target)
    return values if sample_mask is None else values[sample_mask]


def comparison_size(inputs: Mapping[str, Any], grid: ComparisonGrid = "image") -> tuple[int, int] | None:
    """Rows and columns of the student's images, at which maps are compared; None for the maps' own grids.

    Args:
        inputs: The batch.
        grid: "image", or "native" for the maps' own grids. Texts have no other.
    """
    pixels = inputs.get("pixel_values")
    return None if pixels is None or grid == "native" else (pixels.shape[-2], pixels.shape[-1])


def is_plain(reference_output: ReferenceOutput) -> bool:
    """Tell whether all cells of a reference's maps count, in the student's view of the image."""
    return reference_output.mask is None and reference_output.view_matrix is None


def matched_values(student: ExplainedOutput, reference_output: ReferenceOutput) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors (B, C, *grid) of both sides where both have them, or else maps (B, *grid); each on its own grid."""
    assert student.maps is not None and reference_output.maps is not None
    if student.vectors is not None and reference_output.vectors is not None:
        return student.vectors, reference_output.vectors
    return student.maps, reference_output.maps


def align_maps(
    student: ExplainedOutput, reference_output: ReferenceOutput, size: tuple[int, int] | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Resize the student's and the reference's maps (B, *grid), or vectors (B, C, *grid), to a common grid.

    Args:
        student, reference_output: Explanations of one target per sample.
        size: Rows and columns of the common grid; None for the larger of both maps' grids. Texts have their own.

    Returns:
        Both maps, 0 in the cells that don't count, and the mask of those that do (the same shape, or None for all).

    Raises:
        ValueError: two texts' maps have different numbers of cells.
    """
    own, reference = matched_values(student, reference_output)
    if own.ndim == 2:
        return _align_texts(student, reference_output)
    size, view = size or common_size(own, reference), reference_output.view_matrix
    own, reference, inside = resize_maps(own, size), *_in_view(reference, view, size)
    masks = [] if inside is None else [inside]
    if reference_output.mask is not None:
        masks.append(_in_view(reference_output.mask.float(), view, size)[0] > 0.5)
    if not masks:
        return own, reference, None
    mask = masks[0] & masks[-1]
    mask = mask if own.ndim == 3 else mask[:, None].expand_as(own)
    return own * mask, reference * mask, mask


def comparable_values(
    student: ExplainedOutput, reference_output: ReferenceOutput, size: tuple[int, int] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values of both sides whose cosine is that of their maps at a size: the maps there, or coordinates of them.

    Args:
        student, reference_output, size: As in `align_maps`.
    """
    own, reference = matched_values(student, reference_output)
    if size is None or own.ndim != 3 or not is_plain(reference_output):
        return align_maps(student, reference_output, size)[:2]
    are_enlarged = own.shape[-2:] == reference.shape[-2:] == size
    return (own, reference) if are_enlarged else enlarged_coordinates(own, reference, size)


def _in_view(
    maps: torch.Tensor, matrix: torch.Tensor | None, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Sample a reference's maps in the student's view, with the mask of cells that they reach (None for all)."""
    return (resize_maps(maps, size), None) if matrix is None else sample_maps(maps, matrix, size)


def _align_texts(
    student: ExplainedOutput, reference_output: ReferenceOutput
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Mask the words that both have seen; without words, the tokens, which must then be the same."""
    assert student.maps is not None and reference_output.maps is not None
    if student.maps.shape != reference_output.maps.shape:
        raise ValueError(
            f"The student's explanation has {student.maps.shape[-1]} cells and the reference's "
            f"{reference_output.maps.shape[-1]}: they are of different texts, or of different tokenizers. Make the "
            "batches by hf_e2kd.TextCollator(tokenizer, teacher_tokenizer), which matches words."
        )
    masks = [mask for mask in (student.mask, reference_output.mask) if mask is not None]
    mask = masks[0] & masks[-1] if masks else torch.ones_like(student.maps, dtype=torch.bool)
    return student.maps * mask, reference_output.maps * mask, mask


def mask_target(target: torch.Tensor, explained: torch.Tensor | None) -> torch.Tensor:
    """Put −1, for no class, into a target (B,) or (B, K) where the mask (B,) bool is False; None explains all."""
    if explained is None:
        return target
    return target.masked_fill(~explained if target.ndim == 1 else ~explained[:, None], -1)
