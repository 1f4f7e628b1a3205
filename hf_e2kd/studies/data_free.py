"""Distilling on images that have nothing to do with the teacher's task ("data-free"), and measuring on its own data."""

import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

from datasets import Dataset, DatasetDict

from ..alignment.inputs import image_view
from ..callbacks import AdaptiveClipping
from ..data import DistillationTransform, load_imagenet, load_sun397
from ..data.images import label_names, load_image_splits, without_undecodable
from ..trainer.arguments import ExplanationDistillArguments
from .generated import write_imagenet, write_sun397
from .images import crop_and_flip, draw
from .models import load_student, processor_like
from .protocols import (
    BCOS_TRAINING,
    SMOKE_TRAINING,
    STANDARD_TRAINING,
    Protocol,
    ProtocolSources,
    chosen_first,
    load_classifier,
    smoke_bcos,
    smoke_folder,
    smoke_processor,
)
from .tasks import Task

EPOCHS = 200
"""Of ImageNet's recipe; of the training on unrelated images none is stated."""

SMALLEST_CROP = 0.08
"""The least share of an image that a random crop keeps."""


@dataclass
class DataFreeSources(ProtocolSources):
    """The teacher with its own data, and the images to train on."""

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "The teacher's own data, to measure on: the folder of ImageNet or SUN397, or as --train_data."
        },
    )
    train_data: str | None = field(
        default=None,
        metadata={"help": "Images to train on: the folder of SUN397 or ImageNet, a folder of images, or a Hub id."},
    )
    student: str = field(
        default="bcos/resnet18",
        metadata={"help": "bcos/NAME, timm/NAME or a .json, started anew."},
    )
    train_split: str = field(default="train", metadata={"help": "Split of --train_data."})
    eval_split: str | None = field(
        default=None, metadata={"help": "Split of --dataset; validation, or else test, where it isn't given."}
    )
    partition: int = field(
        default=1, metadata={"help": "Where --dataset is SUN397: the partition with the test images."}
    )

    required: ClassVar[tuple[str, ...]] = ("dataset", "train_data", "teacher")


def data_free_setting() -> Protocol:
    """The setting of the student that the command line names."""
    chosen = chosen_first(student="bcos/resnet18", smoke=False)
    training = {
        **(BCOS_TRAINING if chosen.student.startswith("bcos/") else STANDARD_TRAINING),
        "num_train_epochs": EPOCHS,
        "warmup_steps": 5 / EPOCHS,
        **(SMOKE_TRAINING if chosen.smoke else {}),
    }
    return Protocol(DataFreeSources, training, data_free_task)


def data_free_task(sources: DataFreeSources, args: ExplanationDistillArguments, seed: int) -> Task:
    """Loads both kinds of images, without the labels of those to train on, and both models."""
    if sources.smoke:
        sources.dataset = str(write_imagenet(smoke_folder(args) / "imagenet"))
        sources.train_data = str(write_sun397(smoke_folder(args) / "SUN397"))
    assert sources.dataset is not None and sources.train_data is not None
    skip = sources.skip_undecodable
    train = _split(find_images(sources.train_data), sources.train_data, [sources.train_split], skip)
    train = train.select_columns(["image"])
    wanted = ["validation", "test"] if sources.eval_split is None else [sources.eval_split]
    evaluation = _split(find_images(sources.dataset, sources.partition), sources.dataset, wanted, skip)
    evaluation = evaluation.select_columns([name for name in ("image", "label") if name in evaluation.column_names])
    names = label_names(evaluation)
    if sources.smoke:
        assert names is not None
        teacher, student, teacher_processor = smoke_bcos(names, dense=True), smoke_bcos(names), smoke_processor(True)
    else:
        assert sources.teacher is not None
        teacher, teacher_processor = load_classifier(sources.teacher, sources.teacher_weights)
        student = load_student(sources.student, "random", names, teacher)
    processor = processor_like(image_view(teacher_processor), student)
    transform = DistillationTransform(processor, teacher_processor)
    augmentation = crop_and_flip(processor, teacher_processor, smallest=SMALLEST_CROP)
    evaluations = {"teachers_data": evaluation.with_transform(transform)}
    return Task(
        teacher,
        student,
        processor,
        train.with_transform(DistillationTransform(processor, teacher_processor, augmentation)),
        evaluations,
        partial(draw, teacher, evaluations, transform, args),
        callbacks=[AdaptiveClipping()] if hasattr(student, "add_inverse") else [],
    )


def find_images(source: str, partition: int | None = None) -> DatasetDict:
    """Images by whatever layout they have: SUN397's, ImageNet's, or what `hf_e2kd.data.images.load_image_splits` takes.

    Args:
        source: A folder or a Hub id.
        partition: Of SUN397; None takes all its images as `train`.
    """
    folder = Path(source)
    if (folder / "SUN397").is_dir() or (folder / "a").is_dir():
        return load_sun397(folder, partition, open_images=False)
    class_folders = [child.name for child in folder.glob("train/*") if child.is_dir()]
    if class_folders and all(re.fullmatch(r"n\d{8}", name) for name in class_folders):
        return load_imagenet(folder)
    return load_image_splits(source)


def _split(splits: DatasetDict, source: str, wanted: list[str], skip_undecodable: bool) -> Dataset:
    """The first of the wanted splits that exists."""
    for name in wanted:
        if name in splits:
            if "image" not in splits[name].column_names:
                raise ValueError(
                    f"'{source}' has no column 'image'. Its columns: {', '.join(splits[name].column_names)}."
                )
            return without_undecodable(splits[name]) if skip_undecodable else splits[name]
    raise ValueError(f"'{source}' has no split '{' or '.join(wanted)}'. Its splits: {', '.join(splits)}.")
