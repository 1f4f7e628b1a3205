"""Shared parts of the papers' recipes: options, training arguments, models, trial runs."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset, DatasetDict, concatenate_datasets
from timm.data import ImageNetInfo
from torch import nn
from transformers import AutoModelForImageClassification, HfArgumentParser, PreTrainedConfig, ViTImageProcessor
from transformers.hf_argparser import string_to_bool

from hf_e2kd.data import load_cifar10, load_imagenet, load_sun397, load_tiny_imagenet, load_tiny_imagenet_parquet
from hf_e2kd.data.imagenet import class_names
from hf_e2kd.data.images import load_image_splits, without_undecodable
from hf_e2kd.experiments import Distillation, Experiment
from hf_e2kd.experiments.command_line import command_line
from hf_e2kd.experiments.distillation import NOTHING_SAVED, replace_arguments
from hf_e2kd.experiments.experiment import COMMON_TRAINING
from hf_e2kd.experiments.models import label_settings, load_teacher
from hf_e2kd.experiments.processors import bcos_processor
from hf_e2kd.models import BcosDenseNetConfig, BcosResNetConfig, bcos_config, load_bcos_weights
from hf_e2kd.trainer.arguments import ExplanationDistillArguments

SMOKE_SIDE = 32
"""Side in pixels of the images that the models of a trial run are shown."""

SMOKE_TRAINING = {
    "max_steps": 2,
    "use_cpu": True,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 8,
    "warmup_steps": 0,
}
"""Training arguments of a trial run."""

SMOKE_SIZES = {"teacher_train": 48, "student_train": 32, "validation": 0, "test_id": 16, "test_ood": 16}
"""Number of embedded images in each split of a trial run."""

SMALLEST_CROP = 0.08
"""Least fraction of an unrelated image that a random crop keeps."""

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
"""Training arguments of standard networks in e²KD's official code."""

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
"""Training arguments of B-cos networks there."""


@dataclass
class PaperSources:
    """Options of every paper's setting."""

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
class PaperExperiment(Experiment):
    """A setting whose data and models come from the command line.

    Args:
        sources: Data class of the options.
        student_training: Training arguments where the command line says nothing else.
        loader: `loader(sources, args, seed)` gives one seed's models and data.
    """

    sources: type
    student_training: Mapping[str, Any]
    loader: Callable[[Any, ExplanationDistillArguments, int], Distillation]

    def load(self, sources: Any, args: ExplanationDistillArguments, seed: int) -> Distillation:
        """Load one seed's models and data."""
        return self.loader(sources, args, seed)


def chosen_first(**defaults: Any) -> argparse.Namespace:
    """Read the options on which other options' defaults depend, before the rest of the command line.

    Args:
        defaults: Options with their defaults; one whose default is False is a flag.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, default in defaults.items():
        if default is False:
            parser.add_argument(f"--{name}", type=string_to_bool, nargs="?", const=True, default=False)
        else:
            parser.add_argument(f"--{name}", default=default)
    return parser.parse_known_args(command_line())[0]


def parse_recipe(
    options: type, name: str, description: str, refuse: Callable[[ExplanationDistillArguments], None], **training: Any
) -> tuple[Any, ExplanationDistillArguments]:
    """Read the command line of a recipe that trains many models and saves them itself.

    Args:
        options: Data class of its options, `smoke` among them.
        name: Name of the recipe; results go to `outputs/NAME` unless said otherwise.
        description: Text of `--help`.
        refuse: Raises a ValueError where the recipe can't follow the training arguments.
        training: Training arguments where the command line says nothing else.
    """
    parser = HfArgumentParser((options, ExplanationDistillArguments), description=description)
    smoke = SMOKE_TRAINING if chosen_first(smoke=False).smoke else {}
    parser.set_defaults(output_dir=f"outputs/{name}", **{**COMMON_TRAINING, **training, **smoke})
    try:
        chosen, args = parser.parse_args_into_dataclasses(command_line(options, ExplanationDistillArguments))
        refuse(args)
    except ValueError as error:
        parser.error(str(error))
    return chosen, replace_arguments(args, **NOTHING_SAVED)


def refuse_launcher(args: ExplanationDistillArguments) -> None:
    """Refuse several processes under a launcher, in a recipe whose processes share the runs through their folder."""
    if args.world_size > 1:
        raise ValueError("start the recipe without a launcher, as often as there are processes: they share the runs.")


def load_published(source: str, weights: str | None) -> tuple[nn.Module, Any]:
    """Load a trained classifier and its image processor.

    Args:
        source: Hub id or folder, or `bcos/NAME` as in `hf_e2kd.models.bcos_config`.
        weights: File of a B-cos network's published weights, which are of ImageNet's 1,000 classes.
    """
    if weights is None:
        return load_teacher(source)
    names = class_names(ImageNetInfo().label_names())
    config = bcos_config(source.removeprefix("bcos/"), **label_settings(names, len(names)))
    model = load_bcos_weights(AutoModelForImageClassification.from_config(config), weights)
    return model, bcos_processor(config)


def channels_last(model: nn.Module) -> nn.Module:
    """Order the axes of a network's weights so that convolutions take up to half less of a CPU's time."""
    return model.to(memory_format=torch.channels_last)


def smoke_processor(is_bcos: bool) -> ViTImageProcessor:
    """Make the image processor of a trial run's models."""
    size = {"height": SMOKE_SIDE, "width": SMOKE_SIDE}
    return ViTImageProcessor(size=size, do_normalize=not is_bcos)


def smoke_bcos(names: list[str], dense: bool = False) -> nn.Module:
    """Make a tiny B-cos network."""
    labels = label_settings(names, len(names))
    sizes = {"embedding_size": 8, "small_inputs": True, **labels}
    config: PreTrainedConfig = (
        BcosDenseNetConfig(depths=[1, 1], growth_rate=8, **sizes) if dense else BcosResNetConfig(depths=[1, 1], **sizes)
    )
    return AutoModelForImageClassification.from_config(config)


def smoke_folder(args: ExplanationDistillArguments) -> Path:
    """Name the folder of a trial run's images."""
    return Path(args.output_dir) / "generated"


def find_images(source: str, partition: int | None = None) -> DatasetDict:
    """Load images in the layout of SUN397, CIFAR-10, Tiny ImageNet or ImageNet, or as `load_image_splits` does.

    Args:
        source: Folder or Hub id.
        partition: Partition of SUN397; None takes all its images as `train`.
    """
    folder = Path(source)
    if (folder / "SUN397").is_dir() or (folder / "a").is_dir():
        return load_sun397(folder, partition, open_images=False)
    if any((folder / f"test_batch.{ending}").is_file() for ending in ("bin", "png")):
        return load_cifar10(folder)
    if _has_tiny_lists(folder) or (folder / "classes.csv").is_file() and any(folder.glob("*.parquet")):
        return find_tiny_imagenet(source)
    class_folders = [child.name for child in folder.glob("train/*") if child.is_dir()]
    if class_folders and all(re.fullmatch(r"n\d{8}", name) for name in class_folders):
        return load_imagenet(folder)
    return load_image_splits(source)


def find_tiny_imagenet(source: str) -> DatasetDict:
    """Load Tiny ImageNet from its own folders, or from Parquet files."""
    return load_tiny_imagenet(source) if _has_tiny_lists(Path(source)) else load_tiny_imagenet_parquet(source)


def _has_tiny_lists(folder: Path) -> bool:
    return any((root / "wnids.txt").is_file() for root in (folder, folder / "tiny-imagenet-200"))


def select_split(splits: DatasetDict, source: str, wanted: Sequence[str], skip_undecodable: bool = False) -> Dataset:
    """Select the first of the wanted splits that exists.

    Args:
        splits: Splits of images.
        source: Their source, for messages.
        wanted: Names of splits.
        skip_undecodable: Leave out images that can't be decoded, with a warning that names them.

    Raises:
        ValueError: there is none, or it has no column `image`; what there is is named.
    """
    for name in wanted:
        if name in splits:
            if "image" not in splits[name].column_names:
                raise ValueError(
                    f"'{source}' has no column 'image'. Its columns: {', '.join(splits[name].column_names)}."
                )
            return without_undecodable(splits[name]) if skip_undecodable else splits[name]
    raise ValueError(f"'{source}' has no split '{' or '.join(wanted)}'. Its splits: {', '.join(splits)}.")


def unlabelled_images(sources: Sequence[str], split: str = "train", skip_undecodable: bool = False) -> Dataset:
    """Load the images of one or several sources without anything else, one source after the other.

    Args:
        sources: Folders or Hub ids, as `find_images` takes them.
        split: Split of each.
        skip_undecodable: Leave out images that can't be decoded, with a warning that names them.
    """
    parts = [select_split(find_images(source), source, [split], skip_undecodable) for source in sources]
    return concatenate_datasets([part.select_columns(["image"]) for part in parts])
