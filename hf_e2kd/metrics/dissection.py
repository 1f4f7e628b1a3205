"""Network dissection's tallies as plain functions: the IoU of a unit's activated regions with annotated concepts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Tally = Literal["category", "official"]
"""The images on which a unit's activated region counts for the concepts of a category."""


@dataclass(frozen=True)
class ConceptTally:
    """Pixels counted over images, of U units at Q thresholds each, C concepts and K categories, int64.

    Args:
        activated: (Q, U, K), pixels of a unit's regions, on the images that count for a category.
        both: (Q, U, C), those of them that bear a concept.
        labelled: (C,), pixels that bear a concept, on all images.
    """

    activated: Tensor
    both: Tensor
    labelled: Tensor


@dataclass(frozen=True)
class DetectorCounts:
    """Concept detectors of a layer: units whose best concept has an IoU above a threshold.

    Args:
        total: Number of detectors.
        unique: Number of different concepts among them, which the code of KD_XAI counts as unique detectors.
        single: Number of detectors with no second concept above the threshold: what the paper's text calls unique.
        categories: Number of detectors by category.
    """

    total: int
    unique: int
    single: int
    categories: dict[str, int]


def tally_image(
    activations: Tensor,
    thresholds: Tensor,
    concepts: Tensor,
    categories: Tensor,
    category_count: int,
    tally: Tally = "category",
) -> ConceptTally:
    """Count one image.

    A unit's region is where its activation exceeds its threshold (>). A pixel that bears a concept in several layers of
    the annotation counts once for it.

    - `tally="category"`: the region counts for every category of which the image has a labelled pixel. So Bau et al.
      define the IoU, whose sums run over the images with a label of the concept's category.
    - `tally="official"`: it counts only for categories of which a labelled pixel lies *inside the region*, as in
      NetDissect-Lite and KD_XAI, whose published numbers of detectors are made so. The union is smaller and the IoU
      larger. (Their code also takes over a category from the unit before where an image has no labelled pixels; this
      does not.)

    References:
        Bau et al., "Network Dissection: Quantifying Interpretability of Deep Visual Representations", CVPR 2017, §2.2.
        Han et al., "On the Impact of Knowledge Distillation for Model Interpretability", ICML 2023.

    Args:
        activations: (U, pixels), each unit's map, enlarged to the labels.
        thresholds: (Q, U), each unit's thresholds, ascending along Q.
        concepts: (C, pixels) bool, where each concept is; all True for one of the whole image, such as a scene.
        categories: (C,) int64, each concept's category, from 0.
        category_count: K.
        tally: "category" or "official".

    Raises:
        ValueError: the tally isn't known, or the shapes don't fit together.

    Example:
        >>> activations, thresholds = torch.tensor([[0.9, 0.8, 0.2, 0.1]]), torch.tensor([[0.5]])
        >>> sky, cat = torch.tensor([[False, True, True, False], [False, False, False, True]])
        >>> for name in ("category", "official"):
        ...     found = tally_image(
        ...         activations, thresholds, torch.stack([sky, cat]), torch.tensor([0, 1]), 2, name
        ...     )
        ...     found.activated.tolist(), found.both.tolist()
        ([[[2, 2]]], [[[1, 0]]])
        ([[[2, 0]]], [[[1, 0]]])
    """
    check_tally(tally)
    (units, pixels), quantiles = activations.shape, len(thresholds)
    shapes = thresholds.shape[1:], concepts.shape[1:], categories.shape
    if shapes != ((units,), (pixels,), (len(concepts),)):
        raise ValueError(
            f"activations {tuple(activations.shape)} must be (U, pixels), thresholds {tuple(thresholds.shape)} (Q, U), "
            f"concepts {tuple(concepts.shape)} (C, pixels), and categories {tuple(categories.shape)} (C,)."
        )
    # Few pixels lie in a region: they are looked at one by one, each under the number of thresholds that it exceeds.
    unit, pixel = (activations > thresholds[0, :, None]).nonzero(as_tuple=True)
    levels = (activations[unit, pixel, None] > thresholds.mT[unit]).sum(dim=1) - 1
    place = levels * units + unit
    bears = concepts.mT.contiguous().index_select(0, pixel).float()
    # Sums of zeros and ones are exact in float32 up to 16 million pixels.
    both = bears.new_zeros(quantiles * units, len(concepts)).index_add_(0, place, bears)
    area = place.bincount(minlength=quantiles * units)
    # What exceeds a threshold exceeds those below it.
    both = both.view(quantiles, units, len(concepts)).flip(0).cumsum(dim=0).flip(0)
    area = area.view(quantiles, units, 1).flip(0).cumsum(dim=0).flip(0)
    labelled = concepts.sum(dim=1)
    members = torch.nn.functional.one_hot(categories, category_count).float()
    found = both if tally == "official" else labelled.float()
    return ConceptTally(area * (found @ members > 0), both.long(), labelled)


def concept_ious(tally: ConceptTally, categories: Tensor) -> Tensor:
    """The IoU of units and concepts over all images, Σ∩ / Σ∪: (Q, U, C) float64, 0 for a concept without pixels.

    Args:
        tally: Pixels counted over the images.
        categories: (C,) int64, each concept's category.

    Example:
        >>> counted = ConceptTally(torch.tensor([[[4]]]), torch.tensor([[[2]]]), torch.tensor([6]))
        >>> concept_ious(counted, torch.tensor([0]))
        tensor([[[0.2500]]], dtype=torch.float64)
    """
    both = tally.both.double()
    union = tally.activated.double()[..., categories] + tally.labelled.double() - both
    return both / union.where(union > 0, 1)


def best_concepts(ious: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each unit's best concept (U,), −1 where its IoU is 0 with all; that IoU; and the next concept's IoU."""
    if ious.shape[1] == 1:
        ious = torch.nn.functional.pad(ious, (0, 1))
    values, places = ious.topk(2, dim=1)
    return places[:, 0].where(values[:, 0] > 0, -1), values[:, 0], values[:, 1]


def count_detectors(
    concepts: Sequence[str | None],
    categories: Sequence[str | None],
    ious: Sequence[float],
    second_ious: Sequence[float],
    iou_threshold: float = 0.05,
    all_categories: Sequence[str] = (),
) -> DetectorCounts:
    """Count the units whose best concept has an IoU above the threshold (>, as the code has it; the paper writes ≥).

    Args:
        concepts, categories: Each unit's best concept and its category; None where it has none.
        ious, second_ious: Each unit's IoU with its best concept and with the next one.
        iou_threshold: Threshold from 0 up to 1.
        all_categories: Categories to list even without a detector.

    Raises:
        ValueError: the threshold isn't from 0 up to 1.

    Example:
        >>> count_detectors(["cat", "cat", "sky"], ["object", "object", "scene"], [0.2, 0.1, 0.04], [0.06, 0.0, 0.0])
        DetectorCounts(total=2, unique=1, single=1, categories={'object': 2})
    """
    if not 0 <= iou_threshold < 1:
        raise ValueError(f"iou_threshold is {iou_threshold}. Give a number from 0 up to 1, such as 0.05.")
    units = [unit for unit, iou in enumerate(ious) if iou > iou_threshold]
    counts: dict[str, int] = dict.fromkeys(all_categories, 0)
    for unit in units:
        category = str(categories[unit])
        counts[category] = counts.get(category, 0) + 1
    return DetectorCounts(
        total=len(units),
        unique=len({(categories[unit], concepts[unit]) for unit in units}),
        single=sum(second_ious[unit] <= iou_threshold for unit in units),
        categories=counts,
    )


def check_tally(tally: str) -> None:
    """Refuse a tally that isn't known.

    Raises:
        ValueError: it isn't one of `Tally`.
    """
    if tally not in get_args(Tally):
        raise ValueError(f"There is no tally {tally!r}. Choose from: {', '.join(get_args(Tally))}.")
