"""What is distilled: a teacher, the students' common start, and the data."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset
from torch import nn
from torchvision.transforms import v2
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedConfig, ViTImageProcessor

from ..alignment.inputs import image_view
from ..arguments import ExplanationDistillArguments
from ..data.digits import digits_on_textures
from ..data.images import label_names, load_images
from ..data.transforms import DistillationTransform
from ..trainer import ExplanationDistillTrainer
from .models import load_student, load_teacher, processor_like


@dataclass
class Sources:
    """What to distil. Without teacher, student and data set: the recipe's embedded default."""

    teacher: str | None = field(default=None, metadata={"help": "Hub id or folder of the teacher."})
    student: str | None = field(
        default=None,
        metadata={"help": "Hub id or folder of the student; for a random start also timm/NAME or .json."},
    )
    dataset: str | None = field(
        default=None, metadata={"help": "Hub id, folder saved by `datasets`, or folder of images."}
    )
    student_init: str = field(
        default="pretrained",
        metadata={"help": "Keep the student's weights, or start anew.", "choices": ["pretrained", "random"]},
    )
    train_split: str = field(default="train", metadata={"help": "Split to distil on."})
    eval_split: str = field(
        default="validation",
        metadata={"help": "Split to measure on; without it, a tenth of the training split."},
    )
    image_column: str = field(default="image", metadata={"help": "Column of the images."})
    label_column: str = field(default="label", metadata={"help": "Column of the labels; it may be missing."})
    augment: bool = field(default=False, metadata={"help": "Crop and flip the training images at random."})


@dataclass
class EmbeddedSetting:
    """A recipe's default without a download: models by configuration, trained on the embedded digits.

    Args:
        teacher, student: Configurations; the classes' names are filled in.
        data: Arguments of `digits_on_textures`.
        teacher_training, student_training: Training arguments of either.
        input_size: Side in pixels to which the models are shown the images; None leaves them as they are.
    """

    teacher: PreTrainedConfig
    student: PreTrainedConfig
    data: Mapping[str, Any]
    teacher_training: Mapping[str, Any]
    student_training: Mapping[str, Any]
    input_size: int | None = None


@dataclass
class Task:
    """What one seed distils.

    Args:
        teacher: A trained classifier.
        student: The students' common start.
        processor: The student's image processor, saved beside it.
        transform: Makes the batches of `evaluations`, on which it is set.
        evaluations: Data to measure on, by name.
        teacher_is_new: Whether the teacher was trained for this task, so that it is worth saving.
    """

    teacher: nn.Module
    student: nn.Module
    processor: Any
    transform: DistillationTransform
    train: Dataset
    evaluations: dict[str, Dataset]
    teacher_is_new: bool = False


def training_arguments(args: ExplanationDistillArguments, **changes: Any) -> ExplanationDistillArguments:
    """The same arguments with some changed."""
    changed = copy.copy(args)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def announce(args: ExplanationDistillArguments, what: str) -> None:
    """Says what the next progress bar is for, once for all processes."""
    if args.process_index == 0:
        print(f"\n{what}", flush=True)


def load_task(sources: Sources, seed: int) -> Task:
    """Loads teacher, student and data by Hub id or folder."""
    assert sources.teacher and sources.student and sources.dataset
    train, evaluation = load_images(
        sources.dataset, sources.train_split, sources.eval_split, sources.image_column, seed=seed
    )
    teacher, teacher_processor = load_teacher(sources.teacher)
    student = load_student(sources.student, sources.student_init, label_names(train, sources.label_column), teacher)
    # A student that starts anew has no processor of its own: it sees what the teacher sees.
    if sources.student_init == "random":
        processor = processor_like(image_view(teacher_processor), student)
    else:
        processor = AutoImageProcessor.from_pretrained(sources.student)
    transform, training_transform = (
        DistillationTransform(
            processor,
            teacher_processor,
            augmentation=augmentation,
            image_column=sources.image_column,
            label_column=sources.label_column,
        )
        for augmentation in (None, crop_and_flip(processor, teacher_processor) if sources.augment else None)
    )
    train.set_transform(training_transform)
    evaluation.set_transform(transform)
    return Task(teacher, student, processor, transform, train, {"evaluation": evaluation})


def crop_and_flip(*processors: Any) -> v2.Transform:
    """Random resized crops and flips, at the larger of the processors' sizes."""
    sizes = [image_view(processor).size for processor in processors]
    size = [max(height for height, _ in sizes), max(width for _, width in sizes)]
    return v2.Compose([v2.RandomResizedCrop(size, scale=(0.35, 1.0)), v2.RandomHorizontalFlip()])


def embedded_task(setting: EmbeddedSetting, args: ExplanationDistillArguments, seed: int) -> Task:
    """Composes a seed's data and trains its teacher, on backgrounds that say nothing of the class."""
    splits = digits_on_textures(**{"seed": seed, **setting.data})
    side = setting.input_size or splits["student_train"][0]["image"].width
    processor = ViTImageProcessor(
        size={"height": side, "width": side}, image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5]
    )
    transform = DistillationTransform(processor)
    names = label_names(splits["student_train"])
    assert names is not None
    for split in splits.values():
        split.set_transform(transform)
    teacher, student = _from_config(setting.teacher, names), _from_config(setting.student, names)
    announce(args, f"Seed {seed}: training the teacher")
    labels_alone = {"task_weight": 1.0, "logits_weight": 0.0, "explanation_weight": 0.0}
    trainer = ExplanationDistillTrainer(
        teacher,
        training_arguments(args, seed=seed, **{**setting.teacher_training, **labels_alone}),
        train_dataset=splits["teacher_train"],
        processing_class=processor,
    )
    trainer.train()
    evaluations = {"in_distribution": splits["test_id"], "out_of_distribution": splits["test_ood"]}
    train = splits["student_train"]
    return Task(trainer.student, student, processor, transform, train, evaluations, teacher_is_new=True)


def _from_config(config: PreTrainedConfig, names: list[str]) -> nn.Module:
    config = copy.deepcopy(config)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    return AutoModelForImageClassification.from_config(config)
