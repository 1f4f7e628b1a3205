"""What is distilled: a teacher, the students' common start, and the data."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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

ALONE: Mapping[str, Any] = {
    **{"eval_strategy": IntervalStrategy.NO, "eval_on_start": False, "load_best_model_at_end": False},
    **{"save_strategy": SaveStrategy.NO, "enable_jit_checkpoint": False, "push_to_hub": False},
}
"""Training arguments of models beside a recipe's students: evaluations, checkpoints and uploads are the students'."""


@dataclass
class Task:
    """What one seed distils.

    Args:
        teacher: A trained classifier.
        student: The students' common start.
        processor: The student's image processor or tokenizer, saved beside it.
        train: Data to distil on.
        evaluations: Data to measure on, by name.
        picture: `picture(students, count, folder)` draws what teacher and students look at, on `count` samples.
        measure: `measure(model, split)` gives further metrics of a model on one of `evaluations`.
        collator: Makes batches; None for the trainer's own.
        teacher_is_new: Whether the teacher was trained for this task, so that it is worth saving.
        teacher_processor: Saved beside a new teacher; None for the student's.
        derive: Further splits' metrics from a model's measured ones, as the worst group's from the groups'.
        references: What to learn from in the place of the teacher at hand, as its stored explanations.
        callbacks: Of the students' trainers.
        data: What is known of the evaluations' data by their names, and of the training data as "train", for the card.
        card_samples: How many samples the card's figures are measured on.
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


def training_arguments(args: ExplanationDistillArguments, **changes: Any) -> ExplanationDistillArguments:
    """The same arguments with some changed."""
    changed = copy.copy(args)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def explainer_of(args: ExplanationDistillArguments) -> Explainer:
    """The explainer that the arguments name."""
    assert not isinstance(args.explainer_options, str)
    return build_explainer(args.explainer, **(args.explainer_options or {}))


def announce(args: ExplanationDistillArguments, what: str) -> None:
    """Says what the next progress bar is for, once for all processes."""
    if args.process_index == 0:
        print(f"\n{what}", flush=True)


def train_on_labels(
    model: nn.Module,
    args: ExplanationDistillArguments,
    train: Dataset,
    processor: Any,
    collator: Callable[..., Any] | None = None,
    references: Mapping[str, Reference] | None = None,
) -> nn.Module:
    """Trains a model as a teacher is: on the labels, and on annotations where `references` weigh these themselves.

    Nothing is saved: the folder is the students'.
    """
    labels_alone = {"task_weight": 1.0, "logits_weight": 0.0, "explanation_weight": 0.0, "evaluate_explanations": False}
    trainer = ExplanationDistillTrainer(
        model,
        training_arguments(args, **labels_alone, **ALONE),
        train_dataset=train,
        processing_class=processor,
        data_collator=collator,
        references=references,
    )
    trainer.train()
    return whole(trainer.student)
