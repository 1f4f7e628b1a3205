"""Annotations as a reference: boxes or masks of the object to look at."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..alignment.inputs import first_tensor
from ..alignment.labels import choose_positive, is_score, list_positives
from ..alignment.masks import object_masks
from ..choices import unknown_choice
from ..data.boxes import dilate_boxes
from ..explainers import Explainer
from ..metrics import boxes_to_masks
from ..metrics.energy_pointing_game.function import check_boxes
from ..terms import available_guidance_losses
from ..terms.base import ReferenceOutput
from .base import Reference


class AnnotationReference(Reference):
    """Reference of boxes or masks that a label's explanation must lie in (model guidance, Rao et al., ICCV 2023).

    With `task_weight=1` and no other reference it guides a model of its own; beside a teacher, both are matched in one
    forward pass. Samples without annotation cost nothing, so a fraction of a data set may be annotated
    (`hf_e2kd.data.keep_annotations`). Of an image with several classes, one is drawn at each training step, and an
    evaluation takes each of them.

    Args:
        explanation_loss: Name of a guidance loss: energy, l1, ppce, rrr or a registered one. The batch's mean counts,
            where the paper has their sum: its λ times its batch size is `explanation_weight` here.
        dilation: Fraction of a box's width or height by which it is made larger on each side.
        explanation_weight: Weight λ; None takes the arguments' `explanation_weight`.

    Inputs:
        `labels` (B,) classes or (B, classes) of zeros and ones; `mask` (B, H, W), of the size of `pixel_values` and on
        the object True, 1 or above 127, as `hf_e2kd.alignment.object_masks` reads it; or `boxes` (B, N, 4) in pixels of
        `pixel_values` as x0, y0, x1, y1, padded by rows of −1. With `box_labels` (B, N), padded by −1, an explained
        class's own boxes count; without, all of an image's.

    Raises:
        ValueError: an unknown loss, a negative dilation or weight; a student that gives a score; at the first batch, no
            labels or annotations; at any batch, masks of another size than the images, or a box that is NaN or has no
            area.

    Example:

        args = ExplanationDistillArguments("guided", task_weight=1.0, logits_weight=0.0, explanation_weight=0.064)
        trainer = ExplanationDistillTrainer(
            model, args, train_dataset=train, references={"boxes": AnnotationReference("energy")}
        )
    """

    gives = frozenset({"annotation"})
    explains_labels = True
    num_draws = 1

    def __init__(
        self, explanation_loss: str = "energy", dilation: float = 0.0, explanation_weight: float | None = None
    ):
        super().__init__(explanation_weight, explanation_loss, logits_weight=0.0)
        if explanation_loss not in available_guidance_losses():
            raise ValueError(unknown_choice("guidance loss", explanation_loss, available_guidance_losses()))
        if not 0 <= dilation < math.inf:
            raise ValueError(f"dilation is {dilation}. Give 0 or more, such as .1 for a tenth on each side.")
        self.dilation = dilation

    def setup(self, student: nn.Module, explainer: Explainer | None) -> None:
        if is_score(student):
            raise ValueError(
                f"{type(student).__name__} gives one score, and annotations belong to classes. Guide a classifier, or "
                "set config.problem_type='multi_label_classification' where the one logit is a class's presence."
            )

    def __call__(self, inputs: Mapping[str, Any], with_maps: bool = True) -> ReferenceOutput:
        labels = inputs.get("labels")
        is_there = labels is not None and not {"mask", "boxes"}.isdisjoint(inputs)
        # An evaluation on data without annotations measures the rest.
        if not with_maps or (self.noise is None and not is_there):
            return ReferenceOutput(torch.full((len(first_tensor(inputs)),), -1))
        if labels is None:
            raise ValueError(
                f"Annotations belong to labels, and the batch has none. Its columns: {sorted(inputs)}. Name the column "
                "'label' or 'labels' (dataset.rename_column), or let the transform give `labels`."
            )
        shown = annotated_classes(inputs, labels)
        if labels.ndim == 1:
            target = labels.masked_fill(~shown, -1)
        elif self.noise is None:
            target = list_positives(shown)
        else:
            target = choose_positive(shown, self.noise[-1])
        return ReferenceOutput(target, annotation=annotated_masks(inputs, target, self.dilation))


def annotated_classes(inputs: Mapping[str, Any], labels: torch.Tensor) -> torch.Tensor:
    """Mark the labels that are annotated.

    Args:
        labels: Labels (B,), or (B, classes) of zeros and ones.

    Returns:
        (B,) or (B, classes) bool.

    Raises:
        ValueError: the batch has neither masks nor boxes.
    """
    if inputs.get("mask") is not None:
        anywhere = object_masks(inputs["mask"]).flatten(1).any(1)
    elif inputs.get("boxes") is not None:
        has_area = _has_area(inputs["boxes"])
        if inputs.get("box_labels") is not None:
            own = torch.where(has_area, inputs["box_labels"], -1)
            if labels.ndim == 1:
                return ((own == labels[:, None]) & (own >= 0)).any(1)
            classes = torch.arange(labels.shape[1], device=own.device)
            return (own[..., None] == classes).any(1) & (labels > 0)
        anywhere = has_area.any(1)
    else:
        raise ValueError(
            f"The batch has no annotations: no column `mask` or `boxes`. Its columns: {sorted(inputs)}. Give samples "
            "a `mask` (H, W), or `boxes` collated by hf_e2kd.data.AnnotatedCollator."
        )
    return anywhere & (labels >= 0) if labels.ndim == 1 else anywhere[:, None] & (labels > 0)


def annotated_masks(inputs: Mapping[str, Any], target: torch.Tensor, dilation: float = 0.0) -> torch.Tensor:
    """Make the masks of the explained objects: (B, H, W) bool, or (B, K, H, W) for targets (B, K); empty for −1.

    Args:
        inputs: Batch with `mask`, or with `boxes` and `pixel_values`, whose size the masks have.
        target: Classes (B,) or (B, K).
        dilation: Fraction by which boxes are made larger, as in `AnnotationReference`.

    Raises:
        ValueError: masks of another size than the images, or a box that is NaN or has no area.
    """
    columns = target[:, None] if target.ndim == 1 else target
    if inputs.get("mask") is not None:
        _check_size(inputs["mask"], inputs.get("pixel_values"))
        masks = object_masks(inputs["mask"])[:, None] & (columns >= 0)[..., None, None]
    else:
        # Here, as what follows makes padding of boxes.
        check_boxes(inputs["boxes"])
        size = (inputs["pixel_values"].shape[-2], inputs["pixel_values"].shape[-1])
        boxes = dilate_boxes(inputs["boxes"], dilation)
        own = inputs.get("box_labels")
        masks = torch.stack(
            [
                boxes_to_masks(_boxes_of(boxes, own, column), size) & (column >= 0)[:, None, None]
                for column in columns.unbind(1)
            ],
            dim=1,
        )
    return masks[:, 0] if target.ndim == 1 else masks


def _check_size(masks: torch.Tensor, images: torch.Tensor | None) -> None:
    if images is not None and masks.shape[-2:] != images.shape[-2:]:
        (height, width), (own_height, own_width) = images.shape[-2:], masks.shape[-2:]
        raise ValueError(
            f"The masks have {own_height}×{own_width} pixels, and the model is shown {height}×{width}. Give masks that "
            "are cropped and resized with the images, as hf_e2kd.data.DistillationTransform makes them."
        )


def _boxes_of(boxes: torch.Tensor, box_labels: torch.Tensor | None, target: torch.Tensor) -> torch.Tensor:
    """Keep the boxes of each sample's target; the others become padding."""
    return boxes if box_labels is None else boxes.where((box_labels == target[:, None])[..., None], -1)


def _has_area(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
