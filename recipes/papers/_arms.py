"""The compared trainings (Han et al., ICML 2023), each by name as arguments of the one trainer.

An arm is `NAME`, or `NAME:setting=value,…` with settings of its own, as `KD:alpha=0.1,temperature=8`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from hf_e2kd.architectures.taps import default_taps
from hf_e2kd.choices import unknown_choice
from hf_e2kd.experiments.distillation import LABELS_ALONE
from hf_e2kd.explainers import available_explainers
from hf_e2kd.terms import build_term


@dataclass(frozen=True)
class Method:
    """A way to train a student.

    Args:
        about: Description, for messages.
        taught_by: "teacher"; "self", a network like the student, trained on the labels by another seed; or None.
        logits: True where α of the loss is on the teacher's logits (Eq. 1), False where the labels have all of it.
        smooths: True where the labels are smoothed (Eq. 2).
        explains: True where the teacher's explanations are matched.
        terms: Further terms of the loss, with their options.
        settings: Settings that differ from the study's.
        labels: Weight of the labels where the logits have none.
    """

    about: str
    taught_by: str | None = None
    logits: bool = False
    smooths: bool = False
    explains: bool = False
    terms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    labels: float = 1.0


# Appendix B.4. The official configurations differ from it: AT with batches of 512 and .1 of the labels' loss, CRD with
# a factor of 1 and without labels, SSKD without the loss on the logits.
METHODS: dict[str, Method] = {
    "scratch": Method("trained on the labels"),
    "LS": Method("trained on smoothed labels", smooths=True),
    "KD": Method("by labels and the teacher's logits", "teacher", logits=True),
    "AT": Method("by attention transfer", "teacher", terms={"attention_transfer": {"weight": 1000.0}}),
    "FT": Method("by factor transfer", "teacher", terms={"factor_transfer": {"weight": 1000.0}}),
    "CRD": Method("by contrastive representation distillation", "teacher", terms={"crd": {"weight": 0.8}}),
    # The term has losses of the labels and of the logits itself.
    "SSKD": Method("with self-supervision", "teacher", terms={"sskd": {}}, labels=0.0),
    "SSKD-KD": Method(
        "with self-supervision, without its loss on the logits",
        "teacher",
        terms={"sskd": {"weights": [1.0, 0.0, 10.0, 2.7]}},
        labels=0.0,
    ),
    "self-KD": Method(
        "by labels and the logits of a network like itself", "self", logits=True, settings={"alpha": 0.1}
    ),
    "e2KD": Method("by the teacher's explanations too", "teacher", logits=True, explains=True),
}
METHODS |= {
    f"{name}+KD": replace(METHODS[name], about=f"{METHODS[name].about}, and by logits", logits=True)
    for name in ("AT", "FT", "CRD")
}

SETTINGS = {
    **{"alpha": float, "smoothing": float, "temperature": float, "explanation_weight": float},
    **{"teacher": str, "student": str, "explainer": str},
}
"""Settings that an arm may have of its own, with their types."""


@dataclass(frozen=True)
class Arm:
    """A training.

    Args:
        text: The arm as the command line has it.
        method: Its method.
        settings: Settings of its own.
    """

    text: str
    method: Method
    settings: Mapping[str, Any]

    @property
    def label(self) -> str:
        """Name in tables and pictures."""
        return self.text.replace("e2KD", "e²KD")

    @property
    def file_name(self) -> str:
        """Name of its files."""
        return as_file_name(self.text)

    def setting(self, name: str, study: Any) -> Any:
        """Look up a setting: the arm's own, its method's, or the study's."""
        own = {**self.method.settings, **self.settings}
        return own[name] if name in own else getattr(study, name)


def as_file_name(text: str) -> str:
    """Replace what a file's name can't hold everywhere.

    Example:
        >>> as_file_name("KD:alpha=0.1,teacher=timm/resnet50")
        'KD_alpha=0.1_teacher=timm_resnet50'
    """
    return re.sub(r"[^A-Za-z0-9.+=-]", "_", text)


def parse_arm(text: str) -> Arm:
    """Read an arm.

    Raises:
        ValueError: an unknown method or setting, or a value of another kind; what there is is named.

    Example:
        >>> parse_arm("KD:alpha=0.1,temperature=8").settings
        {'alpha': 0.1, 'temperature': 8.0}
    """
    name, _, given = text.partition(":")
    if name not in METHODS:
        raise ValueError(unknown_choice("student", name, METHODS))
    settings: dict[str, Any] = {}
    for entry in filter(None, given.split(",")):
        key, _, value = entry.partition("=")
        if key not in SETTINGS or not value:
            raise ValueError(
                f"The student '{text}' has '{entry}'. Write NAME:setting=value,setting=value, with settings out of "
                f"{', '.join(SETTINGS)}."
            )
        try:
            settings[key] = SETTINGS[key](value)
        except ValueError:
            raise ValueError(f"The student '{text}' has '{entry}', where a number is expected.") from None
        if key == "explainer" and value not in available_explainers():
            raise ValueError(unknown_choice("explainer", value, available_explainers()))
        if key in ("alpha", "smoothing") and not 0 <= settings[key] <= 1:
            raise ValueError(f"The student '{text}' has '{entry}', which must lie between 0 and 1.")
        if key == "temperature" and settings[key] <= 0:
            raise ValueError(f"The student '{text}' has '{entry}', which must be above 0.")
    return Arm(text, METHODS[name], settings)


def teacher_source(arm: Arm, study: Any) -> str | None:
    """Name the network that teaches an arm, as `--teacher` does; None where there is none."""
    if arm.method.taught_by is None:
        return None
    return arm.setting("student" if arm.method.taught_by == "self" else "teacher", study)


def teacher_sources(arms: Iterable[Arm], study: Any) -> list[str]:
    """List the networks that teach some arms, each once."""
    found = (teacher_source(arm, study) for arm in arms)
    return list(dict.fromkeys(source for source in found if source is not None))


def arm_arguments(arm: Arm, study: Any, args: Any, student: nn.Module, teacher: nn.Module | None) -> dict[str, Any]:
    """Give the training arguments that make an arm.

    Args:
        study: The study's options, with `alpha` and `smoothing`.
        args: Training arguments, with the temperature, λ, and terms that every taught student has.
        student, teacher: Models, whose stages are compared; the teacher is None where there is none.
    """
    method = arm.method
    if teacher is None:
        smoothing = arm.setting("smoothing", study) if method.smooths else 0.0
        return {**LABELS_ALONE, "label_smoothing_factor": smoothing}
    alpha = arm.setting("alpha", study) if method.logits else 0.0
    by = {"explainer": arm.settings["explainer"]} if "explainer" in arm.settings else {}
    return {
        **by,
        "task_weight": 1 - alpha if method.logits else method.labels,
        "logits_weight": alpha,
        "temperature": arm.setting("temperature", args),
        "explanation_weight": arm.setting("explanation_weight", args) if method.explains else 0.0,
        "terms": {**(args.terms or {}), **_terms(method, student, teacher)} or None,
    }


def _terms(method: Method, student: nn.Module, teacher: nn.Module) -> dict[str, Any]:
    terms = {name: dict(options) for name, options in method.terms.items()}
    if "attention_transfer" in terms:
        # The paper compares the last two stages (layer3 and layer4 of a ResNet), the term by default all of them.
        pairs = build_term("attention_transfer").default_layers(default_taps(student), default_taps(teacher))
        terms["attention_transfer"]["layers"] = dict(list(pairs.items())[-2:])
    return terms
