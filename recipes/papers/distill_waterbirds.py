# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Distil a guided ResNet-50 on Waterbirds-100, where the background gives the bird away: KD beside e²KD.

In training each bird is before its own background; the test asks for birds before the other one too. Figures are given
for each group, in distribution (groups 0 and 3), out of distribution (1 and 2) and for the worst group. Without
--teacher, one is trained by masks (--segmentations) or boxes (--cub), and saved for the next run.

    accelerate launch recipes/papers/distill_waterbirds.py --dataset waterbird_1.0_forest2water2 \\
        --segmentations segmentations
    accelerate launch recipes/papers/distill_waterbirds.py --dataset waterbird_1.0_forest2water2 --regime patient \\
        --teacher outputs/distill_waterbirds/teacher --student shufflenet --output_dir outputs/waterbirds_shufflenet
    accelerate launch recipes/papers/distill_waterbirds.py --smoke
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from _common import (
    SMOKE_TRAINING,
    STANDARD_TRAINING,
    PaperExperiment,
    PaperSources,
    chosen_first,
    load_published,
    smoke_folder,
    smoke_processor,
)
from _generated import write_waterbirds
from datasets import Dataset
from torch import nn
from torchvision.transforms import v2
from transformers import ResNetConfig, ResNetForImageClassification

from hf_e2kd.alignment.inputs import image_view
from hf_e2kd.data import AnnotatedCollator, DistillationTransform, MixingCollator, load_waterbirds
from hf_e2kd.data.waterbirds import CLASSES, IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, PLACES, select_groups
from hf_e2kd.experiments import Distillation, run_experiment, run_recipe
from hf_e2kd.experiments.distillation import announce, replace_arguments, train_on_labels
from hf_e2kd.experiments.images import crop_and_flip, explanation_picture
from hf_e2kd.experiments.models import create_student, label_settings
from hf_e2kd.experiments.processors import load_processor, processor_like
from hf_e2kd.references import AnnotationReference
from hf_e2kd.terms import available_guidance_losses
from hf_e2kd.trainer.arguments import ExplanationDistillArguments

STUDENTS = {
    "resnet18": "timm/resnet18",
    "convnext": "timm/convnext_tiny",
    "efficientnet": "timm/efficientnetv2_s",
    "mobilenet": "timm/mobilenetv2_100",
    "shufflenet": "torchvision/shufflenet_v2_x0_5",
}
"""Students of e²KD's table."""

REGIMES = {"epochs": 700, "mixup": 700, "patient": 3500}
"""Number of epochs of each regime; the last two mix the images."""

GROUP_COLUMNS = ["label", "place"]
"""Columns whose values make the groups."""

GROUPS = tuple(f"{bird} × {place}" for bird in CLASSES for place in PLACES)
"""Names of the groups, by their number."""

SMALLEST_CROP = 0.7
"""Least fraction of an image that a random crop keeps."""


@dataclass
class WaterbirdsSources(PaperSources):
    """Options of the data, the teacher, the student and the regime."""

    dataset: str | None = field(
        default=None, metadata={"help": "Waterbirds' folder as WILDS unpacks it, with metadata.csv."}
    )
    teacher: str | None = field(
        default=None,
        metadata={"help": "Hub id or folder of a guided teacher; without it, one is trained by the masks or boxes."},
    )
    segmentations: str | None = field(default=None, metadata={"help": "Folder of the Caltech-UCSD Birds' masks."})
    cub: str | None = field(default=None, metadata={"help": "Folder CUB_200_2011, for the birds' boxes."})
    variant: str = field(
        default="100",
        metadata={
            "help": "In training, 100 or 95 %% of the birds are before their own background.",
            "choices": ["100", "95"],
        },
    )
    student: str = field(
        default="resnet18",
        metadata={"help": f"One of {', '.join(STUDENTS)}, or a Hub id, a folder, timm/NAME or a .json."},
    )
    student_init: str = field(
        default="random",
        metadata={
            "help": "Start anew, or keep the student's weights (of a Hub id or folder).",
            "choices": ["random", "pretrained"],
        },
    )
    regime: str = field(
        default="epochs",
        metadata={
            "help": "epochs: 700 of them; mixup: 700 on mixed images; patient: 3500 on mixed images.",
            "choices": list(REGIMES),
        },
    )
    mixup_alpha: float = field(
        default=1.0, metadata={"help": "Mixed images' shares are drawn from Beta(α, α); 1 draws them uniformly."}
    )
    teacher_base: str = field(
        default="timm/resnet50.tv_in1k", metadata={"help": "Hub id or folder from which a teacher is trained."}
    )
    teacher_epochs: float = field(default=50, metadata={"help": "Epochs of a teacher's training."})
    teacher_learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate of a teacher's training."})
    guidance_loss: str = field(
        default="energy", metadata={"help": "How a teacher is guided.", "choices": available_guidance_losses()}
    )
    guidance_weight: float = field(
        default=0.064, metadata={"help": "Weight of the guidance; the paper's 1e-3 times its batch of 64."}
    )

    required: ClassVar[tuple[str, ...]] = ("dataset",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.smoke or self.teacher or self.segmentations or self.cub):
            raise ValueError(
                "A teacher is guided by masks or boxes: give --segmentations or --cub, or --teacher for one that is "
                "trained already."
            )
        if not self.mixup_alpha > 0:
            raise ValueError(f"--mixup_alpha must be above 0, not {self.mixup_alpha}; --regime epochs mixes no images.")
        if not self.guidance_weight >= 0:
            raise ValueError(f"--guidance_weight must be at least 0, not {self.guidance_weight}.")


def waterbirds_experiment() -> PaperExperiment:
    """Make the experiment of the regime that the command line names."""
    chosen = chosen_first(regime="epochs", smoke=False)
    training = {
        **STANDARD_TRAINING,
        "group_column": GROUP_COLUMNS,
        "num_train_epochs": REGIMES.get(chosen.regime, REGIMES["epochs"]),
        "warmup_steps": 5 / REGIMES.get(chosen.regime, REGIMES["epochs"]),
        **(SMOKE_TRAINING if chosen.smoke else {}),
    }
    return PaperExperiment(WaterbirdsSources, training, load_waterbirds_pair)


def load_waterbirds_pair(sources: WaterbirdsSources, args: ExplanationDistillArguments, seed: int) -> Distillation:
    """Load the data and both models, and then train the teacher where none is given."""
    if sources.smoke:
        sources.dataset = str(write_waterbirds(smoke_folder(args)))
        sources.segmentations = str(smoke_folder(args) / "segmentations")
    assert sources.dataset is not None
    splits = load_waterbirds(
        sources.dataset,
        1.0 if sources.variant == "100" else None,
        segmentations=sources.segmentations,
        cub=sources.cub,
        skip_undecodable=sources.skip_undecodable,
    )
    # The box of an image's one bird is its object, whichever class is explained.
    splits = splits.remove_columns(["box_labels"] if sources.cub else ["boxes", "box_labels"])
    if sources.teacher is not None:
        teacher, teacher_processor = load_published(sources.teacher, sources.teacher_weights)
    elif sources.smoke:
        teacher, teacher_processor = _smoke_resnet([8, 16]), smoke_processor(is_bcos=False)
    else:
        teacher = _bird_classifier(sources.teacher_base, "pretrained")
        teacher_processor = load_processor(sources.teacher_base, teacher.config)
    if sources.smoke:
        student = _smoke_resnet([8, 8])
    else:
        student = _bird_classifier(STUDENTS.get(sources.student, sources.student), sources.student_init)
    processor = processor_like(image_view(teacher_processor), student)
    # The students are told no more than the labels; masks and boxes are for the measuring.
    annotations = {"mask", "boxes"} & set(splits["train"].column_names)
    train = splits["train"].remove_columns(sorted(annotations))
    augmentation = crop_and_flip(processor, teacher_processor, smallest=SMALLEST_CROP)
    train.set_transform(DistillationTransform(processor, teacher_processor, augmentation))
    transform = DistillationTransform(processor, teacher_processor)
    evaluations = {
        "in_distribution": select_groups(splits["test"], IN_DISTRIBUTION),
        "out_of_distribution": select_groups(splits["test"], OUT_OF_DISTRIBUTION),
        # The last, which is measured by group.
        "test": splits["test"],
    }
    for evaluation in evaluations.values():
        evaluation.set_transform(transform)
    collator: Any = AnnotatedCollator()
    if sources.regime != "epochs":
        collator = MixingCollator(v2.MixUp(alpha=sources.mixup_alpha, num_classes=len(CLASSES)), collator)
    if sources.teacher is None:
        announce(args, f"Seed {seed}: training the guided teacher")
        teacher = guided_teacher(teacher, teacher_processor, sources, args, seed, splits["train"])
    return Distillation(
        teacher,
        student,
        processor,
        train,
        evaluations,
        explanation_picture(teacher, evaluations["out_of_distribution"], transform, args),
        derive=worst_group,
        collator=collator,
        teacher_is_new=sources.teacher is None,
        teacher_processor=teacher_processor,
    )


def guided_teacher(
    model: nn.Module,
    processor: Any,
    sources: WaterbirdsSources,
    args: ExplanationDistillArguments,
    seed: int,
    train: Dataset,
) -> nn.Module:
    """Train a teacher on the labels and on where the bird is (Rao et al., ICCV 2023)."""
    training = {
        "num_train_epochs": sources.teacher_epochs,
        "learning_rate": sources.teacher_learning_rate,
        "seed": seed,
    }
    return train_on_labels(
        model,
        replace_arguments(args, **training),
        train.with_transform(DistillationTransform(processor)),
        processor,
        AnnotatedCollator(),
        {"annotation": AnnotationReference(sources.guidance_loss, explanation_weight=sources.guidance_weight)},
    )


def worst_group(figures: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Give the lowest of the groups' accuracies and of their agreements, which may be those of different groups.

    Example:
        >>> worst_group({name: {"accuracy": 0.5 + 0.1 * rank} for rank, name in enumerate(GROUPS)})
        {'worst_group': {'accuracy': 0.5}}
    """
    groups = [figures[name] for name in GROUPS]
    shared = [name for name in ("accuracy", "agreement") if all(name in group for group in groups)]
    return {"worst_group": {name: min(group[name] for group in groups) for name in shared}}


def _bird_classifier(source: str, init: str) -> nn.Module:
    """Make a classifier of the two birds, one of which an image shows, whatever its base was trained for."""
    model = create_student(source, init, list(CLASSES))
    model.config.problem_type = "single_label_classification"
    return model


def _smoke_resnet(widths: list[int]) -> nn.Module:
    sizes: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": widths, "depths": [1, 1], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(**sizes, **label_settings(list(CLASSES), len(CLASSES))))


if __name__ == "__main__":
    run_recipe(run_experiment, waterbirds_experiment(), "distill_waterbirds", __doc__)
