"""What the protocols of the papers have in common: their place on the command line, their models and recipes."""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from timm.data import ImageNetInfo
from torch import nn
from transformers import AutoModelForImageClassification, PreTrainedConfig, ViTImageProcessor

from ..data.imagenet import class_names
from ..models import BcosDenseNetConfig, BcosResNetConfig, bcos_config, load_bcos_weights
from ..trainer.arguments import ExplanationDistillArguments
from .models import bcos_processor, label_settings, load_teacher
from .tasks import Task

SMOKE_SIDE = 32
"""Side in pixels of what the models of a trial run are shown."""

SMOKE_TRAINING = {
    "max_steps": 2,
    "use_cpu": True,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 8,
    "warmup_steps": 0,
}
"""Training arguments of a trial run."""

# The learning rate rises from 1 % and falls to 0.
_FROM_ONE_PERCENT = {
    "lr_scheduler_type": "cosine_warmup_with_min_lr",
    "lr_scheduler_kwargs": {"warmup_lr_rate": 0.01, "min_lr_rate": 0.0},
}
STANDARD_TRAINING = {
    "optim": "adamw_torch",
    "learning_rate": 0.01,
    "weight_decay": 1e-4,
    "max_grad_norm": 1.0,
    **_FROM_ONE_PERCENT,
}
"""How e²KD's official code trains standard networks."""

BCOS_TRAINING = {
    # Adam is AdamW without decay.
    "optim": "adamw_torch",
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    # `AdaptiveClipping` clips.
    "max_grad_norm": 0.0,
    "explainer": "bcos",
    **_FROM_ONE_PERCENT,
}
"""How it trains B-cos networks."""


@dataclass
class ProtocolSources:
    """What every protocol is told."""

    dataset: str | None = field(default=None, metadata={"help": "The data's folder."})
    teacher: str | None = field(
        default=None, metadata={"help": "Hub id or folder of the teacher, or bcos/NAME with --teacher_weights."}
    )
    teacher_weights: str | None = field(
        default=None, metadata={"help": "File of published weights of a teacher bcos/NAME, .pth or .safetensors."}
    )
    skip_undecodable: bool = field(
        default=False, metadata={"help": "Leave images out that can't be decoded, with a warning that names them."}
    )
    smoke: bool = field(
        default=False, metadata={"help": "Try everything out in seconds, by tiny models on images made for it."}
    )

    required: ClassVar[tuple[str, ...]] = ("dataset", "teacher")

    def __post_init__(self) -> None:
        missing = [f"--{name}" for name in self.required if getattr(self, name) is None]
        if missing and not self.smoke:
            raise ValueError(f"Give {' and '.join(missing)}, or --smoke to try the recipe out without any data.")
        if not self.smoke and (self.teacher or "").startswith("bcos/") and self.teacher_weights is None:
            raise ValueError(f"--teacher {self.teacher} needs its published weights: give --teacher_weights FILE.")


@dataclass
class Protocol:
    """A setting of `run_side_by_side` whose data and models come from the command line.

    Args:
        sources: The data class of the command line.
        student_training: Training arguments where the command line says nothing else.
        loader: `loader(sources, args, seed)` gives what one seed distils.
    """

    sources: type
    student_training: Mapping[str, Any]
    loader: Callable[[Any, ExplanationDistillArguments, int], Task]
    required: tuple[str, ...] = ()

    # A transform makes the batches, from columns that no model's forward takes.
    common_training: ClassVar[Mapping[str, Any]] = {"remove_unused_columns": False}
    pretrained_training: ClassVar[Mapping[str, Any]] = {}
    others: ClassVar[Mapping[str, Mapping[str, Any]]] = {"KD": {"explanation_weight": 0.0}}

    def load(self, sources: Any, args: ExplanationDistillArguments, seed: int) -> Task:
        """What one seed distils."""
        return self.loader(sources, args, seed)


def chosen_first(**defaults: Any) -> argparse.Namespace:
    """The command line's options on which other options' defaults depend, before the rest of it is read.

    Args:
        defaults: The options with their defaults; what is False by default is a flag.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, default in defaults.items():
        if default is False:
            parser.add_argument(f"--{name}", action="store_true")
        else:
            parser.add_argument(f"--{name}", default=default)
    return parser.parse_known_args(sys.argv[1:])[0]


def load_classifier(source: str, weights: str | None) -> tuple[nn.Module, Any]:
    """A trained classifier and its image processor.

    Args:
        source: Hub id or folder, or `bcos/NAME` as in `hf_e2kd.models.bcos_config`.
        weights: The file of a B-cos network's published weights, which are of ImageNet's 1,000 classes.
    """
    if weights is None:
        return load_teacher(source)
    names = class_names(ImageNetInfo().label_names())
    config = bcos_config(source.removeprefix("bcos/"), **label_settings(names, len(names)))
    model = load_bcos_weights(AutoModelForImageClassification.from_config(config), weights)
    return model, bcos_processor(config)


def smoke_processor(is_bcos: bool) -> ViTImageProcessor:
    """An image processor of a trial run's models."""
    size = {"height": SMOKE_SIDE, "width": SMOKE_SIDE}
    return ViTImageProcessor(size=size, do_normalize=not is_bcos)


def smoke_bcos(names: list[str], dense: bool = False) -> nn.Module:
    """A tiny B-cos network."""
    labels = label_settings(names, len(names))
    sizes = {"embedding_size": 8, "small_inputs": True, **labels}
    config: PreTrainedConfig = (
        BcosDenseNetConfig(depths=[1, 1], growth_rate=8, **sizes) if dense else BcosResNetConfig(depths=[1, 1], **sizes)
    )
    return AutoModelForImageClassification.from_config(config)


def smoke_folder(args: ExplanationDistillArguments) -> Path:
    """Where a trial run's images go."""
    return Path(args.output_dir) / "generated"
