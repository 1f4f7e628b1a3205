"""Stages before the training: a term trains its own modules, or the student's lower layers, alone."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import IntervalStrategy, set_seed
from transformers.trainer_utils import SaveStrategy, has_length

from ..architectures.base import evaluating
from ..terms import Term
from .preemption import StopAfterStep, StoppedInStage, last_checkpoint

_ALONE: dict[str, Any] = {
    **{"task_weight": 0.0, "logits_weight": 0.0, "explanation_weight": 0.0, "terms": None, "max_steps": -1},
    "explanation_weight_mode": "absolute",
    **{"evaluate_explanations": False, "push_to_hub": False, "load_best_model_at_end": False, "eval_on_start": False},
    **{"eval_strategy": IntervalStrategy.NO, "enable_jit_checkpoint": False},
}


def stage_folder(output_dir: str, name: str) -> str:
    """Return the folder of a stage's checkpoints."""
    return str(Path(output_dir) / f"stage-{name}")


def stage_was_started(output_dir: str) -> bool:
    """Tell whether a stage of an interrupted training has left a checkpoint."""
    return any(last_checkpoint(folder) for folder in Path(output_dir).glob("stage-*"))


def prepare_terms(trainer: Any, terms: Iterable[Term]) -> None:
    """Run the terms' first stages; the training's random numbers are the same after a stage that was resumed."""
    for term in terms:
        if type(term).prepare is not Term.prepare:
            term.prepare(trainer)
            set_seed(trainer.args.seed)


def train_stage(
    trainer: Any, term: Term, num_train_epochs: float, resume: bool = False, with_student: bool = True
) -> None:
    """Train the student's layers below a term's taps, and the term's parameters, on that term alone.

    Args:
        trainer: The trainer of the student.
        term: The term, which is set up.
        num_train_epochs: Epochs of the stage; other arguments are the training's.
        resume: True to go on from the stage's last checkpoint, if there is one.
        with_student: False to train the term's parameters alone: the student is neither run nor changed, and its
            outputs are empty.

    Raises:
        StoppedInStage: SIGTERM arrived.
        ValueError: the training data is a stream, whose epochs have no known number of steps.
    """
    if not has_length(trainer.train_dataset):
        raise ValueError(
            f"The term '{term.name}' trains a first stage of {num_train_epochs:g} epochs, and a "
            f"{type(trainer.train_dataset).__name__} has no length that would say how many steps these are. Give a "
            "train_dataset with a length, such as a datasets.Dataset in the place of a stream, or leave the stage out."
        )
    args = copy.copy(trainer.args)
    for name, value in {**_ALONE, "num_train_epochs": num_train_epochs}.items():
        setattr(args, name, value)
    args.output_dir = stage_folder(trainer.args.output_dir, term.name)
    if args.save_strategy == SaveStrategy.BEST:
        args.save_strategy = SaveStrategy.EPOCH
    checkpoint = last_checkpoint(args.output_dir) if resume else None
    weight, term.weight = term.weight, 1.0
    try:
        stage = type(trainer)(
            trainer.student,
            args,
            trainer.data_collator.collator,
            trainer.train_dataset,
            processing_class=trainer.processing_class,
            references=trainer.references,
            terms=[term],
            explainer=trainer.explainer,
        )
        stage.adopt_terms()
        for other in stage.terms.values():
            if other is not term:
                other.weight = 0.0  # a reference may weigh its own logits and explanations
        stage.runs_student = with_student
        stop = StopAfterStep.of(trainer)
        if stop is not None:
            stage.add_callback(stop)
        # One that isn't run gets no gradients; frozen as a whole, DDP would refuse it.
        with _frozen(_unreached(stage) if with_student else []):
            stage.train(resume_from_checkpoint=checkpoint)
        if stop is not None and stop.stopped:
            raise StoppedInStage
    finally:
        term.weight = weight


def _unreached(stage: Any) -> list[nn.Parameter]:
    """List the student's parameters that the stage's loss doesn't reach: DDP would wait for their gradients."""
    student: nn.Module = stage.student
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    batch = stage._prepare_inputs(stage._first_batch())
    with evaluating(student), torch.enable_grad(), stage.accelerator.autocast():
        loss = stage.compute_loss(student, batch)
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    stage._logged.clear()  # of these two samples' loss
    return [parameter for parameter, gradient in zip(trained, gradients, strict=True) if gradient is None]


@contextmanager
def _frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    frozen = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
