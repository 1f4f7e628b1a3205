"""Students on photographs with a watermark that tells the class: data, regimes, trainings, figures by group."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from _limited_arms import STUDIES, Arm
from _limited_data import FIGURES as SHARED
from _limited_data import SPLIT_SEED, Setting, Study
from _splits import choose_per_class
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as Pillow
from PIL import ImageOps
from torch import nn
from torchvision.transforms import v2
from transformers import AutoModelForImageClassification

from hf_e2kd.choices import unknown_choice
from hf_e2kd.data import DistillationTransform, MixingCollator
from hf_e2kd.data.image_files import png_cell
from hf_e2kd.data.images import label_names, load_image_splits
from hf_e2kd.data.opening import as_rgb
from hf_e2kd.experiments.distillation import explainer_of, replace_arguments
from hf_e2kd.experiments.images import draw_explanations
from hf_e2kd.experiments.models import load_weights
from hf_e2kd.experiments.results import measured_metrics
from hf_e2kd.models import SmallResNetConfig
from hf_e2kd.trainer import ExplanationDistillTrainer

HEIGHTS = (0.2, 0.6)
"""Least and largest distance of the watermark from the upper edge, in heights of the image."""

GROUP_COLUMNS = ["label", "watermark"]
"""Columns whose values make the groups."""

STUDENTS = ("KD", "AT", "CAT-KD", "ReviewKD", "e²KD")
"""Compared students, trained as those of `limited_data.py`."""

SETTING = Setting(
    SmallResNetConfig(depths=(1, 1, 1), embedding_size=8, stem_stride=2),
    size=64,
    teacher_size=64,
    held_out=0,
    training={"num_train_epochs": 30, "learning_rate": 5e-3},
    teacher=SmallResNetConfig(depths=(1, 1, 1), embedding_size=16, stem_stride=2),
    teacher_training={"num_train_epochs": 40, "learning_rate": 5e-3},
)
"""Networks and trainings of a CPU."""

APART = {
    "worst_group_accuracy": "accuracy, worst group",
    "worst_group_agreement": "agreement, worst group",
    "energy_pointing_game": "energy on the watermark",
}
"""Further figures out of distribution."""

FIGURES = {
    **{f"{name}_{place}": f"{heading} {place.upper()}" for place in ("id", "ood") for name, heading in SHARED.items()},
    **APART,
}
"""Figures of every student, in (ID) and out of distribution (OOD), with their headings."""


@dataclass(frozen=True)
class Regime:
    """A way to train all students.

    Args:
        epochs: Length of the training, in lengths of the command's.
        mixup: Mix the images of each batch.
        teacher: "neutral", trained where the watermark says nothing of the class, or "shortcut", trained on photographs
            that it tells the class of as often as the students'.
    """

    epochs: float = 1.0
    mixup: bool = False
    teacher: str = "neutral"


REGIMES = {
    "short": Regime(),
    "mixup": Regime(mixup=True),
    "long": Regime(5.0, mixup=True),
    "shortcut": Regime(teacher="shortcut"),
}
"""Regimes by name."""


@dataclass(frozen=True)
class RegimeArm(Arm):
    """A training in a regime, whose fields these are."""

    mixup: bool = False
    taught_by: str = "neutral"


def arm_in(regime: str, student: str) -> RegimeArm:
    """The training of a student in a regime."""
    chosen, arm = REGIMES[regime], STUDIES["methods"][student]
    return RegimeArm(arm.arguments, epochs=chosen.epochs, mixup=chosen.mixup, taught_by=chosen.teacher)


class Watermark:
    """ImageNet-W's watermark (Li et al., CVPR 2023), at a height of its own for each photograph.

    Args:
        side: Side of the photographs in pixels.
    """

    def __init__(self, side: int):
        from imagenet_w import AddWatermark  # which the other recipes do without

        self.translucent, self.opaque = AddWatermark(side), AddWatermark(side, opacity=1.0)
        self.black = Pillow.new("RGB", (side, side))

    def __call__(self, photograph: Pillow.Image, row: int) -> tuple[Pillow.Image, np.ndarray]:
        """Draw the watermark.

        Args:
            photograph: Photograph.
            row: Number of the photograph, which decides on the height.

        Returns:
            The photograph with the watermark, and the watermark's box as a mask, bool (side, side).
        """
        height = np.random.default_rng([SPLIT_SEED, row]).uniform(*HEIGHTS)
        self.translucent.y_pos = self.opaque.y_pos = height
        ink = np.asarray(self.opaque(self.black)).any(2)
        rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
        mask = np.zeros_like(ink)
        mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        return self.translucent(photograph), mask


def draw_marks(labels: np.ndarray, correlation: float, seed: int = SPLIT_SEED) -> np.ndarray:
    """Draw which photographs have the watermark.

    Args:
        labels: Classes (N,), 0 or 1.
        correlation: Probability that the class decides: with the watermark where it is 1, without it where it is 0.
            Otherwise a coin does.
        seed: Seed.

    Returns:
        (N,) bool.
    """
    random = np.random.default_rng(seed)
    decides = random.random(len(labels)) < correlation
    return np.where(decides, labels == 1, random.random(len(labels)) < 0.5)


def load_photographs(source: str, plain: Sequence[str], marked: Sequence[str]) -> DatasetDict:
    """Load photographs of two groups of classes.

    Args:
        source: Hub id, or folder with the splits train, validation and test, of one folder a class.
        plain, marked: Classes of the groups 0 and 1.

    Returns:
        Columns `image` and `label`, in an order of their own.

    Raises:
        ValueError: a split or a class that isn't there, or a class in both groups.
    """
    splits = load_image_splits(source)
    if missing := [name for name in ("train", "validation", "test") if name not in splits]:
        raise ValueError(f"'{source}' has no split '{missing[0]}'. Its splits: {', '.join(splits)}.")
    return DatasetDict({name: two_groups(splits[name], plain, marked) for name in ("train", "validation", "test")})


def two_groups(data: Dataset, plain: Sequence[str], marked: Sequence[str]) -> Dataset:
    """Select the images of two groups of classes, whose labels become 0 and 1, in random order."""
    names = label_names(data)
    if names is None:
        raise ValueError("The photographs have no classes. Give a folder with one folder a class in each split.")
    for name in (*plain, *marked):
        if name not in names:
            raise ValueError(unknown_choice("class", name, names))
    if both := sorted(set(plain) & set(marked)):
        raise ValueError(f"'{both[0]}' is named by --plain and by --marked. Each class is of one group.")
    labels = np.asarray(data["label"][:])
    groups = [[names.index(name) for name in group] for group in (plain, marked)]
    rows = np.random.default_rng(SPLIT_SEED).permutation(np.flatnonzero(np.isin(labels, groups[0] + groups[1])))
    chosen = data.select(rows).select_columns(["image"])
    label = ClassLabel(names=["/".join(plain), "/".join(marked)])
    return chosen.add_column("label", np.isin(labels[rows], groups[1]).astype(int).tolist()).cast_column("label", label)


def watermarked(data: Dataset, rows: np.ndarray, marks: np.ndarray, side: int) -> Dataset:
    """Show photographs with and without the watermark.

    Args:
        data: Photographs.
        rows: Rows to show, (N,).
        marks: True where the watermark is drawn, (N,).
        side: Side in pixels of the square that is cut out of their middle and made smaller.

    Returns:
        Columns `image`, `label`, `watermark` and `mask`, the watermark's box, which is empty where there is none.
    """
    draw, columns = Watermark(side), {"image": [], "mask": []}
    labels = np.asarray(data["label"][:])[rows]
    for row, mark in zip(rows.tolist(), marks, strict=True):
        image = ImageOps.fit(as_rgb(data[row]["image"]), (side, side), Pillow.Resampling.BICUBIC)
        image, mask = draw(image, row) if mark else (image, np.zeros((side, side), bool))
        columns["image"].append(png_cell(np.asarray(image)))
        columns["mask"].append(png_cell(mask.astype(np.uint8) * 255))
    features = {
        **{"image": Image(), "mask": Image(mode="L"), "label": data.features["label"]},
        "watermark": ClassLabel(names=["plain", "watermark"]),
    }
    both = {"label": labels, "watermark": marks.astype(int)}
    return Dataset.from_dict({**columns, **both}, features=Features(features))


def make_splits(
    photographs: DatasetDict, split: str, correlation: float, shots: int, side: int, teachers: Sequence[str]
) -> DatasetDict:
    """Make the data of students and teachers, always alike.

    Args:
        photographs: Splits of `load_photographs`.
        split: Split to measure on.
        correlation: How often the watermark tells the class, as in `draw_marks`.
        shots: Photographs of each group to train the students on; 0 for all.
        side: Side in pixels.
        teachers: Kinds of teachers, as in `Regime`.

    Returns:
        `train`, the students' photographs; all training photographs for each teacher, by its kind; `id`, in
        distribution, where the watermark says as much as in training; `ood`, each photograph with and without it.
    """
    every, test = photographs["train"], photographs[split]
    labels, tested = np.asarray(every["label"][:]), np.asarray(test["label"][:])
    rows, test_rows = np.arange(len(labels)), np.arange(len(tested))
    chosen = choose_per_class(labels, shots, SPLIT_SEED) if shots else rows
    marks = draw_marks(labels, correlation)
    shown = {"neutral": draw_marks(labels, 0.0, SPLIT_SEED + 1), "shortcut": marks}
    parts = {
        "train": (every, chosen, marks[chosen]),
        **{kind: (every, rows, shown[kind]) for kind in teachers},
        "id": (test, test_rows, draw_marks(tested, correlation, SPLIT_SEED + 2)),
        "ood": (test, np.repeat(test_rows, 2), np.tile([False, True], len(tested))),
    }
    made = {name: watermarked(*part, side) for name, part in parts.items()}
    # No model is told where the watermark is.
    return DatasetDict({n: part if n in ("id", "ood") else part.remove_columns("mask") for n, part in made.items()})


class WatermarkStudy(Study):
    """The students of one teacher.

    Args:
        kind: "neutral" or "shortcut".
        setting, splits, args, folder: Those of `Study`, with the splits of `make_splits`.
    """

    def __init__(self, kind: str, setting: Setting, splits: DatasetDict, args: Any, folder: Path):
        super().__init__(setting, DatasetDict({**splits, "all": splits[kind]}), args, folder, None, "ood")

    def collator(self, arm: Arm) -> Callable[..., Any] | None:
        """The function that mixes the images of each batch, where the regime does."""
        assert isinstance(arm, RegimeArm)
        return MixingCollator(v2.MixUp(alpha=1.0, num_classes=2)) if arm.mixup else None

    def evaluate(self, student: nn.Module, place: str) -> dict[str, float]:
        """Measure student and teacher by group in ("id") or out of distribution ("ood")."""
        trainer = ExplanationDistillTrainer(
            student,
            replace_arguments(self.args, group_column=GROUP_COLUMNS),
            eval_dataset=self.shown(place),
            processing_class=self.processor,
            teacher_model=self.teacher,
            teacher_processing_class=self.teacher_processor,
        )
        return trainer.evaluate()

    def measure(self, student: nn.Module) -> dict[str, float]:
        """Measure a student in and out of distribution."""
        inside, outside = (self.evaluate(student, place) for place in ("id", "ood"))
        return place_figures(inside, outside, "eval_")

    def teacher_figures(self) -> dict[str, Any]:
        """The teacher's figures and size."""
        inside, outside = (self.evaluate(self.new_student(), place) for place in ("id", "ood"))
        groups = [value for name, value in outside.items() if name.startswith("eval_teacher_accuracy/")]
        figures = place_figures(inside, outside, "eval_teacher_")
        size = sum(each.numel() for each in self.teacher.parameters())
        return {**figures, "worst_group_accuracy": min(groups), "parameters": size}

    def draw(self, students: dict[str, Path], path: Path) -> None:
        """Draw six photographs that mislead a student who reads the watermark, with teacher's and students' maps."""
        data = self.splits["ood"]
        against = np.flatnonzero(np.asarray(data["label"][:]) != np.asarray(data["watermark"][:]))
        transform = DistillationTransform(self.processor)
        loaded = {
            name: load_weights(AutoModelForImageClassification, str(folder)).to(self.args.device).eval()
            for name, folder in students.items()
        }
        shown = data.select(against).with_transform(transform)
        draw_explanations(self.teacher, loaded, shown, transform, explainer_of(self.args), 6, path)


def place_figures(inside: dict[str, float], outside: dict[str, float], prefix: str) -> dict[str, float]:
    """Select the figures of a model from its evaluations in and out of distribution.

    Args:
        inside, outside: Metrics by prefixed name.
        prefix: Beginning of the model's metrics, "eval_" or "eval_teacher_".
    """
    found = {"id": measured_metrics(inside, prefix, SHARED), "ood": measured_metrics(outside, prefix, SHARED)}
    shared = {f"{name}_{place}": value for place, own in found.items() for name, value in own.items()}
    return shared | measured_metrics(outside, prefix, APART)


def small_setting() -> Setting:
    """Networks of a trial run."""
    network = SmallResNetConfig(depths=(1, 1), embedding_size=4, stem_stride=2)
    return replace(SETTING, student=network, teacher=network, size=32, teacher_size=32)
