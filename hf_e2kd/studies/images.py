"""Image classifiers to distil: by Hub id or folder, or the embedded digits."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import nn
from torchvision.transforms import v2
from transformers import AutoModelForImageClassification, PreTrainedConfig, ViTImageProcessor

from ..alignment.inputs import image_view
from ..alignment.labels import align_labels, class_names
from ..cards.plots import explanation_panel
from ..data.digits import digits_on_textures
from ..data.images import label_names, load_images
from ..data.transforms import DistillationTransform
from ..metrics import explanation_similarity
from ..trainer.arguments import ExplanationDistillArguments
from .models import load_processor, load_student, load_teacher, processor_like
from .student_card import generated
from .tasks import Task, announce, explainer_of, train_on_labels, training_arguments


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
    skip_undecodable: bool = field(
        default=False, metadata={"help": "Leave images out that can't be decoded, with a warning that names them."}
    )


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

    sources: ClassVar[type] = Sources
    # These belong together on the command line.
    required: ClassVar[tuple[str, ...]] = ("teacher", "student", "dataset")
    # A transform makes the batches, from columns that no model's forward takes.
    common_training: ClassVar[Mapping[str, Any]] = {"remove_unused_columns": False}
    pretrained_training: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 1e-4,
        "warmup_steps": 0.05,
        "num_train_epochs": 10,
        "weight_decay": 0.05,
    }
    # What is trained beside e²KD, by what differs in its arguments.
    others: ClassVar[Mapping[str, Mapping[str, Any]]] = {"KD": {"explanation_weight": 0.0}}

    def load(self, sources: Any, args: ExplanationDistillArguments, seed: int) -> Task:
        """What one seed distils."""
        return load_task(sources, args, seed) if sources.dataset else embedded_task(self, args, seed)


def load_task(sources: Sources, args: ExplanationDistillArguments, seed: int) -> Task:
    """Loads teacher, student and data by Hub id or folder."""
    assert sources.teacher and sources.student and sources.dataset
    train, evaluation = load_images(
        sources.dataset,
        sources.train_split,
        sources.eval_split,
        sources.image_column,
        seed=seed,
        skip_undecodable=sources.skip_undecodable,
    )
    teacher, teacher_processor = load_teacher(sources.teacher)
    student = load_student(sources.student, sources.student_init, label_names(train, sources.label_column), teacher)
    # A student that starts anew has no processor of its own: it sees what the teacher sees.
    if sources.student_init == "random":
        processor = processor_like(image_view(teacher_processor), student)
    else:
        processor = load_processor(sources.student, student.config)
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
    picture = partial(draw, teacher, {"evaluation": evaluation}, transform, args)
    return Task(teacher, student, processor, train, {"evaluation": evaluation}, picture)


def crop_and_flip(*processors: Any, smallest: float = 0.35) -> v2.Transform:
    """Random resized crops, of at least `smallest` of the image's area, and flips, at the larger processor's size."""
    sizes = [image_view(processor).size for processor in processors]
    size = [max(height for height, _ in sizes), max(width for _, width in sizes)]
    return v2.Compose([v2.RandomResizedCrop(size, scale=(smallest, 1.0)), v2.RandomHorizontalFlip()])


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
    teacher, student = from_config(setting.teacher, names), from_config(setting.student, names)
    announce(args, f"Seed {seed}: training the teacher")
    teacher = train_on_labels(
        teacher, training_arguments(args, seed=seed, **setting.teacher_training), splits["teacher_train"], processor
    )
    evaluations = {"in_distribution": splits["test_id"], "out_of_distribution": splits["test_ood"]}
    picture = partial(draw, teacher, evaluations, transform, args)
    named = {"train": "student_train", "in_distribution": "test_id", "out_of_distribution": "test_ood"}
    return Task(
        teacher,
        student,
        processor,
        splits["student_train"],
        evaluations,
        picture,
        teacher_is_new=True,
        # The scans are the UCI repository's.
        data=generated("digits_on_textures", {"seed": seed, **setting.data}, named, license="cc-by-4.0"),
    )


def draw(
    teacher_model: nn.Module,
    evaluations: Mapping[str, Dataset],
    transform: DistillationTransform,
    args: ExplanationDistillArguments,
    students: Mapping[str, nn.Module],
    count: int,
    folder: Path,
) -> None:
    """Saves explanations.png: where the teacher and the students look, on the first samples of the last evaluation."""
    explainer = explainer_of(args)
    device = args.device
    data = list(evaluations.values())[-1]
    samples = [data[index] for index in range(min(count, len(data)))]
    pixel_values = torch.stack([sample["pixel_values"] for sample in samples]).to(device)
    shown_to_teacher = torch.stack([sample.get("teacher_pixel_values", sample["pixel_values"]) for sample in samples])
    any_student = next(iter(students.values()))
    labels = align_labels(teacher_model, any_student)
    teacher = explainer(
        teacher_model.eval(),
        {"pixel_values": shown_to_teacher.to(device)},
        lambda logits: labels.to_teacher(labels.teacher_logits(logits).argmax(1)),
    )
    target = labels.to_student(labels.teacher_logits(teacher.logits).argmax(1))
    names = class_names(any_student) or [str(index) for index in range(any_student.config.num_labels)]
    maps = {"Teacher": teacher.maps}
    predictions = {"Teacher": [names[index] for index in target.tolist()]}
    similarities = {}
    for arm, student in students.items():
        explained = explainer(student.eval(), {"pixel_values": pixel_values}, target)
        heading = f"{arm} student"
        maps[heading] = explained.maps
        predictions[heading] = [names[index] for index in explained.logits.argmax(1).tolist()]
        similarities[heading] = explanation_similarity(explained.maps, teacher.maps)[0]
    truths = [names[sample["labels"]] for sample in samples] if all("labels" in s for s in samples) else None
    images = transform.student.intensities(pixel_values).clamp(0, 1)
    explanation_panel(
        images,
        maps,
        labels=truths,
        predictions=predictions,
        similarities=similarities,
        path=folder / "explanations.png",
    )


def from_config(config: PreTrainedConfig, names: list[str]) -> nn.Module:
    """A classifier of these classes with random weights."""
    config = copy.deepcopy(config)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    return AutoModelForImageClassification.from_config(config)
