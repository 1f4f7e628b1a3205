"""Students of one teacher on few images a class: data, teacher, stored outputs, trainings, figures."""

import copy
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from _common import SMALLEST_CROP, channels_last, find_tiny_imagenet
from _interpretability import square_processor
from _limited_arms import Arm
from _splits import choose_per_class, hold_out
from datasets import Dataset, DatasetDict
from torch import nn
from torchvision.transforms import v2
from transformers import AutoModelForImageClassification, PreTrainedConfig, set_seed

from hf_e2kd.architectures.sharding import whole
from hf_e2kd.data import DistillationTransform, load_cifar10
from hf_e2kd.data.images import label_names
from hf_e2kd.experiments.distillation import explainer_of, replace_arguments, train_on_labels
from hf_e2kd.experiments.images import classifier_of, crop_and_flip
from hf_e2kd.experiments.models import create_student, load_teacher, load_weights
from hf_e2kd.experiments.results import measured_metrics
from hf_e2kd.fidelity import FidelityRecord, measure_fidelity
from hf_e2kd.models import SmallResNetConfig
from hf_e2kd.store import StoredReference
from hf_e2kd.trainer import ExplanationDistillTrainer
from hf_e2kd.trainer.arguments import ExplanationDistillArguments

SPLIT_SEED = 42
"""Seed of the images to train and to validate on, whatever the training's seed."""

FIGURES = {"accuracy": "accuracy", "agreement": "agreement", "explanation_similarity": "similarity"}
"""Figures of every student, with their headings."""

HELD_OUT = {"integrated_gradients": "Integrated Gradients", "occlusion": "occlusion"}
"""Explainers that no student was trained on, with the headings of their similarities."""

FAITHFULNESS = {"deletion": "deletion ↓", "insertion": "insertion"}
"""Figures of how far the student's GradCAM names what decides, with their headings."""


@dataclass(frozen=True)
class Setting:
    """Kind of the data.

    Args:
        student: Configuration of the students, or `timm/NAME` or the file of one.
        size: Side of the images that they are shown, in pixels.
        teacher_size: The same of the teacher.
        held_out: Images a class to validate on.
        training: Training arguments of the students.
        teacher: Configuration of a teacher that is trained on all images; None where one is given.
        teacher_training: Its training arguments.
    """

    student: PreTrainedConfig | str
    size: int
    teacher_size: int
    held_out: int
    training: dict[str, Any]
    teacher: PreTrainedConfig | None = None
    teacher_training: dict[str, Any] = field(default_factory=dict)


SETTINGS = {
    "cifar10": Setting(
        SmallResNetConfig(depths=(1, 1, 1), embedding_size=8),
        size=32,
        teacher_size=32,
        held_out=500,
        training={"num_train_epochs": 120, "learning_rate": 5e-3},
        teacher=SmallResNetConfig(depths=(1, 1, 1), embedding_size=16),
        teacher_training={"num_train_epochs": 10, "learning_rate": 5e-3},
    ),
    "tiny_imagenet": Setting(
        SmallResNetConfig(depths=(1, 1, 1, 1), embedding_size=32, stem_stride=2),
        size=64,
        teacher_size=160,
        held_out=25,
        training={"num_train_epochs": 30, "learning_rate": 3e-3},
    ),
}
"""Kinds of data, with the networks of a CPU."""


def load_splits(data: str, folder: str, shots: int) -> DatasetDict:
    """Load the images to train on, to validate on, to test on, and all that a teacher may be trained on.

    Args:
        data: "cifar10" or "tiny_imagenet".
        folder: Folder of its files.
        shots: Images a class to train on.
    """
    splits = {"cifar10": load_cifar10, "tiny_imagenet": find_tiny_imagenet}[data](folder)
    test = splits["test" if "test" in splits else "validation"]
    return divide(splits["train"], test, shots, SETTINGS[data].held_out)


def divide(every: Dataset, test: Dataset, shots: int, held_out: int) -> DatasetDict:
    """Divide the training images by class, always alike."""
    labels = np.asarray(every["label"][:])
    kept, held = hold_out(labels, held_out, SPLIT_SEED)
    chosen = kept[choose_per_class(labels[kept], shots, SPLIT_SEED)]
    rows = {"train": chosen, "validation": held, "all": kept}
    parts = {name: every.select(each) for name, each in rows.items()} | {"test": test}
    return DatasetDict({name: part.select_columns(["image", "label"]) for name, part in parts.items()})


class Study:
    """The students of one kind of data.

    Args:
        setting: Its networks and sizes.
        splits: Data sets `train`, `validation`, `test` and `all`.
        args: Training arguments; the seed comes with each student.
        folder: Folder of the teacher and of its stored outputs.
        teacher: Folder or Hub id of a trained teacher; None to train one.
        split: Split to measure on.
        crops: Train on random crops of the images, which are of any size, in the place of small shifts.
    """

    def __init__(
        self,
        setting: Setting,
        splits: DatasetDict,
        args: ExplanationDistillArguments,
        folder: Path,
        teacher: str | None,
        split: str,
        crops: bool = False,
    ):
        self.crops = crops
        self.setting, self.splits, self.args, self.folder = setting, splits, args, folder
        self.source, self.split = teacher, split
        self.processor = square_processor(setting.size)
        same = setting.teacher_size == setting.size  # the images are made once for both
        bicubic = {"resample": PIL.Image.Resampling.BICUBIC}
        self.teacher_processor = self.processor if same else square_processor(setting.teacher_size, **bicubic)
        self.names = label_names(splits[split])

    @cached_property
    def teacher(self) -> nn.Module:
        """The teacher: loaded, or trained on all images once."""
        if self.source is not None:
            return channels_last(load_teacher(self.source)[0].to(self.args.device))
        path = self.folder / "teacher"
        if not path.exists():
            assert self.setting.teacher is not None and self.names is not None
            set_seed(SPLIT_SEED)
            network = channels_last(classifier_of(self.setting.teacher, self.names))
            args = replace_arguments(self.args, seed=SPLIT_SEED, **self.setting.teacher_training)
            trained = train_on_labels(network, args, self.shown("all", augmented=True, live=False), self.processor)
            trained.save_pretrained(path)
            self.processor.save_pretrained(path)
        return channels_last(load_teacher(str(path))[0].to(self.args.device))

    def shown(self, name: str, augmented: bool = False, frozen: bool = False, live: bool = True) -> Dataset:
        """A split as the networks take it.

        Args:
            name: Its name.
            augmented: Move and flip the images at random.
            frozen: Say how they were moved, for the stored maps.
            live: Make the teacher's larger images too.
        """
        augmentation, size = None, self.setting.size
        if augmented and self.crops:
            augmentation = crop_and_flip(self.processor, self.teacher_processor, smallest=SMALLEST_CROP)
        elif augmented:
            augmentation = v2.Compose([v2.RandomCrop(size, padding=size // 8), v2.RandomHorizontalFlip()])
        views = self.processor, self.teacher_processor if live else None
        return self.splits[name].with_transform(DistillationTransform(*views, augmentation, record_view=frozen))

    def stored(self, name: str) -> StoredReference:
        """The teacher's outputs on a split without augmentation, computed once."""
        return StoredReference.build(
            self.teacher,
            self.shown(name),
            self.folder / "store" / name,
            explainer=explainer_of(self.args),
            target=self.args.explanation_target,
            processing_class=self.teacher_processor,
            classes=self.names,
            batch_size=self.args.per_device_eval_batch_size,
            progress=not self.args.disable_tqdm,
        )

    def measuring(self, student: nn.Module) -> ExplanationDistillTrainer:
        """A trainer that measures a student by the command's explainer and grid, whatever it was trained by."""
        reference = self.stored(self.split)
        return ExplanationDistillTrainer(
            student,
            self.args,
            eval_dataset=reference.attach(self.shown(self.split, live=False)),
            processing_class=self.processor,
            references={"teacher": reference},
        )

    def teacher_figures(self) -> dict[str, Any]:
        """The teacher's accuracy and size."""
        trainer = self.measuring(self.new_student())
        figures = measured_metrics(trainer.evaluate(), "eval_teacher_", FIGURES)
        return {**figures, "parameters": sum(each.numel() for each in self.teacher.parameters())}

    def new_student(self) -> nn.Module:
        """A student with random weights, the same for the same seed."""
        assert self.names is not None
        network = self.setting.student
        if isinstance(network, str):
            student = create_student(network, "random", self.names)
        else:
            student = classifier_of(copy.deepcopy(network), self.names)
        return channels_last(student.to(self.args.device))

    def run(self, arm: Arm, seed: int, folder: Path) -> dict[str, Any]:
        """Train a student, save it in a folder, and measure it."""
        start = time.process_time()
        changes = {**arm.arguments, "num_train_epochs": self.args.num_train_epochs * arm.epochs, "seed": seed}
        args = replace_arguments(self.args, **changes)
        set_seed(seed)
        student = self.new_student()
        student = self.distil(student, arm, args) if arm.teacher else self.learn(student, arm, args)
        trained = time.process_time() - start
        figures = self.measure(student)
        student.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        return {**figures, "parameters": student.num_parameters(), "training_cpu_seconds": round(trained, 1)}

    def measure(self, student: nn.Module) -> dict[str, float]:
        """Measure a student beside the teacher."""
        return measured_metrics(self.measuring(student).evaluate(), "eval_", FIGURES)

    def collator(self, arm: Arm) -> Callable[..., Any] | None:
        """The function that makes a training's batches; None for the trainer's own."""
        return None

    def learn(self, student: nn.Module, arm: Arm, args: ExplanationDistillArguments) -> nn.Module:
        """Train a student on the labels."""
        shown = self.shown("train", augmented=True, live=False)
        return train_on_labels(student, args, shown, self.processor, self.collator(arm))

    def distil(self, student: nn.Module, arm: Arm, args: ExplanationDistillArguments) -> nn.Module:
        """Train a student by the teacher."""
        shown = self.shown("train", augmented=True, frozen=arm.frozen, live=not arm.frozen)
        taught: dict[str, Any] = {"teacher_model": self.teacher, "teacher_processing_class": self.teacher_processor}
        if arm.frozen:
            reference = self.stored("train")
            shown, taught = reference.attach(shown), {"references": {"teacher": reference}}
        trainer = ExplanationDistillTrainer(
            student,
            args,
            train_dataset=shown,
            processing_class=self.processor,
            data_collator=self.collator(arm),
            **taught,
        )
        trainer.train()
        return whole(trainer.student)

    def further(self, folder: Path, images: int) -> dict[str, float]:
        """Measure a saved student by explainers that none was trained on, and its faithfulness, on some images."""
        student = channels_last(load_weights(AutoModelForImageClassification, str(folder)).to(self.args.device))
        trainer = ExplanationDistillTrainer(
            student,
            self.args,
            eval_dataset=self.shown(self.split),
            processing_class=self.processor,
            teacher_model=self.teacher,
            teacher_processing_class=self.teacher_processor,
        )
        record = measure_fidelity(
            trainer,
            samples=images,
            explainers=list(HELD_OUT),
            faithfulness=True,
            chance=False,
            costs=False,
        )
        return further_figures(record)


def further_figures(record: FidelityRecord, faithfulness: Iterable[str] = FAITHFULNESS) -> dict[str, float]:
    """Select the figures of a record that aren't by the explainer of the training: similarities, and faithfulness."""
    found = {each.explainer["name"]: each.figures["explanation_similarity"].value for each in record.held_out}
    return found | {name: record.figures[name].value for name in faithfulness}
