"""Image classifiers by Hub id, local folder or configuration."""

import json
from pathlib import Path
from typing import Any

from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    BitImageProcessor,
    PreTrainedConfig,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    TimmWrapperImageProcessor,
    ViTImageProcessor,
)

from ..alignment.inputs import PIL_FILTERS, ImageView
from ..alignment.labels import class_names


def load_teacher(source: str) -> tuple[nn.Module, Any]:
    """A trained classifier and its image processor, from the Hub or a folder. No remote code is run."""
    return AutoModelForImageClassification.from_pretrained(source), AutoImageProcessor.from_pretrained(source)


def load_student(source: str, init: str, names: list[str] | None, teacher: nn.Module) -> nn.Module:
    """A student for the classes `names`, or the teacher's where there are none.

    Args:
        source: Hub id or folder of a model; for a random start also a configuration file (JSON with `model_type`), or
            `timm/NAME` of an architecture.
        init: `"pretrained"` keeps the weights (a new classifier if the classes differ), `"random"` starts anew.

    Raises:
        ValueError: unknown `init`.
    """
    if init not in ("pretrained", "random"):
        raise ValueError(f"Unknown student_init '{init}'. Available: pretrained, random.")
    names = names or class_names(teacher)
    labels: dict[str, Any] = (
        {"num_labels": teacher.config.num_labels}
        if names is None
        else {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    )
    if init == "random":
        return AutoModelForImageClassification.from_config(_configuration(source, labels))
    return AutoModelForImageClassification.from_pretrained(source, **labels, ignore_mismatched_sizes=True)


def processor_like(view: ImageView, student: nn.Module) -> Any:
    """An image processor that shows a student the given view, in a form that is saved beside the student."""
    if isinstance(student, TimmWrapperForImageClassification):
        student.config.pretrained_cfg = {
            "input_size": [3, *view.size],
            "mean": list(view.mean),
            "std": list(view.std),
            "interpolation": view.interpolation.value,
            "crop_pct": view.fraction,
            "crop_mode": "center" if view.keeps_ratio else "squash",
        }
        return TimmWrapperImageProcessor(student.config.pretrained_cfg, architecture=student.config.architecture)
    height, width = view.size
    settings = {
        "image_mean": list(view.mean),
        "image_std": list(view.std),
        "resample": PIL_FILTERS[view.interpolation.value],
    }
    if not view.keeps_ratio:
        return ViTImageProcessor(size={"height": height, "width": width}, **settings)
    return BitImageProcessor(
        size={"shortest_edge": round(min(height, width) / view.fraction)},
        crop_size={"height": height, "width": width},
        **settings,
    )


def _configuration(source: str, labels: dict[str, Any]) -> PreTrainedConfig:
    if source.endswith(".json"):
        settings = json.loads(Path(source).read_text(encoding="utf-8"))
        if "model_type" not in settings:
            raise ValueError(f'{source} names no \'model_type\', such as "vit" or "convnext".')
        return AutoConfig.for_model(settings.pop("model_type"), **settings, **labels)
    if source.startswith("timm/") and not Path(source).exists():
        # An architecture of timm needs no file from the Hub for a random start; a tag after a dot names weights only.
        return TimmWrapperConfig(architecture=source.removeprefix("timm/").split(".")[0], **labels)
    return AutoConfig.from_pretrained(source, **labels)
