"""Metrics of a student against its references, sample by sample."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import EvalPrediction

from ..explainers import ExplainedOutput
from ..logs import get_logger
from ..metrics import (
    agreement,
    energy_pointing_game,
    explanation_similarity,
    f1_map,
    label_agreement,
    localization_iou,
)
from ..references import Reference, ReferenceOutput, annotated_masks
from ..terms import StepOutput
from ..terms.matching import (
    ComparisonGrid,
    align_maps,
    comparable_values,
    comparison_size,
    flatten_targets,
    is_plain,
)
from .scores import sample_scores

logger = get_logger(__name__)

BatchMeasures = Callable[
    [StepOutput, Mapping[str, ReferenceOutput], Mapping[str, Any], Callable[[nn.Module], StepOutput]],
    Mapping[str, torch.Tensor],
]
"""(student's output, references' outputs, inputs, function that runs another student) → values (B,) or (B, K)."""


def sample_metrics(
    output: StepOutput,
    reference_outputs: Mapping[str, ReferenceOutput],
    references: Mapping[str, Reference],
    inputs: Mapping[str, Any],
    multi_label: bool = False,
    iou_threshold: float = 0.5,
    grid: ComparisonGrid = "image",
) -> dict[str, torch.Tensor]:
    """Compute values by metric, (B,), or (B, K) where K classes are explained; NaN where a value doesn't count.

    Of a student with one logit there are scores in the place of accuracy and agreement: see `sample_scores`.

    Args:
        output: Output of the student for the batch.
        reference_outputs: Outputs of the references by name.
        references: The references by name; with several, a metric bears its reference's name.
        inputs: The batch. `labels` (B,) as classes of the student, `mask` (B, H, W) or `boxes` (B, N, 4) with
            `box_labels` (B, N) are used where they are there.
        multi_label: True for a multi-label student. Its F1 and mean average precision are no means
            over samples: see `multi_label_metrics`.
        iou_threshold: Threshold of `localization_iou`.
        grid: Grid on which maps of images are compared: "image", the student's, or "native", the maps' own.
    """
    values: dict[str, torch.Tensor] = {}
    labels = inputs.get("labels")
    scores = output.logits.shape[1] == 1 and not multi_label
    if scores:
        values = sample_scores(output.logits, reference_outputs, references, labels)
        labels = None
    if labels is not None and (labels.ndim != 1 or labels.is_floating_point()):
        labels = None
    if labels is not None:
        scored = (labels >= 0) & (labels < output.logits.shape[1])
        values["accuracy"] = _where(scored, output.logits.argmax(1) == labels)
    for name, reference_output in reference_outputs.items():
        suffix = "" if len(references) == 1 else f"_{name}"
        if reference_output.logits is not None and not scores:
            own = references[name].student_logits(output.logits)
            if multi_label:
                values[f"agreement{suffix}"] = label_agreement(own, reference_output.logits).float()
            else:
                values[f"agreement{suffix}"] = agreement(own, reference_output.logits)
            if labels is not None and reference_output.shared_labels is not None:
                right = reference_output.logits.argmax(1) == reference_output.shared_labels
                values[f"teacher_accuracy{suffix}"] = _where(reference_output.shared_labels >= 0, right)
        if name in output.explanations:
            single = flatten_targets(output.explanations[name], reference_output)
            found = _map_metrics(*single, inputs, reference_output.target, iou_threshold, grid)
            target = reference_output.target
            values |= {
                f"{metric}{suffix}": _where(target >= 0, value.view_as(target)) for metric, value in found.items()
            }
    return values


def multi_label_metrics(evaluation: EvalPrediction) -> dict[str, float]:
    """Compute micro-F1 and mean average precision of logits and labels (N, classes), as a `compute_metrics`.

    Labels (N,), of one class a sample, don't say which other classes an image shows: of these there is neither, nor of
    labels between 0 and 1.
    """
    if not are_several(evaluation.label_ids):
        return {}
    found = f1_map(joined(evaluation.predictions), joined(evaluation.label_ids))
    return {name: value for name, value in found.items() if isinstance(value, float)}


def are_several(labels: Any) -> bool:
    """Tell whether an evaluation's labels are zeros and ones of every class, (N, classes), of which there is an F1.

    Of one class a sample there is none; nor, with a warning, of shares of truth, such as those of several annotators.
    """
    if labels is None or (values := joined(labels)).ndim != 2:
        return False
    decided = bool(((values == 0) | (values == 1)).all())
    if not decided:
        logger.warning_once(
            "Some labels lie between 0 and 1, of which there is neither F1 nor mAP. Evaluate on data whose labels are "
            "0 or 1, or give a compute_metrics of your own."
        )
    return decided


def joined(values: Any) -> torch.Tensor:
    """Join what an evaluation gives of logits or labels, with `eval_do_concat_batches=False` one array a batch."""
    if isinstance(values, list):
        return torch.cat([torch.as_tensor(batch) for batch in values])
    return torch.as_tensor(values)


def _map_metrics(
    explained: ExplainedOutput,
    reference_output: ReferenceOutput,
    inputs: Mapping[str, Any],
    target: torch.Tensor,
    iou_threshold: float,
    grid: ComparisonGrid,
) -> dict[str, torch.Tensor]:
    """Compute the metrics (B·K,) of maps with one target each.

    Args:
        target: Classes (B,) or (B, K), before they were flattened.
    """
    values: dict[str, torch.Tensor] = {}
    assert explained.maps is not None
    if reference_output.maps is not None:
        student, reference = comparable_values(explained, reference_output, comparison_size(inputs, grid))
        similarity, valid = explanation_similarity(as_map(student), as_map(reference))
        values = {
            "explanation_similarity": _where(valid, similarity),
            "zero_student_maps": (student == 0).flatten(1).all(1),
            "zero_teacher_maps": (reference == 0).flatten(1).all(1),
        }
    if inputs.get("mask") is None and inputs.get("boxes") is None or reference_output.target.numel() == 0:
        return values
    # The reference's own annotation may be dilated, which is for training.
    masks = annotated_masks(inputs, target).flatten(0, -3)
    measured = partial(_where, masks.flatten(1).any(1))
    # Where the energy lies is a matter of the scalar maps, enlarged once.
    values["energy_pointing_game"] = measured(energy_pointing_game(explained.maps, masks))
    values["localization_iou"] = measured(localization_iou(explained.maps, masks, iou_threshold))
    if reference_output.maps is not None:
        reference = reference_output.maps
        if not is_plain(reference_output):
            size = masks.shape[-2], masks.shape[-1]
            reference = align_maps(explained, replace(reference_output, vectors=None), size)[1]
        values["teacher_energy_pointing_game"] = measured(energy_pointing_game(reference, masks))
        values["teacher_localization_iou"] = measured(localization_iou(reference, masks, iou_threshold))
    return values


def _where(counts: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return torch.where(counts, values.float(), torch.nan)


def as_map(values: torch.Tensor) -> torch.Tensor:
    """Reshape a text's map (B, W) to one row, and vectors (B, C, h, w) to one tall map, for metrics of (B, h, w)."""
    return values[:, None] if values.ndim == 2 else values.flatten(1, -2)
