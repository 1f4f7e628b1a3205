"""Trainers that measure any two models without training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from torch import nn

from ..alignment.labels import class_names, is_multi_label
from ..data import AnnotatedCollator, DistillationTransform, encode_labels
from ..data.text import TextCollator, check_texts
from ..explainers import Explainer
from ..export import exported_explainer
from ..trainer import ExplanationDistillTrainer
from ..trainer.arguments import ExplanationDistillArguments
from .command_line import surroundings


@dataclass
class Side:
    """A classifier with its image processor or tokenizer."""

    model: nn.Module
    processing_class: Any


@dataclass
class Columns:
    """Columns of a data set.

    Args:
        image: Column of the images.
        texts: Column of the texts, or two of pairs.
        label: Column of the labels, which may be missing.
    """

    image: str = "image"
    texts: Sequence[str] = ("text",)
    label: str = "label"

    def inputs(self, is_text: bool) -> list[str]:
        """List the columns that a data set must have."""
        return list(self.texts) if is_text else [self.image]


def evaluator(
    student: Side,
    teacher: Side,
    data: Dataset,
    columns: Columns,
    explainer: Explainer,
    *,
    is_text: bool,
    target: str = "teacher_top",
    comparison_grid: str = "image",
    iou_threshold: float = 0.5,
    teacher_explainer: Explainer | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    output_dir: str = "outputs/fidelity",
    explains: bool = True,
    source: str | None = None,
) -> ExplanationDistillTrainer:
    """Make a trainer that measures a student against a teacher, each with its own processor or tokenizer.

    Args:
        student, teacher: Classifiers.
        data: Images or texts as they are; the images' transform is set on it.
        columns: Its columns.
        explainer: Explainer of the student.
        is_text: True for classifiers of texts.
        target: Class that both explain: `"teacher_top"` or `"label"`.
        comparison_grid: Grid on which maps of images are compared: `"image"` or `"native"`.
        iou_threshold: Threshold of `localization_iou`.
        teacher_explainer: Explainer of the teacher, where it differs.
        batch_size: Samples at a time.
        max_length: Longest text in tokens.
        output_dir: Folder of the trainer's arguments; nothing is written.
        explains: False to compare decisions alone.
        source: Where the data are from, for messages.

    Raises:
        ValueError: a row without a text, or a label whose name is none of the student's classes.
    """
    arguments = ExplanationDistillArguments(
        output_dir,
        report_to="none",
        per_device_eval_batch_size=batch_size,
        explanation_target=target,
        explanation_weight=0.0,  # explained, and not trained
        comparison_grid=comparison_grid,
        iou_threshold=iou_threshold,
        evaluate_explanations=explains,
        remove_unused_columns=False,
        **surroundings(),
    )
    data = encode_labels(data, columns.label, class_names(student.model))
    if is_text:
        check_texts(data, columns.texts, source)
        collator: Any = TextCollator(
            student.processing_class,
            teacher.processing_class,
            text_columns=list(columns.texts),
            label_column=columns.label,
            max_length=max_length,
        )
    else:
        collator = AnnotatedCollator()
        several = is_multi_label(student.model)
        transform = DistillationTransform(
            student.processing_class,
            teacher.processing_class,
            image_column=columns.image,
            label_column=columns.label,
            classes=student.model.config.num_labels if several else None,
        )
        data = data.with_transform(transform)
    own = exported_explainer(student.model, explainer)
    others = exported_explainer(teacher.model, teacher_explainer or explainer)
    return ExplanationDistillTrainer(
        student.model,
        arguments,
        eval_dataset=data,
        processing_class=student.processing_class,
        data_collator=collator,
        teacher_model=teacher.model,
        teacher_processing_class=teacher.processing_class,
        explainer=own,
        teacher_explainer=None if others is own else others,
    )
