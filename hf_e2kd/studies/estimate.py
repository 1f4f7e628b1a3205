"""How long a distillation will take, measured on a few steps of it."""

import io
import math
import random
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import IntervalStrategy, TrainerCallback

from ..trainer.arguments import ExplanationDistillArguments
from .side_by_side import distil
from .tasks import ALONE, Task, training_arguments

MEASURED_STEPS = 3


@dataclass(frozen=True)
class Part:
    """A training among those to come.

    Args:
        steps: Optimizer steps.
        seconds_per_step: Of one, the loading of its data included.
        evaluations: How many there are, with the last.
        seconds_per_evaluation: Of one.
    """

    steps: int
    seconds_per_step: float
    evaluations: int = 0
    seconds_per_evaluation: float = 0.0

    @property
    def seconds(self) -> float:
        return self.steps * self.seconds_per_step + self.evaluations * self.seconds_per_evaluation


def estimate_students(
    task: Task, args: ExplanationDistillArguments, arms: Mapping[str, Mapping[str, Any]], steps: int = MEASURED_STEPS
) -> dict[str, Part]:
    """Trains a copy of each student for a few steps and evaluates it on two batches.

    Neither the task's models nor any state of random numbers change. With several processes all of them must call it.

    Args:
        arms: What differs in the arguments of each student, by its name.
        steps: How many are timed, after a first that isn't; rounded up to whole rounds of `explanation_interval`.
    """
    every = args.explanation_interval
    return {
        arm: _measure(task, training_arguments(args, **changes), math.ceil(steps / every) * every)
        for arm, changes in arms.items()
    }


def estimate_teacher(task: Task, args: ExplanationDistillArguments, rows: int, training: Mapping[str, Any]) -> Part:
    """Times a copy of the teacher on the labels of the students' data, of which its own data of `rows` is assumed not
    to differ much.

    Args:
        training: What differs in the arguments of the teacher's training.
    """
    labels_alone = {"task_weight": 1.0, "logits_weight": 0.0, "explanation_weight": 0.0, "evaluate_explanations": False}
    own = training_arguments(args, **{**labels_alone, **training})
    part = _measure(replace(task, student=task.teacher), own, MEASURED_STEPS, evaluate=False)
    batch = own.train_batch_size * own.gradient_accumulation_steps * own.world_size
    steps = own.max_steps if own.max_steps > 0 else math.ceil(math.ceil(rows / batch) * own.num_train_epochs)
    return replace(part, steps=steps)


def duration(seconds: float) -> str:
    """For a reader: `"40 s"`, `"12 min"`, `"3 h 20 min"`, `"2 days 4 h"`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} days {minutes % 1440 // 60} h"


class _Timer(TrainerCallback):
    """Notes when steps end, and stops the training after `count` of them beside the first."""

    def __init__(self, count: int):
        self.count = count
        self.ends: list[float] = []
        self.steps = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.device.type != "cpu":
            torch.accelerator.synchronize()
        self.steps = state.max_steps
        self.ends.append(time.perf_counter())
        control.should_training_stop = len(self.ends) > self.count

    @property
    def seconds_per_step(self) -> float:
        """A training of one step has only the first, which is the slowest."""
        return (self.ends[-1] - self.ends[0]) / max(1, len(self.ends) - 1)


def _measure(task: Task, args: ExplanationDistillArguments, count: int, evaluate: bool = True) -> Part:
    timer = _Timer(count)
    with tempfile.TemporaryDirectory() as folder, _random_state_kept(), redirect_stdout(io.StringIO()):
        quiet: dict[str, Any] = {
            "output_dir": folder,
            "disable_tqdm": True,
            "report_to": [],
            "logging_strategy": IntervalStrategy.NO,
            **ALONE,
            "resume_from_checkpoint": None,
        }
        start = time.perf_counter()
        trainer = distil(replace(task, callbacks=[*task.callbacks, timer]), training_arguments(args, **quiet))
        seconds = timer.seconds_per_step if len(timer.ends) > 1 else timer.ends[0] - start
        if not evaluate:
            return Part(timer.steps, seconds)
        data = next(iter(task.evaluations.values()))
        batch = args.eval_batch_size * args.world_size
        trainer.evaluate(data.select(range(min(batch, len(data)))))
        timed = data.select(range(min(2 * batch, len(data))))
        start = time.perf_counter()
        trainer.evaluate(timed)
        seconds_per_sample = (time.perf_counter() - start) / len(timed)
    samples = sum(len(each) for each in task.evaluations.values())
    return Part(timer.steps, seconds, 1 + _evaluations(args, timer.steps), samples * seconds_per_sample)


def _evaluations(args: ExplanationDistillArguments, steps: int) -> int:
    """How many there are during the training."""
    if args.eval_strategy == IntervalStrategy.EPOCH:
        return math.ceil(args.num_train_epochs)
    return int(steps // args.eval_steps) if args.eval_strategy == IntervalStrategy.STEPS and args.eval_steps >= 1 else 0


@contextmanager
def _random_state_kept() -> Iterator[None]:
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield
    random.setstate(python)
    np.random.set_state(arrays)
