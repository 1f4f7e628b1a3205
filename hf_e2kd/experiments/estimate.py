"""Estimates of a distillation's duration, measured on a few of its steps."""

import io
import math
import tempfile
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import IntervalStrategy, TrainerCallback

from ..data.first_samples import keeping_random_state
from ..trainer.arguments import ExplanationDistillArguments
from .distillation import LABELS_ALONE, NOTHING_SAVED, Distillation, replace_arguments, train_student

MEASURED_STEPS = 3


@dataclass(frozen=True)
class Part:
    """A training among those to come.

    Args:
        steps: Number of optimizer steps.
        seconds_per_step: Duration of a step, the loading of its data included.
        evaluations: Number of evaluations, with the last.
        seconds_per_evaluation: Duration of an evaluation.
    """

    steps: int
    seconds_per_step: float
    evaluations: int = 0
    seconds_per_evaluation: float = 0.0

    @property
    def seconds(self) -> float:
        """Duration of the training and its evaluations."""
        return self.steps * self.seconds_per_step + self.evaluations * self.seconds_per_evaluation


def estimate_students(
    distillation: Distillation,
    args: ExplanationDistillArguments,
    variants: Mapping[str, Mapping[str, Any]],
    steps: int = MEASURED_STEPS,
) -> dict[str, Part]:
    """Train a copy of each student for a few steps and evaluate it on two batches.

    Neither the models at hand nor any state of random numbers change. With several processes all of them must call it.

    Args:
        distillation: Models and data.
        args: Training arguments.
        variants: Training arguments that differ, by the student's name.
        steps: Number of timed steps, after a first that isn't; rounded up to whole rounds of `explanation_interval`.

    Returns:
        The training of each student by its name.
    """
    every = args.explanation_interval
    return {
        variant: _measure(distillation, replace_arguments(args, **changes), math.ceil(steps / every) * every)
        for variant, changes in variants.items()
    }


def estimate_teacher(
    distillation: Distillation, args: ExplanationDistillArguments, rows: int, training: Mapping[str, Any]
) -> Part:
    """Train a copy of the teacher on the labels of the students' data for a few steps.

    Args:
        distillation: Models and data.
        args: The students' training arguments.
        rows: Size of the teacher's own data, which is assumed not to differ much from the students'.
        training: Arguments of the teacher's training that differ.
    """
    own = replace_arguments(args, **{**LABELS_ALONE, **training})
    train = distillation.teacher_train or distillation.train
    trained = replace(distillation, student=distillation.teacher, train=train)
    part = _measure(trained, own, MEASURED_STEPS, evaluate=False)
    batch = own.train_batch_size * own.gradient_accumulation_steps * own.world_size
    steps = own.max_steps if own.max_steps > 0 else math.ceil(math.ceil(rows / batch) * own.num_train_epochs)
    return replace(part, steps=steps)


def duration(seconds: float) -> str:
    """Round a duration for a reader: `"40 s"`, `"12 min"`, `"3 h 20 min"`, `"2 days 4 h"`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} days {minutes % 1440 // 60} h"


class _Timer(TrainerCallback):
    """Note when steps end, and stop the training after `count` of them beside the first."""

    def __init__(self, count: int):
        self.count = count
        self.ends: list[float] = []
        self.steps = self.epochs = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.device.type != "cpu":
            torch.accelerator.synchronize()
        # Those of the whole training, whichever of the two the arguments state.
        self.steps, self.epochs = state.max_steps, state.num_train_epochs
        self.ends.append(time.perf_counter())
        control.should_training_stop = len(self.ends) > self.count

    @property
    def seconds_per_step(self) -> float:
        """Mean duration of the steps after the first; a training of one step has only that, the slowest."""
        return (self.ends[-1] - self.ends[0]) / max(1, len(self.ends) - 1)


def _measure(distillation: Distillation, args: ExplanationDistillArguments, count: int, evaluate: bool = True) -> Part:
    timer = _Timer(count)
    with tempfile.TemporaryDirectory() as folder, keeping_random_state(args.device), redirect_stdout(io.StringIO()):
        quiet: dict[str, Any] = {
            "output_dir": folder,
            "disable_tqdm": True,
            "report_to": [],
            "logging_strategy": IntervalStrategy.NO,
            **NOTHING_SAVED,
            "resume_from_checkpoint": None,
        }
        start = time.perf_counter()
        timed_too = replace(distillation, callbacks=[*distillation.callbacks, timer])
        trainer = train_student(timed_too, replace_arguments(args, **quiet))
        # A single step has its whole training's time, and a training of no epochs, for its evaluation alone, none.
        first = timer.ends[0] - start if timer.ends else 0.0
        seconds = timer.seconds_per_step if len(timer.ends) > 1 else first
        if not evaluate:
            return Part(timer.steps, seconds)
        data = next(iter(distillation.evaluations.values()))
        batch = args.eval_batch_size * args.world_size
        trainer.evaluate(data.select(range(min(batch, len(data)))))
        timed = data.select(range(min(2 * batch, len(data))))
        start = time.perf_counter()
        trainer.evaluate(timed)
        seconds_per_sample = (time.perf_counter() - start) / len(timed)
    samples = sum(len(each) for each in distillation.evaluations.values())
    return Part(timer.steps, seconds, 1 + _evaluations(args, timer.steps, timer.epochs), samples * seconds_per_sample)


def _evaluations(args: ExplanationDistillArguments, steps: int, epochs: int) -> int:
    """Count the evaluations during the training."""
    if args.eval_strategy == IntervalStrategy.EPOCH:
        return epochs
    if args.eval_strategy != IntervalStrategy.STEPS:
        return 0
    # Below 1 a share of all steps, as transformers reads it.
    every = args.eval_steps if args.eval_steps >= 1 else math.ceil(steps * args.eval_steps)
    return int(steps // every) if every else 0
