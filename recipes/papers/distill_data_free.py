# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Distil on images that have nothing to do with the teacher's task, and measure on the teacher's own data.

    accelerate launch recipes/papers/distill_data_free.py --dataset imagenet --train_data SUN397 \\
        --teacher bcos/densenet169 --teacher_weights densenet_169-7037ee0604.pth
    accelerate launch recipes/papers/distill_data_free.py --dataset SUN397 --train_data imagenet \\
        --teacher outputs/sun397_densenet169
    accelerate launch recipes/papers/distill_data_free.py --dataset TINY_IMAGENET --train_data COCO CLOTHING \\
        --teacher outputs/efficientnet-lite0 --student timm/mobilenetv3_small_075
    accelerate launch recipes/papers/distill_data_free.py --smoke
"""

from dataclasses import dataclass, field
from typing import ClassVar

from _common import (
    BCOS_TRAINING,
    SMALLEST_CROP,
    SMOKE_TRAINING,
    STANDARD_TRAINING,
    PaperExperiment,
    PaperSources,
    chosen_first,
    find_images,
    load_published,
    select_split,
    smoke_bcos,
    smoke_folder,
    smoke_processor,
    unlabelled_images,
)
from _generated import write_imagenet, write_sun397

from hf_e2kd.alignment.inputs import image_view
from hf_e2kd.callbacks import AdaptiveClipping
from hf_e2kd.data import DistillationTransform
from hf_e2kd.data.images import label_names
from hf_e2kd.experiments import Distillation, run_experiment, run_recipe
from hf_e2kd.experiments.images import crop_and_flip, explanation_picture
from hf_e2kd.experiments.models import create_student
from hf_e2kd.experiments.processors import processor_like
from hf_e2kd.trainer.arguments import ExplanationDistillArguments

EPOCHS = 200
"""Number of epochs of ImageNet's recipe; for the training on unrelated images none is stated."""


@dataclass
class DataFreeSources(PaperSources):
    """Options of the teacher, its own data and the images to train on."""

    dataset: str | None = field(
        default=None, metadata={"help": "The teacher's own data, to measure on: one source as those of --train_data."}
    )
    train_data: list[str] | None = field(
        default=None,
        metadata={"help": "Images to train on, one or several: folders of SUN397, (Tiny) ImageNet or images, Hub ids."},
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


def data_free_experiment() -> PaperExperiment:
    """Make the experiment of the student that the command line names."""
    chosen = chosen_first(student="bcos/resnet18", smoke=False)
    training = {
        **(BCOS_TRAINING if chosen.student.startswith("bcos/") else STANDARD_TRAINING),
        "num_train_epochs": EPOCHS,
        "warmup_steps": 5 / EPOCHS,
        **(SMOKE_TRAINING if chosen.smoke else {}),
    }
    return PaperExperiment(DataFreeSources, training, load_data_free_pair)


def load_data_free_pair(sources: DataFreeSources, args: ExplanationDistillArguments, seed: int) -> Distillation:
    """Load both kinds of images, without the labels of those to train on, and both models."""
    if sources.smoke:
        sources.dataset = str(write_imagenet(smoke_folder(args) / "imagenet"))
        sources.train_data = [str(write_sun397(smoke_folder(args) / "SUN397"))]
    assert sources.dataset is not None and sources.train_data is not None
    skip = sources.skip_undecodable
    train = unlabelled_images(sources.train_data, sources.train_split, skip)
    wanted = ["validation", "test"] if sources.eval_split is None else [sources.eval_split]
    evaluation = select_split(find_images(sources.dataset, sources.partition), sources.dataset, wanted, skip)
    evaluation = evaluation.select_columns([name for name in ("image", "label") if name in evaluation.column_names])
    names = label_names(evaluation)
    if sources.smoke:
        assert names is not None
        teacher, student, teacher_processor = smoke_bcos(names, dense=True), smoke_bcos(names), smoke_processor(True)
    else:
        assert sources.teacher is not None
        teacher, teacher_processor = load_published(sources.teacher, sources.teacher_weights)
        student = create_student(sources.student, "random", names, teacher)
    processor = processor_like(image_view(teacher_processor), student)
    transform = DistillationTransform(processor, teacher_processor)
    augmentation = crop_and_flip(processor, teacher_processor, smallest=SMALLEST_CROP)
    shown = evaluation.with_transform(transform)
    return Distillation(
        teacher,
        student,
        processor,
        train.with_transform(DistillationTransform(processor, teacher_processor, augmentation)),
        {"teachers_data": shown},
        explanation_picture(teacher, shown, transform, args),
        callbacks=[AdaptiveClipping()] if hasattr(student, "add_inverse") else [],
    )


if __name__ == "__main__":
    run_recipe(run_experiment, data_free_experiment(), "distill_data_free", __doc__)
