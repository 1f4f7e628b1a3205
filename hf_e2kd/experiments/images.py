"""Distillation of image classifiers: by Hub id or folder, or on the embedded digits."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import nn
from torchvision.transforms import v2
from transformers import AutoModelForImageClassification, PreTrainedConfig, ViTImageProcessor

from ..alignment.captions import named_labels, predicted_names
from ..alignment.inputs import image_view
from ..alignment.labels import align_labels, class_names, is_multi_label
from ..callbacks.panels import CHOOSE_FROM
from ..cards.choice import at_quantiles, gain, rule
from ..cards.plots import explanation_panel
from ..data.digits import digits_on_textures
from ..data.images import label_names, load_images, sample_names
from ..data.labels import encode_labels, encode_new_labels, refuse_partly_labelled
from ..data.transforms import DistillationTransform
from ..explainers import Explainer
from ..metrics import explanation_similarity
from ..references.teacher import without_foreign_layer
from ..trainer.arguments import ExplanationDistillArguments
from .distillation import Distillation, announce, explainer_of, replace_arguments, train_on_labels, use_one_thread
from .experiment import Experiment
from .fitted_head import HEADS, fit_head
from .models import create_student, label_settings, load_teacher, require_size, set_labels
from .processors import load_processor, processor_like
from .student_card import generated_data

TEACHER = "Teacher"
PICTURE_BATCH = 16


@dataclass
class ImageSources:
    """Models and data; without teacher, student and data set the embedded default."""

    teacher: str | None = field(default=None, metadata={"help": "Hub id or folder of the teacher."})
    student: str | None = field(
        default=None,
        metadata={"help": "Hub id or folder of the student; for a random start also timm/NAME or .json."},
    )
    dataset: str | None = field(
        default=None,
        metadata={"help": "Hub id, folder saved by `datasets`, folder of images, or file that lists them."},
    )
    dataset_config: str | None = field(default=None, metadata={"help": "The data set's configuration on the Hub."})
    teacher_revision: str | None = field(default=None, metadata={"help": "The teacher's revision on the Hub."})
    student_revision: str | None = field(default=None, metadata={"help": "The student's revision on the Hub."})
    student_init: str = field(
        default="pretrained",
        metadata={"help": "Keep the student's weights, or start anew.", "choices": ["pretrained", "random"]},
    )
    teacher_head: str = field(default="own", metadata={"help": HEADS, "choices": ["own", "fit"]})
    finetune_teacher: bool = field(default=False, metadata={"help": "Train the teacher on the data's labels first."})
    teacher_epochs: float = field(
        default=3.0, metadata={"help": "Epochs of that training, unless --max_steps ends all trainings."}
    )
    teacher_learning_rate: float = field(default=5e-5, metadata={"help": "Learning rate of that training."})
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
class ImageExperiment(Experiment):
    """Image classifiers. Without a download: models by configuration, trained on the embedded digits.

    Args:
        teacher, student: Configurations; the classes' names are filled in.
        data: Arguments of `digits_on_textures`.
        teacher_training, student_training: Training arguments of either.
        input_size: Side in pixels at which the models are shown the images; None leaves them as they are.
    """

    teacher: PreTrainedConfig
    student: PreTrainedConfig
    data: Mapping[str, Any]
    teacher_training: Mapping[str, Any]
    student_training: Mapping[str, Any]
    input_size: int | None = None

    sources: ClassVar[type] = ImageSources
    required: ClassVar[tuple[str, ...]] = ("teacher", "student", "dataset")
    pretrained_training: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 1e-4,
        "warmup_steps": 0.05,
        "num_train_epochs": 10,
        "weight_decay": 0.05,
    }

    def load(self, sources: ImageSources, args: ExplanationDistillArguments, seed: int) -> Distillation:
        """Load or make one seed's models and data."""
        return load_image_sources(sources, args, seed) if sources.dataset else train_on_digits(self, args, seed)


def load_image_sources(sources: ImageSources, args: ExplanationDistillArguments, seed: int) -> Distillation:
    """Load teacher, student and data by Hub id or folder."""
    assert sources.teacher and sources.student and sources.dataset
    train, evaluation = load_images(
        sources.dataset,
        sources.train_split,
        sources.eval_split,
        sources.image_column,
        seed=seed,
        skip_undecodable=sources.skip_undecodable,
        config=sources.dataset_config,
    )
    refuse_partly_labelled([train, evaluation], sources.label_column)
    teacher_train = None
    if sources.finetune_teacher:
        train, evaluation = encode_new_labels([train, evaluation], sources.label_column)
        teacher, teacher_processor, teacher_train = finetune(sources, args, train, seed)
    elif sources.teacher_head == "fit":
        train, evaluation = encode_new_labels([train, evaluation], sources.label_column)
        announce(args, f"Seed {seed}: fitting the teacher's head to the labels")
        teacher, teacher_processor = fit_head(
            sources.teacher,
            train,
            column=sources.image_column,
            label_column=sources.label_column,
            device=args.device,
            progress=args.process_index == 0 and not args.disable_tqdm,
            revision=sources.teacher_revision,
        )
    else:
        teacher, teacher_processor = load_teacher(sources.teacher, sources.teacher_revision)
    train, evaluation = (
        encode_labels(data, sources.label_column, class_names(teacher)) for data in (train, evaluation)
    )
    names = label_names(train, sources.label_column)
    student = create_student(sources.student, sources.student_init, names, teacher, sources.student_revision)
    # A student that starts anew has no processor of its own: it sees what the teacher sees.
    if sources.student_init == "random":
        processor = processor_like(image_view(teacher_processor), student)
        require_size(student, sources.student, image_view(processor).size)
    else:
        processor = load_processor(sources.student, student.config, revision=sources.student_revision)
    transform, training_transform = (
        DistillationTransform(
            processor,
            teacher_processor,
            augmentation=augmentation,
            image_column=sources.image_column,
            label_column=sources.label_column,
            classes=student.config.num_labels if is_multi_label(student) else None,
        )
        for augmentation in (None, crop_and_flip(processor, teacher_processor) if sources.augment else None)
    )
    train.set_transform(training_transform)
    evaluation.set_transform(transform)
    picture = explanation_picture(teacher, evaluation, transform, args)
    return Distillation(
        teacher,
        student,
        processor,
        train,
        {"evaluation": evaluation},
        picture,
        teacher_is_new=sources.finetune_teacher or sources.teacher_head == "fit",
        teacher_processor=teacher_processor,
        teacher_train=teacher_train,
    )


def finetune(
    sources: ImageSources, args: ExplanationDistillArguments, train: Dataset, seed: int
) -> tuple[nn.Module, Any, Dataset]:
    """Train the teacher, with a new classifier, on the data's labels.

    Returns:
        The teacher, its image processor, and the training data as it is shown to the teacher.

    Raises:
        ValueError: the labels have no names, or a head shall be fitted too.
    """
    assert sources.teacher
    if sources.teacher_head == "fit":
        raise ValueError("--finetune_teacher trains the teacher with its head; leave --teacher_head fit out, or this.")
    names = label_names(train, sources.label_column)
    if names is None:
        raise ValueError(
            f"A teacher is fine-tuned on classes with names, and the column '{sources.label_column}' has none. "
            f"Columns: {', '.join(train.column_names)}. Name another by --label_column, or encode it: "
            f"dataset.class_encode_column('{sources.label_column}')."
        )
    teacher = create_student(sources.teacher, "pretrained", names, revision=sources.teacher_revision)
    processor = load_processor(sources.teacher, teacher.config, revision=sources.teacher_revision)
    shown = train.with_transform(
        DistillationTransform(
            processor,
            augmentation=crop_and_flip(processor) if sources.augment else None,
            image_column=sources.image_column,
            label_column=sources.label_column,
        )
    )
    announce(args, f"Seed {seed}: fine-tuning the teacher")
    training = {
        "seed": seed,
        "num_train_epochs": sources.teacher_epochs,
        "learning_rate": sources.teacher_learning_rate,
    }
    return train_on_labels(teacher, replace_arguments(args, **training), shown, processor), processor, shown


def crop_and_flip(*processors: Any, smallest: float = 0.35) -> v2.Transform:
    """Crop and flip images at random, at the size of the larger of the processors' views.

    Args:
        processors: Image processors.
        smallest: Least fraction of the image's area that a crop keeps.
    """
    sizes = [image_view(processor).size for processor in processors]
    size = [max(height for height, _ in sizes), max(width for _, width in sizes)]
    return v2.Compose([v2.RandomResizedCrop(size, scale=(smallest, 1.0)), v2.RandomHorizontalFlip()])


def train_on_digits(experiment: ImageExperiment, args: ExplanationDistillArguments, seed: int) -> Distillation:
    """Compose a seed's data and train its teacher, on backgrounds that say nothing of the class."""
    use_one_thread()
    arguments = {"seed": seed, **experiment.data}
    splits = digits_on_textures(**arguments)
    side = experiment.input_size or splits["student_train"][0]["image"].width
    processor = ViTImageProcessor(
        size={"height": side, "width": side}, image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5]
    )
    transform = DistillationTransform(processor)
    names = label_names(splits["student_train"])
    assert names is not None
    for split in splits.values():
        split.set_transform(transform)
    teacher, student = classifier_of(experiment.teacher, names), classifier_of(experiment.student, names)
    announce(args, f"Seed {seed}: training the teacher")
    teacher = train_on_labels(
        teacher, replace_arguments(args, seed=seed, **experiment.teacher_training), splits["teacher_train"], processor
    )
    evaluations = {"in_distribution": splits["test_id"], "out_of_distribution": splits["test_ood"]}
    named = {"train": "student_train", "in_distribution": "test_id", "out_of_distribution": "test_ood"}
    return Distillation(
        teacher,
        student,
        processor,
        splits["student_train"],
        evaluations,
        explanation_picture(teacher, splits["test_ood"], transform, args),
        teacher_is_new=True,
        # The scans are the UCI repository's.
        data={
            name: generated_data("digits_on_textures", arguments, "cc-by-4.0", split) for name, split in named.items()
        },
    )


def classifier_of(config: PreTrainedConfig, names: list[str]) -> nn.Module:
    """Make a classifier of the classes `names` with random weights."""
    config = copy.deepcopy(config)
    set_labels(config, label_settings(names, len(names)))
    return AutoModelForImageClassification.from_config(config)


def explanation_picture(
    teacher: nn.Module, data: Dataset, transform: DistillationTransform, args: ExplanationDistillArguments
) -> Callable[[Mapping[str, nn.Module], int, Path], None]:
    """Make the function `picture` of a `Distillation`, which draws `explanations.png` by `draw_explanations`."""

    def picture(students: Mapping[str, nn.Module], count: int, folder: Path) -> None:
        path = folder / "explanations.png"
        draw_explanations(teacher, students, data, transform, explainer_of(args), count, path)

    return picture


def draw_explanations(
    teacher: nn.Module,
    students: Mapping[str, nn.Module],
    data: Dataset,
    transform: DistillationTransform,
    explainer: Explainer,
    count: int,
    path: Path,
) -> None:
    """Draw where teacher and students look, for the teacher's top class.

    Of the first 64 samples those at evenly spaced quantiles of the last student's gain in similarity over the first
    student are drawn, or of its similarity if there is no other.

    Args:
        teacher: Classifier.
        students: Classifiers by name, on the same device.
        data: Images as `transform` gives them.
        transform: Transform of the data, which undoes the student's normalisation.
        explainer: Explainer of all of them; its `target_layer` is the students', and the teacher's where it has it.
        count: Number of samples.
        path: File of the picture.
    """
    samples = [data[row] for row in range(min(CHOOSE_FROM, len(data)))]
    batches = [
        _explained(teacher, students, samples[start : start + PICTURE_BATCH], explainer)
        for start in range(0, len(samples), PICTURE_BATCH)
    ]
    found = {heading: _joined([batch[heading] for batch in batches]) for heading in batches[0]}
    similarities = {heading: each.similarities for heading, each in found.items() if heading != TEACHER}
    value, values = gain(similarities)
    chosen = at_quantiles(values, count)
    any_student = next(iter(students.values()))
    names = class_names(any_student) or [str(index) for index in range(any_student.config.num_labels)]
    shown = [samples[row] for row in chosen]
    explanation_panel(
        transform.student.intensities(torch.stack([sample["pixel_values"] for sample in shown])).clamp(0, 1),
        {heading: each.maps[chosen] for heading, each in found.items()},
        labels=named_labels([sample["labels"] for sample in shown], data, any_student, transform.columns[1])
        if all("labels" in sample for sample in shown)
        else None,
        explained=[names[index] for index in found[TEACHER].target[chosen].tolist()],
        names=sample_names(data, chosen),
        predictions={heading: [each.predictions[row] for row in chosen] for heading, each in found.items()},
        similarities={heading: each[chosen] for heading, each in similarities.items()},
        reference=TEACHER,
        difference=list(similarities)[-1],
        note=rule(len(chosen), len(samples), value),
        path=path,
    )


@dataclass
class _Explained:
    """Maps of one model.

    Args:
        maps: Maps (N, h, w).
        target: Classes (N,) of the student that they explain.
        predictions: Names (N) of the classes that the model predicts.
        similarities: Similarities (N,) to the teacher's maps.
    """

    maps: torch.Tensor
    target: torch.Tensor
    predictions: list[str]
    similarities: torch.Tensor


def _explained(
    teacher: nn.Module, students: Mapping[str, nn.Module], samples: list[dict[str, Any]], explainer: Explainer
) -> dict[str, _Explained]:
    """Explain samples by teacher and students, for the teacher's top class, by heading."""
    any_student = next(iter(students.values()))
    device = next(any_student.parameters()).device
    pixel_values = torch.stack([sample["pixel_values"] for sample in samples]).to(device)
    shown_to_teacher = torch.stack([sample.get("teacher_pixel_values", sample["pixel_values"]) for sample in samples])
    labels = align_labels(teacher, any_student)
    taught = without_foreign_layer(explainer, teacher)(
        teacher.eval(),
        {"pixel_values": shown_to_teacher.to(device)},
        lambda logits: labels.to_teacher(labels.teacher_logits(logits).argmax(1)),
    )
    shared = labels.teacher_logits(taught.logits)
    target = labels.to_student(shared.argmax(1))
    size = (pixel_values.shape[-2], pixel_values.shape[-1])
    predicted = predicted_names(shared, any_student, labels.student.tolist())
    found = {TEACHER: _Explained(taught.maps.cpu(), target.cpu(), predicted, torch.ones(len(samples)))}
    for variant, student in students.items():
        own = explainer(student.eval(), {"pixel_values": pixel_values}, target)
        similarities = explanation_similarity(own.maps, taught.maps, size)[0]
        predicted = predicted_names(own.logits, student)
        found[f"{variant} student"] = _Explained(own.maps.cpu(), target.cpu(), predicted, similarities.cpu())
    return found


def _joined(parts: list[_Explained]) -> _Explained:
    maps, target, similarities = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("maps", "target", "similarities")
    )
    return _Explained(maps, target, [name for part in parts for name in part.predictions], similarities)
