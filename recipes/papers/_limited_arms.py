"""The compared trainings of the study of limited data, as arguments of the one trainer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LABELS: Mapping[str, Any] = {"task_weight": 1.0, "logits_weight": 0.0, "explanation_weight": 0.0}
KD: Mapping[str, Any] = {"explanation_weight": 0.0}

RELATIVE: Mapping[str, Any] = {"explanation_weight_mode": "relative", "explanation_weight": 1.0}

# Weights as published: AT by Han et al. (ICML 2023), CRD by its authors, ReviewKD and CAT-KD by their authors for
# CIFAR-100's ResNets.
AT = {"attention_transfer": {"weight": 1000.0}}
CAT = {"cat_kd": {"weight": 15.0}}
REVIEW = {"review_kd": {"weight": 5.0}}
CRD = {"crd": {"weight": 0.8}}


@dataclass(frozen=True)
class Arm:
    """A training.

    Args:
        arguments: Training arguments that differ from the command's.
        frozen: Learn from the teacher's stored outputs, computed once on images without augmentation.
        epochs: Length of the training, in lengths of the command's.
        teacher: Learn from the teacher in any way.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    frozen: bool = False
    epochs: float = 1.0
    teacher: bool = True


_LENGTHS = {1 / 6: ", ⅙ of the epochs", 1 / 3: ", ⅓", 1 / 2: ", ½", 1.0: "", 2.0: ", × 2"}

STUDIES: dict[str, dict[str, Arm]] = {
    "methods": {
        "labels": Arm(LABELS, teacher=False),
        "AT": Arm({**LABELS, "terms": AT}),
        "CAT-KD": Arm({**LABELS, "terms": CAT}),
        "ReviewKD": Arm({**LABELS, "terms": REVIEW}),
        "CRD": Arm({**LABELS, "terms": CRD}),
        "KD": Arm(KD),
        "KD + AT": Arm({**KD, "terms": AT}),
        "e²KD": Arm(),
        "CAT-KD + e²KD": Arm({"task_weight": 1.0, "logits_weight": 0.0, "terms": CAT}),
        "CAT-KD + e²KD, relative λ = 1": Arm({"task_weight": 1.0, "logits_weight": 0.0, "terms": CAT, **RELATIVE}),
        "CRD + e²KD": Arm({"task_weight": 1.0, "logits_weight": 0.0, "terms": CRD}),
        "ReviewKD + e²KD": Arm({"task_weight": 1.0, "logits_weight": 0.0, "terms": REVIEW}),
    },
    "frozen": {"KD": Arm(KD), "KD, frozen": Arm(KD, True), "e²KD": Arm(), "e²KD, frozen": Arm(frozen=True)},
    "length": {
        f"{name}{_LENGTHS[epochs]}": Arm(arguments, epochs=epochs)
        for name, arguments in (("KD", KD), ("e²KD", {}))
        for epochs in _LENGTHS
    },
    "temperature": {
        "KD": Arm(KD),
        **{f"KD, τ = {value}": Arm({**KD, "temperature": float(value)}) for value in (2, 4, 5)},
        "e²KD": Arm(),
        "e²KD, τ = 5": Arm({"temperature": 5.0}),
    },
    "loss": {
        "e²KD": Arm(),
        "e²KD, cosine on the maps' own grid": Arm({"comparison_grid": "native"}),
        **{f"e²KD, {loss}": Arm({"explanation_loss": loss}) for loss in ("pearson", "mse", "l1", "kl")},
    },
    "weight": {
        "KD": Arm(KD),
        **{f"e²KD, λ = {value:g}": Arm({"explanation_weight": value}) for value in (0.2, 1.0, 10.0, 20.0)},
        "e²KD": Arm(),
    },
}
"""Trainings by study and name: e²KD's Tables 1 and 2 (methods), its frozen teachers, and what its effect depends on."""

ARMS: dict[str, Arm] = {name: arm for study in STUDIES.values() for name, arm in study.items()}


def arms_of(studies: list[str]) -> dict[str, Arm]:
    """List the trainings of some studies, each once."""
    return {name: arm for study in studies for name, arm in STUDIES[study].items()}
