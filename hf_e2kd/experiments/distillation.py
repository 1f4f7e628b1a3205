"""A teacher, the students' common start and the data, and the trainings that every experiment runs on them."""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import IntervalStrategy, TrainerCallback
from transformers.trainer_utils import SaveStrategy

from ..architectures.sharding import whole
from ..explainers import Explainer, build_explainer
from ..fidelity import DataRecord
from ..references import Reference
from ..trainer import ExplanationDistillTrainer
from ..trainer.arguments import ExplanationDistillArguments

NOTHING_SAVED: Mapping[str, Any] = {
    **{"eval_strategy": IntervalStrategy.NO, "eval_on_start": False, "load_best_model_at_end": False},
    **{"save_strategy": SaveStrategy.NO, "enable_jit_checkpoint": False, "push_to_hub": False},
}
"""Training arguments of models beside the students: evaluations, checkpoints and uploads are the students'."""

LABELS_ALONE: Mapping[str, Any] = {
    **{"task_weight": 1.0, "logits_weight": 0.0, "explanation_weight": 0.0, "evaluate_explanations": False},
    "terms": None,
}
"""Training arguments of a model that learns from the labels and from no teacher."""


@dataclass
class Distillation:
    """Models and data of one seed.

    Args:
        teacher: Trained classifier.
        student: Start of every student; each training takes a copy.
        processor: The student's image processor or tokenizer, saved beside it.
        train: Training data.
        evaluations: Evaluation data by name; cards are of the last.
        picture: `picture(students, count, folder)` draws the explanations of teacher and students for `count` samples.
        measure: `measure(model, split)` gives further metrics of a model on one of `evaluations`.
        collator: Makes batches; None for the trainer's own.
        teacher_is_new: True if the teacher was trained for this distillation, so that it is worth saving.
        teacher_processor: Saved beside a new teacher; None for the student's.
        teacher_train: Training data as a fine-tuned teacher is shown it; None where the student's serves too.
        derive: Further splits' metrics from a model's measured ones, such as the worst group's from the groups'.
        references: References in the place of the live teacher, such as its stored explanations.
        callbacks: Callbacks of the students' trainers.
        data: Records of the evaluation data by name, and of the training data as "train", for the card.
        card_samples: Number of samples behind the card's figures.
    """

    teacher: nn.Module
    student: nn.Module
    processor: Any
    train: Dataset
    evaluations: dict[str, Dataset]
    picture: Callable[[Mapping[str, nn.Module], int, Path], None]
    measure: Callable[[nn.Module, str], dict[str, float]] | None = None
    collator: Callable[..., Any] | None = None
    teacher_is_new: bool = False
    teacher_processor: Any = None
    derive: Callable[[dict[str, dict[str, float]]], dict[str, dict[str, float]]] | None = None
    references: Mapping[str, Reference] | None = None
    callbacks: Sequence[TrainerCallback] = ()
    data: Mapping[str, DataRecord] = field(default_factory=dict)
    card_samples: int = 1000
    teacher_train: Dataset | None = None


def replace_arguments(args: ExplanationDistillArguments, **changes: Any) -> ExplanationDistillArguments:
    """Copy training arguments with some of them changed.

    `dataclasses.replace` would derive anew what `TrainingArguments` derives from its fields.
    """
    changed = copy.copy(args)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def explainer_of(args: ExplanationDistillArguments) -> Explainer:
    """Build the explainer that the arguments name; of images by default."""
    assert not isinstance(args.explainer_options, str)
    return build_explainer(args.explainer or "gradcam", **(args.explainer_options or {}))


def announce(args: ExplanationDistillArguments, what: str) -> None:
    """Print what the next progress bar is for, by the first process alone."""
    if args.process_index == 0:
        print(f"\n{what}", flush=True)


def use_one_thread() -> None:
    """Let torch compute on one thread, unless OMP_NUM_THREADS sets another number.

    Models of the embedded settings' size gain nothing by a second thread, two of them wait for each other on a machine
    with other work, and rounding, which depends on their number, changes what such small trainings end in.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def train_on_labels(
    model: nn.Module,
    args: ExplanationDistillArguments,
    train: Dataset,
    processor: Any,
    collator: Callable[..., Any] | None = None,
    references: Mapping[str, Reference] | None = None,
) -> nn.Module:
    """Train a teacher: on the labels, and on annotations where `references` weigh these themselves.

    Nothing is saved: the output folder is the students'.

    Args:
        model: Classifier with its first weights.
        args: The students' training arguments; their weights of the loss don't count.
        train: Training data.
        processor: Image processor or tokenizer.
        collator: Makes batches; None for the trainer's own.
        references: Annotations by name.

    Returns:
        The trained model.
    """
    trainer = ExplanationDistillTrainer(
        model,
        replace_arguments(args, **LABELS_ALONE, **NOTHING_SAVED),
        train_dataset=train,
        processing_class=processor,
        data_collator=collator,
        references=references,
    )
    trainer.train()
    return whole(trainer.student)


def train_student(distillation: Distillation, args: ExplanationDistillArguments) -> ExplanationDistillTrainer:
    """Train a copy of the student and return its trainer."""
    taught_by: dict[str, Any] = {"references": distillation.references}
    if distillation.references is None:
        taught_by = {"teacher_model": distillation.teacher}
    data: Any = distillation.evaluations
    trainer = ExplanationDistillTrainer(
        copy.deepcopy(distillation.student),
        args,
        train_dataset=distillation.train,
        # The metrics of a dictionary are named by its keys, by which a checkpoint would have to be chosen.
        eval_dataset=next(iter(data.values())) if len(data) == 1 else data,
        processing_class=distillation.processor,
        data_collator=distillation.collator,
        callbacks=list(distillation.callbacks),
        **taught_by,
    )
    resumed: Any = args.resume_from_checkpoint
    trainer.train(resume_from_checkpoint=True if str(resumed).lower() == "true" else resumed)
    return trainer
