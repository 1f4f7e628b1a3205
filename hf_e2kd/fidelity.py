"""How faithful a student is to its references, sample by sample."""

from collections.abc import Mapping
from typing import Any

import torch

from .alignment.grids import to_common_grid
from .explainers import ExplainedOutput
from .metrics import agreement, boxes_to_masks, energy_pointing_game, explanation_similarity
from .objective import Objective, compared_maps
from .references import Reference, ReferenceOutput


def sample_metrics(
    objective: Objective, references: Mapping[str, Reference], inputs: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Per-sample values (B,) by metric, NaN where a sample doesn't count.

    Args:
        objective: What student and references said of the batch.
        references: The references by name; with several, a metric bears its reference's name.
        inputs: The batch. `labels` (B,) as classes of the student, `mask` (B, H, W) and `boxes` (B, N, 4) are used
            where they are there.
    """
    values: dict[str, torch.Tensor] = {}
    labels = inputs.get("labels")
    if labels is not None and (labels.ndim != 1 or labels.is_floating_point()):
        labels = None
    if labels is not None:
        scored = (labels >= 0) & (labels < objective.logits.shape[1])
        values["accuracy"] = _where(scored, objective.logits.argmax(1) == labels)
    for name, output in objective.references.items():
        suffix = "" if len(references) == 1 else f"_{name}"
        if output.logits is not None:
            own = references[name].student_logits(objective.logits)
            values[f"agreement{suffix}"] = agreement(own, output.logits)
            if labels is not None and output.shared_labels is not None:
                right = output.logits.argmax(1) == output.shared_labels
                values[f"teacher_accuracy{suffix}"] = _where(output.shared_labels >= 0, right)
        if name in objective.explained:
            values |= _map_metrics(objective.explained[name], output, inputs, suffix)
    return values


def _map_metrics(
    explained: ExplainedOutput, said: ReferenceOutput, inputs: Mapping[str, Any], suffix: str
) -> dict[str, torch.Tensor]:
    student, reference, _ = compared_maps(explained, said)
    similarity, valid = explanation_similarity(_as_map(student), _as_map(reference))
    values = {
        f"explanation_similarity{suffix}": _where(valid, similarity),
        f"zero_student_maps{suffix}": (student == 0).flatten(1).all(1),
        f"zero_teacher_maps{suffix}": (reference == 0).flatten(1).all(1),
    }
    if student.ndim == 2:
        return values
    if student.ndim == 4:  # energy is a matter of the scalar maps
        assert explained.maps is not None and said.maps is not None
        student, reference = to_common_grid(explained.maps, said.maps)
    masks = inputs.get("mask")
    if masks is None and "boxes" in inputs:
        masks = boxes_to_masks(inputs["boxes"], tuple(inputs["pixel_values"].shape[-2:]))
    if masks is not None:
        masks = masks > 0
        annotated = masks.flatten(1).any(1)
        values[f"energy_pointing_game{suffix}"] = _where(annotated, energy_pointing_game(student, masks))
        values[f"teacher_energy_pointing_game{suffix}"] = _where(annotated, energy_pointing_game(reference, masks))
    return values


def _where(counts: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return torch.where(counts, values.float(), torch.nan)


def _as_map(values: torch.Tensor) -> torch.Tensor:
    """A text's map (B, W) as one row, and vectors (B, C, h, w) as one tall map, for metrics of (B, h, w)."""
    return values[:, None] if values.ndim == 2 else values.flatten(1, -2)
