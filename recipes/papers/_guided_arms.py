"""The compared trainings of the study of boxes, as losses, weights, boxes and depths."""

from collections.abc import Mapping
from dataclasses import dataclass

WEIGHTS: Mapping[str, float] = {"energy": 0.5, "l1": 0.3, "ppce": 0.1, "rrr": 2e-5}
"""λ of each guidance loss, as it was chosen for the photographs of COCO; the study `weight` compares others."""

GRIDS: Mapping[str, tuple[float, ...]] = {
    "energy": (0.1, 0.5, 2.0),
    "l1": (0.1, 0.3, 1.0),
    "ppce": (0.03, 0.1, 0.3),
    "rrr": (2e-5, 2e-4, 2e-3),
}
"""Compared λ of each loss."""


@dataclass(frozen=True)
class GuidedArm:
    """A training.

    Args:
        loss: Guidance loss.
        weight: Its λ; with 0 the boxes are measured by and not learnt from.
        annotated: Share of the training images whose boxes are used.
        dilation: Boxes are larger by this share on each side in training.
        layer: Depth of the maps, as `--layer` of guide_coco.py.
        explainer: Explainer of the maps.
    """

    loss: str = "energy"
    weight: float = 0.0
    annotated: float = 1.0
    dilation: float = 0.0
    layer: str | None = None
    explainer: str = "gradcam"


def _guided(loss: str = "energy", **changes: float | str) -> GuidedArm:
    return GuidedArm(**{"loss": loss, "weight": WEIGHTS[loss], **changes})  # type: ignore[arg-type]


_UNGUIDED = {"unguided": GuidedArm()}
_ENERGY = {"energy": _guided()}
_INPUT = {"layer": "input", "explainer": "input_x_gradient"}

STUDIES: dict[str, dict[str, GuidedArm]] = {
    "losses": {**_UNGUIDED, **{loss: _guided(loss) for loss in WEIGHTS}},
    "boxes": {
        **_UNGUIDED,
        **_ENERGY,
        **{f"energy, {100 * share:g} % of the boxes": _guided(annotated=share) for share in (0.1, 0.01)},
    },
    "dilation": {
        **_UNGUIDED,
        **_ENERGY,
        **{f"energy, boxes larger by {100 * share:g} %": _guided(dilation=share) for share in (0.1, 0.25, 0.5)},
    },
    "mid": {"unguided, mid": GuidedArm(layer="mid"), "energy, mid": _guided(layer="mid")},
    "input": {"unguided, input": GuidedArm(**_INPUT), "energy, input": _guided(**_INPUT)},
    "weight": {
        **_UNGUIDED,
        **{f"{loss}, λ = {weight:g}": GuidedArm(loss, weight) for loss, grid in GRIDS.items() for weight in grid},
    },
}
"""Trainings by study and name; the first of each is unguided, measured at the study's depth."""

ARMS: dict[str, GuidedArm] = {name: arm for study in STUDIES.values() for name, arm in study.items()}
