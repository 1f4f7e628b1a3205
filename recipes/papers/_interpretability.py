"""Students whose interpretability is compared (Han et al., ICML 2023): options, models and trainings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _arms import METHODS, SETTINGS, Arm, arm_arguments, parse_arm, teacher_source, teacher_sources
from _common import channels_last, parse_recipe
from datasets import Dataset
from torch import Tensor, nn
from transformers import ResNetConfig, ViTImageProcessor, set_seed

from hf_e2kd.architectures import call_model
from hf_e2kd.architectures.base import evaluating
from hf_e2kd.architectures.sharding import whole
from hf_e2kd.data import DistillationTransform
from hf_e2kd.data.images import label_names
from hf_e2kd.experiments import create_student
from hf_e2kd.experiments.distillation import announce, replace_arguments, train_on_labels
from hf_e2kd.experiments.images import classifier_of, crop_and_flip
from hf_e2kd.experiments.models import is_architecture, load_teacher
from hf_e2kd.trainer import ExplanationDistillTrainer
from hf_e2kd.trainer.arguments import ExplanationDistillArguments

TINY = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
"""Network of a trial run."""

STUDENTS = f"{', '.join(METHODS)}; or NAME:setting=value,… with {', '.join(SETTINGS)} of its own."
"""Help of the option --students."""


@dataclass
class StudyOptions:
    """Options of the compared students."""

    students: list[str] = field(
        default_factory=lambda: ["scratch", "KD"],
        metadata={"help": STUDENTS},
    )
    teacher: str = field(
        default="timm/resnet34",
        metadata={
            "help": "The teacher: a network that is trained first (timm/NAME or .json), or a trained one by Hub id or "
            "folder, which is shown images by its own processor."
        },
    )
    student: str = field(default="timm/resnet18", metadata={"help": "Network of the students: timm/NAME or .json."})
    alpha: float = field(default=0.5, metadata={"help": "α where logits teach: (1 − α)·labels + α·T²·logits (Eq. 1)."})
    smoothing: float = field(default=0.1, metadata={"help": "Share of each label that LS spreads over all classes."})
    teacher_smoothing: float = field(
        default=0.0, metadata={"help": "The same of a teacher that is trained here; of self-KD's too."}
    )
    augment: bool = field(default=False, metadata={"help": "Crop and flip the training images at random."})
    smoke: bool = field(default=False, metadata={"help": "Try everything out in seconds: tiny networks, few images."})

    def __post_init__(self) -> None:
        for name in ("alpha", "smoothing", "teacher_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name} must lie between 0 and 1, not {getattr(self, name)}.")
        _ = self.arms

    @property
    def arms(self) -> list[Arm]:
        """The students' trainings.

        Raises:
            ValueError: there is none, one twice, or one that can't be read.
        """
        if not self.students or len(set(self.students)) < len(self.students):
            raise ValueError(f"--students are one or more, each once, not {self.students}.")
        return [parse_arm(text) for text in self.students]

    @property
    def teachers(self) -> list[str]:
        """The networks that teach, each once."""
        return teacher_sources(self.arms, self)


def parse_study(options: type, name: str, description: str, **training: Any) -> tuple[Any, ExplanationDistillArguments]:
    """Read a study's command line.

    Args:
        options: Data class of its options, a `StudyOptions`.
        name: Name of the recipe; results go to `outputs/NAME` unless said otherwise.
        description: Text of `--help`.
        training: Training arguments where the command line says nothing else.
    """

    def refuse_resume(args: ExplanationDistillArguments) -> None:
        if args.resume_from_checkpoint is not None:
            raise ValueError("many models are trained one after the other, and none of them is resumed: start anew.")

    chosen, args = parse_recipe(options, name, description, refuse_resume, remove_unused_columns=False, **training)
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    return chosen, args


def square_processor(side: int, **settings: Any) -> ViTImageProcessor:
    """Make the image processor of networks that are trained here, with further settings."""
    size = {"height": side, "width": side}
    return ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3, **settings)


def as_inputs(dataset: Dataset, processor: Any, teacher_processor: Any = None, augment: bool = False) -> Dataset:
    """The data set as the networks take it.

    Args:
        processor, teacher_processor: Image processors of the students and, where it has its own, of the teacher.
        augment: Crop and flip the images at random.
    """
    shown_to = [each for each in (processor, teacher_processor) if each is not None]
    augmentation = crop_and_flip(*shown_to) if augment else None
    return dataset.with_transform(DistillationTransform(processor, teacher_processor, augmentation))


def new_network(source: str, dataset: Dataset, smoke: bool) -> nn.Module:
    """Make a network with random weights for the classes of a data set."""
    names = label_names(dataset)
    assert names is not None
    return channels_last(classifier_of(TINY, names) if smoke else create_student(source, "random", names))


@dataclass
class Teacher:
    """A trained teacher, with its image processor."""

    model: nn.Module
    processor: Any


def find_teacher(
    source: str, options: StudyOptions, args: ExplanationDistillArguments, train: Dataset, processor: Any
) -> Teacher:
    """Train a teacher on the labels, as long as a student, or load a trained one.

    Args:
        source: The teacher as `--teacher` names it.
        train: Training data.
        processor: Image processor of the networks that are trained here.
    """
    if not options.smoke and not is_architecture(source):
        return Teacher(*load_teacher(source))
    announce(args, f"Seed {args.seed}: training the teacher {source}")
    # By another seed than the students', whose weights it would otherwise start from where both are one network.
    args = replace_arguments(args, seed=args.seed + 1000, label_smoothing_factor=options.teacher_smoothing)
    set_seed(args.seed)
    shown = as_inputs(train, processor, augment=options.augment)
    return Teacher(train_on_labels(new_network(source, train, options.smoke), args, shown, processor), processor)


def find_teachers(
    options: StudyOptions, args: ExplanationDistillArguments, train: Dataset, processor: Any
) -> dict[str, Teacher]:
    """Train or load all teachers of the students, by their sources."""
    return {source: find_teacher(source, options, args, train, processor) for source in options.teachers}


def train_one(
    arm: Arm,
    teacher: Teacher | None,
    options: StudyOptions,
    args: ExplanationDistillArguments,
    train: Dataset,
    processor: Any,
) -> nn.Module:
    """Train a student, all of one network from the same weights.

    Args:
        arm: Its training.
        teacher: Its teacher; None for those without one.
        train: Training data.
        processor: The students' image processor.
    """
    announce(args, f"Seed {args.seed}: training the student {arm.label} ({arm.method.about})")
    set_seed(args.seed)
    network = new_network(arm.setting("student", options), train, options.smoke)
    teacher_processor = None if teacher is None else teacher.processor
    shown = as_inputs(train, processor, teacher_processor, options.augment)
    changes = arm_arguments(arm, options, args, network, None if teacher is None else teacher.model)
    if teacher is None:
        return train_on_labels(network, replace_arguments(args, **changes), shown, processor)
    trainer = ExplanationDistillTrainer(
        network,
        replace_arguments(args, **changes),
        train_dataset=shown,
        processing_class=processor,
        teacher_model=teacher.model,
        teacher_processing_class=teacher.processor,
    )
    trainer.train()
    return whole(trainer.student)


def teacher_label(source: str, options: StudyOptions) -> str:
    """Name a teacher in tables: by its network too, where there are several."""
    name = Path(source).stem if source.endswith(".json") else source
    return "teacher" if len(options.teachers) == 1 else f"teacher {name}"


def teacher_of(arm: Arm, options: StudyOptions, teachers: Mapping[str, Teacher]) -> Teacher | None:
    """Choose an arm's teacher."""
    source = teacher_source(arm, options)
    return None if source is None else teachers[source]


@torch.no_grad()
def outputs(model: nn.Module, data: Dataset, batch_size: int) -> tuple[Tensor, Tensor]:
    """Compute the logits (N, classes) and labels (N,) of all samples of a data set as the model takes it."""
    device = next(model.parameters()).device
    logits, labels = [], []
    with evaluating(model):
        for first in range(0, len(data), batch_size):
            batch = data[first : first + batch_size]
            logits.append(call_model(model, {"pixel_values": torch.stack(batch["pixel_values"]).to(device)}).cpu())
            labels += batch["labels"]
    return torch.cat(logits), torch.tensor(labels)
