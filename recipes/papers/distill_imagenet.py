# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Distil on ImageNet, or on 50 or 200 of its images a class: KD beside e²KD, from a teacher at hand or stored.

--preset chooses the pair and its training arguments, each of which can be given otherwise. The batch size is that of
one process: the paper's 256 on all images are four of them. With --frozen the teacher's logits and explanations are
computed once for each image, and crops and flips move them with it.

    accelerate launch recipes/papers/distill_imagenet.py --dataset imagenet --shots 50
    accelerate launch recipes/papers/distill_imagenet.py --dataset imagenet --preset bcos-densenet169-resnet18 \\
        --frozen --teacher_weights densenet_169-7037ee0604.pth
    accelerate launch recipes/papers/distill_imagenet.py --smoke --preset bcos-densenet169-vitti --frozen
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _common import (
    BCOS_TRAINING,
    SMOKE_SIDE,
    SMOKE_TRAINING,
    STANDARD_TRAINING,
    PaperExperiment,
    PaperSources,
    chosen_first,
    load_published,
    smoke_bcos,
    smoke_folder,
    smoke_processor,
)
from _generated import write_imagenet
from _splits import choose_per_class, hold_out
from datasets import Dataset
from torch import nn
from torchvision.transforms import v2
from transformers import ResNetConfig, ResNetForImageClassification

from hf_e2kd.alignment.inputs import image_view
from hf_e2kd.callbacks import AdaptiveClipping
from hf_e2kd.data import DistillationTransform, load_imagenet
from hf_e2kd.data.images import label_names
from hf_e2kd.experiments import Distillation, run_experiment, run_recipe
from hf_e2kd.experiments.distillation import explainer_of
from hf_e2kd.experiments.images import crop_and_flip, explanation_picture
from hf_e2kd.experiments.models import create_student, label_settings
from hf_e2kd.experiments.processors import processor_like
from hf_e2kd.models import BcosViTConfig, BcosViTForImageClassification
from hf_e2kd.store import StoredReference
from hf_e2kd.trainer.arguments import ExplanationDistillArguments

SEED = 42
"""Seed of the shots and of the images held out, whatever the training's seed."""

SMALLEST_CROP = 0.08
"""Least fraction of an image that a random crop keeps."""


@dataclass(frozen=True)
class Preset:
    """A pair of the paper.

    Args:
        teacher: Teacher if the command line names none.
        student: Student, as `hf_e2kd.experiments.models.create_student` takes it.
        training: Training arguments.
        epochs: Number of epochs on all images.
        warmup: Warm-up in epochs below 1000, otherwise in steps.
        rand_augment: Magnitude of RandAugment with a live teacher; 0 for none.
    """

    teacher: str
    student: str
    training: Mapping[str, Any]
    epochs: int = 200
    warmup: int = 5
    rand_augment: int = 0


PRESETS = {
    "resnet34-resnet18": Preset("timm/resnet34.tv_in1k", "timm/resnet18", STANDARD_TRAINING),
    "bcos-resnet34-resnet18": Preset("bcos/resnet34", "bcos/resnet18", BCOS_TRAINING),
    "bcos-densenet169-resnet18": Preset("bcos/densenet169", "bcos/resnet18", BCOS_TRAINING),
    "bcos-densenet169-vitti": Preset(
        "bcos/densenet169", "bcos/simple_vit_ti_patch16_224", BCOS_TRAINING, 150, 10_000, 10
    ),
}

FEW_SHOTS = {"50": (250, 32), "200": (125, 64)}
"""Epochs and batch size by shots."""


@dataclass
class ImageNetSources(PaperSources):
    """Options of the data, the pair, the shots and the stored explanations."""

    dataset: str | None = field(
        default=None, metadata={"help": "ImageNet's folder: train and, to measure on, val, with one folder a class."}
    )
    preset: str = field(
        default="resnet34-resnet18",
        metadata={"help": "Teacher and student, with the paper's training arguments.", "choices": list(PRESETS)},
    )
    student: str | None = field(default=None, metadata={"help": "Another student than the preset's, started anew."})
    shots: str = field(default="none", metadata={"help": "Images a class to train on: 50, 200, ...; none takes all."})
    held_out: int = field(default=50, metadata={"help": "Images a class of train that are held out to validate on."})
    frozen: bool = field(
        default=False, metadata={"help": "Learn from stored explanations, which the first run computes."}
    )
    store: str | None = field(default=None, metadata={"help": "Folder of the stored explanations; OUTPUT_DIR/store."})
    store_vectors: bool = field(
        default=True,
        metadata={
            "help": "Store B-cos networks' W(x), which the paper matches: 0.6 MB an image of 224 pixels; without, 0.1."
        },
    )

    def __post_init__(self) -> None:
        if self.teacher is None:
            self.teacher = PRESETS[self.preset].teacher
        super().__post_init__()
        if self.shots != "none" and not (self.shots.isdecimal() and int(self.shots) > 0):
            raise ValueError(f"--shots is '{self.shots}'. Give a number of images a class such as 50, or none.")


def imagenet_experiment() -> PaperExperiment:
    """Make the experiment of the preset and the shots that the command line names."""
    chosen = chosen_first(preset="resnet34-resnet18", shots="none", smoke=False)
    # An unknown name is refused where the whole command line is read.
    preset = PRESETS.get(chosen.preset, PRESETS["resnet34-resnet18"])
    epochs, batch = FEW_SHOTS.get(chosen.shots, (preset.epochs, 64))
    training = {
        **preset.training,
        "num_train_epochs": epochs,
        "per_device_train_batch_size": batch,
        # A share of the training below 1, steps from there.
        "warmup_steps": preset.warmup / epochs if preset.warmup < 1000 else preset.warmup,
        **(SMOKE_TRAINING if chosen.smoke else {}),
    }
    return PaperExperiment(ImageNetSources, training, load_imagenet_pair)


def load_imagenet_pair(sources: ImageNetSources, args: ExplanationDistillArguments, seed: int) -> Distillation:
    """Load the data and both models, and compute or load the stored explanations."""
    preset = PRESETS[sources.preset]
    if sources.smoke:
        sources.dataset = str(write_imagenet(smoke_folder(args)))
        sources.held_out, sources.shots = 1, "none" if sources.shots == "none" else "3"
    assert sources.dataset is not None and sources.teacher is not None
    train, evaluations = shot_splits(sources)
    names = label_names(train)
    assert names is not None
    if sources.smoke:
        teacher, student, teacher_processor = smoke_pair(sources.preset, names)
    else:
        teacher, teacher_processor = load_published(sources.teacher, sources.teacher_weights)
        student = create_student(sources.student or preset.student, "random", names, teacher)
    processor = processor_like(image_view(teacher_processor), student)
    is_bcos = hasattr(student, "add_inverse")
    transform = DistillationTransform(processor, teacher_processor)
    augmentation = [crop_and_flip(processor, teacher_processor, smallest=SMALLEST_CROP)]
    # What changes colours would change the explanation, and the stored one stays.
    if preset.rand_augment and not sources.frozen:
        augmentation.append(v2.RandAugment(magnitude=preset.rand_augment))
    training_transform = DistillationTransform(
        processor, teacher_processor, v2.Compose(augmentation), record_view=sources.frozen
    )
    shown = {name: data.with_transform(transform) for name, data in evaluations.items()}
    distillation = Distillation(
        teacher,
        student,
        processor,
        train.with_transform(training_transform),
        shown,
        explanation_picture(teacher, list(shown.values())[-1], transform, args),
        callbacks=[AdaptiveClipping()] if is_bcos else [],
    )
    if sources.frozen:
        store_explanations(distillation, train, evaluations, teacher_processor, sources, args)
    return distillation


def shot_splits(sources: ImageNetSources) -> tuple[Dataset, dict[str, Dataset]]:
    """Load the images to train on; those of train that are held out, and those of val where it is there."""
    assert sources.dataset is not None
    splits = load_imagenet(sources.dataset, skip_undecodable=sources.skip_undecodable)
    splits = splits.remove_columns(["boxes", "box_labels"])
    every = splits["train"]
    kept, held = hold_out(every["label"][:], sources.held_out, SEED)
    train = every.select(kept)
    if sources.shots != "none":
        train = train.select(choose_per_class(train["label"][:], int(sources.shots), SEED))
    evaluations = {"held_out": every.select(held)}
    if "validation" in splits:
        evaluations["validation"] = splits["validation"]
    return train, evaluations


def store_explanations(
    distillation: Distillation,
    train: Dataset,
    evaluations: Mapping[str, Dataset],
    teacher_processor: Any,
    sources: ImageNetSources,
    args: ExplanationDistillArguments,
) -> None:
    """Put the teacher's stored logits and maps in the teacher's place; a store that is there already is used.

    Args:
        distillation: Models and data, which are changed.
        train, evaluations: Images without a transform.
        teacher_processor: Image processor of the teacher.
        sources: Options.
        args: Training arguments.
    """
    folder = Path(sources.store or Path(args.output_dir) / "store")
    explainer = explainer_of(args)
    stored = {}
    for name, data in {"train": train, **evaluations}.items():
        stored[name] = StoredReference.build(
            distillation.teacher,
            data,
            folder / name,
            explainer=explainer,
            target=args.explanation_target,
            processing_class=teacher_processor,
            id_column="id",
            vectors=sources.store_vectors and explainer.name == "bcos",
            batch_size=args.per_device_eval_batch_size,
            num_workers=args.dataloader_num_workers,
            progress=not args.disable_tqdm,
        )
    reference = stored["train"]
    distillation.references = {"teacher": reference}
    distillation.train = reference.attach(distillation.train)
    distillation.evaluations = {
        name: reference.attach(data, folder=folder / name) for name, data in distillation.evaluations.items()
    }


def smoke_pair(preset: str, names: list[str]) -> tuple[nn.Module, nn.Module, Any]:
    """Make tiny models of a preset's kinds, and their image processor."""
    labels = label_settings(names, len(names))
    if not preset.startswith("bcos"):
        teacher, student = (
            ResNetForImageClassification(
                ResNetConfig(embedding_size=8, hidden_sizes=widths, depths=[1, 1], layer_type="basic", **labels)
            )
            for widths in ([8, 16], [8, 8])
        )
        return teacher, student, smoke_processor(is_bcos=False)
    teacher = smoke_bcos(names, dense="densenet" in preset)
    if preset.endswith("vitti"):
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        config = BcosViTConfig(image_size=SMOKE_SIDE, patch_size=8, **sizes, **labels)
        return teacher, BcosViTForImageClassification(config), smoke_processor(is_bcos=True)
    return teacher, smoke_bcos(names), smoke_processor(is_bcos=True)


if __name__ == "__main__":
    run_recipe(run_experiment, imagenet_experiment(), "distill_imagenet", __doc__)
