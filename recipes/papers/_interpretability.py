"""Students whose interpretability is compared (Han et al., ICML 2023): options, models and trainings."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _common import SMOKE_TRAINING, chosen_first
from datasets import Dataset
from torch import nn
from transformers import HfArgumentParser, ResNetConfig, ViTImageProcessor, set_seed

from hf_e2kd.architectures.sharding import whole
from hf_e2kd.data import DistillationTransform
from hf_e2kd.data.images import label_names
from hf_e2kd.experiments import create_student
from hf_e2kd.experiments.command_line import command_line
from hf_e2kd.experiments.distillation import NOTHING_SAVED, announce, replace_arguments, train_on_labels
from hf_e2kd.experiments.experiment import COMMON_TRAINING
from hf_e2kd.experiments.images import classifier_of
from hf_e2kd.trainer import ExplanationDistillTrainer
from hf_e2kd.trainer.arguments import ExplanationDistillArguments

STUDENTS = {
    "scratch": "trained on the labels",
    "LS": "trained on smoothed labels",
    "KD": "trained on the labels and the teacher's logits",
    "e2KD": "by the teacher's explanations too",
}

NAMES = {"e2KD": "e²KD"}
"""Names in tables and pictures, where they differ from those of the command line."""

TINY = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
"""Network of a trial run."""


@dataclass
class StudyOptions:
    """Options of the compared students."""

    students: list[str] = field(
        default_factory=lambda: ["scratch", "KD"], metadata={"help": f"Of {', '.join(STUDENTS)}, any number."}
    )
    teacher: str = field(
        default="timm/resnet34", metadata={"help": "Network of the teacher, trained first: timm/NAME or .json."}
    )
    student: str = field(default="timm/resnet18", metadata={"help": "Network of the students: timm/NAME or .json."})
    alpha: float = field(default=0.5, metadata={"help": "α of KD and e2KD: (1 − α)·labels + α·T²·logits (Eq. 1)."})
    smoothing: float = field(default=0.1, metadata={"help": "Share of each label that LS spreads over all classes."})
    smoke: bool = field(default=False, metadata={"help": "Try everything out in seconds: tiny networks, few images."})

    def __post_init__(self) -> None:
        unknown = sorted(set(self.students) - set(STUDENTS))
        if unknown or not self.students:
            raise ValueError(f"Unknown students {unknown}. Available: {', '.join(STUDENTS)}.")
        for name in ("alpha", "smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name} must lie between 0 and 1, not {getattr(self, name)}.")


def parse_study(options: type, name: str, description: str, **training: Any) -> tuple[Any, ExplanationDistillArguments]:
    """Read a study's command line.

    Args:
        options: Data class of its options, a `StudyOptions`.
        name: Name of the recipe; results go to `outputs/NAME` unless said otherwise.
        description: Text of `--help`.
        training: Training arguments where the command line says nothing else.
    """
    parser = HfArgumentParser((options, ExplanationDistillArguments), description=description)
    smoke = SMOKE_TRAINING if chosen_first(smoke=False).smoke else {}
    defaults = {**COMMON_TRAINING, "remove_unused_columns": False, **training, **smoke}
    parser.set_defaults(output_dir=f"outputs/{name}", **defaults)
    try:
        chosen, args = parser.parse_args_into_dataclasses(command_line(options, ExplanationDistillArguments))
    except ValueError as error:
        parser.error(str(error))
    if args.resume_from_checkpoint is not None:
        parser.error("many models are trained one after the other, and none of them is resumed: start anew.")
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    return chosen, replace_arguments(args, **NOTHING_SAVED)


def square_processor(side: int) -> ViTImageProcessor:
    """Make the image processor of networks that are trained here."""
    return ViTImageProcessor(size={"height": side, "width": side}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def as_inputs(dataset: Dataset, processor: Any) -> Dataset:
    """The data set as the networks take it."""
    return dataset.with_transform(DistillationTransform(processor))


def new_network(source: str, dataset: Dataset, smoke: bool) -> nn.Module:
    """Make a network with random weights for the classes of a data set."""
    names = label_names(dataset)
    assert names is not None
    return classifier_of(TINY, names) if smoke else create_student(source, "random", names)


def train_teacher(
    options: StudyOptions, args: ExplanationDistillArguments, train: Dataset, processor: Any
) -> nn.Module:
    """Train the teacher on the labels, as long as a student.

    By another seed than the students', from whose weights it would otherwise start where both are one kind of network.
    """
    announce(args, f"Seed {args.seed}: training the teacher")
    args = replace_arguments(args, seed=args.seed + 1000)
    set_seed(args.seed)
    return train_on_labels(new_network(options.teacher, train, options.smoke), args, train, processor)


def train_one(
    student: str,
    teacher: nn.Module | None,
    options: StudyOptions,
    args: ExplanationDistillArguments,
    train: Dataset,
    processor: Any,
) -> nn.Module:
    """Train a student, all from the same weights.

    Args:
        student: One of `STUDENTS`.
        teacher: Trained classifier; None for those without one.
        train: Training data as the networks take them.
        processor: Their image processor.
    """
    announce(args, f"Seed {args.seed}: training the student {student} ({STUDENTS[student]})")
    set_seed(args.seed)
    network = new_network(options.student, train, options.smoke)
    if student in ("scratch", "LS"):
        smoothing = options.smoothing if student == "LS" else 0.0
        return train_on_labels(network, replace_arguments(args, label_smoothing_factor=smoothing), train, processor)
    assert teacher is not None
    weights = {
        "task_weight": 1 - options.alpha,
        "logits_weight": options.alpha,
        "explanation_weight": args.explanation_weight if student == "e2KD" else 0.0,
    }
    trainer = ExplanationDistillTrainer(
        network,
        replace_arguments(args, **weights),
        train_dataset=train,
        processing_class=processor,
        teacher_model=teacher,
    )
    trainer.train()
    return whole(trainer.student)
