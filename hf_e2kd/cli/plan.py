"""What `hf-e2kd distill` will do and how long it takes, and the question whether it shall."""

import io
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import typer
from transformers import set_seed

from ..data import digits, reviews
from ..experiments.distillation import NOTHING_SAVED, Distillation, replace_arguments
from ..experiments.estimate import Part, duration, estimate_students, estimate_teacher
from ..experiments.experiment import Comparison, variants_of
from ..experiments.images import ImageExperiment
from ..experiments.texts import TextExperiment
from ..trainer.arguments import ExplanationDistillArguments
from .output import echo

ASKED_FROM = 60.0
"""Seconds of training from which a user at a terminal is asked."""

# CI services; notebooks, whose "!" gives a terminal that nobody can type in; and launchers of several processes.
_UNATTENDED = ("CI", "JPY_PARENT_PID", "COLAB_RELEASE_TAG", "LOCAL_RANK", "ACCELERATE_MIXED_PRECISION")


@dataclass(frozen=True)
class Plan:
    """A distillation to come.

    Args:
        sentence: Models, data and output folder.
        parts: Trainings by name.
        seeds: Number of times that they are repeated.
        device: Kind of the device.
    """

    sentence: str
    parts: Mapping[str, Part]
    seeds: int
    device: str

    @property
    def seconds(self) -> float:
        """Estimated duration of all trainings."""
        return self.seeds * sum(part.seconds for part in self.parts.values())

    def as_text(self) -> str:
        """Render the plan in lines."""
        lines = []
        for name, part in self.parts.items():
            line = f"  {name}: {part.steps:,} steps of {part.seconds_per_step:.3g} s"
            if part.evaluations:
                line += f", {part.evaluations} evaluation{'s' if part.evaluations > 1 else ''} of "
                line += duration(part.seconds_per_evaluation)
            lines.append(line)
        seeds = f", with {self.seeds} seeds" if self.seeds > 1 else ""
        head = f"The training will take about {duration(self.seconds)} on {self.device}{seeds}:"
        return "\n".join([self.sentence, head, *lines])

    def as_dict(self) -> dict[str, Any]:
        """Give the durations for a script."""
        trainings = {name: {**vars(part), "seconds": part.seconds} for name, part in self.parts.items()}
        return {"seconds": self.seconds, "seeds": self.seeds, "trainings": trainings}


def make_plan(
    distillation: Distillation, parts: Mapping[str, Part], comparison: Comparison, args: ExplanationDistillArguments
) -> Plan:
    """Describe a distillation whose trainings have been timed."""
    teacher, student = (
        f"{type(model).__name__} of {sum(each.numel() for each in model.parameters()) / 1e6:.3g} M parameters"
        for model in (distillation.teacher, distillation.student)
    )
    measured = " and ".join(f"{len(data):,} samples of {name}" for name, data in distillation.evaluations.items())
    sentence = (
        f"A {teacher} teaches a {student} on {len(distillation.train):,} samples, measured on {measured}. "
        f"All files go to {args.output_dir}."
    )
    return Plan(sentence, parts, comparison.seeds, args.device.type)


def rehearse(
    experiment: ImageExperiment | TextExperiment,
    sources: Any,
    comparison: Comparison,
    args: ExplanationDistillArguments,
    check: Callable[[Distillation], None],
) -> Plan:
    """Load everything, and time a few steps of each training; a teacher is trained for one step alone.

    Args:
        experiment, sources, comparison, args: Options as `parse_experiment` reads them.
        check: Refuses a distillation that can't be done.
    """
    once: dict[str, Any] = {
        "max_steps": 1,
        "disable_tqdm": True,
        "report_to": [],
        **NOTHING_SAVED,
    }
    set_seed(args.seed)
    with redirect_stdout(io.StringIO()):
        distillation = experiment.load(sources, replace_arguments(args, **once), args.seed)
    check(distillation)
    parts = {}
    if distillation.teacher_is_new and getattr(sources, "teacher_head", "own") == "own":
        rows, training = len(distillation.train), {"num_train_epochs": getattr(sources, "teacher_epochs", 0)}
        if not sources.dataset:
            usual = (reviews if isinstance(experiment, TextExperiment) else digits).SIZES
            rows = {**usual, **experiment.data.get("sizes", {})}["teacher_train"]
            training = dict(experiment.teacher_training)
        parts["teacher"] = estimate_teacher(distillation, args, rows, training)
    parts |= estimate_students(distillation, args, variants_of(experiment, comparison))
    return make_plan(distillation, parts, comparison, args)


def is_attended() -> bool:
    """Tell whether somebody sits at a terminal and can answer: no pipe, CI, notebook or launched process."""
    return (
        sys.stdin is not None
        and sys.stdin.isatty()
        and sys.stderr.isatty()
        and not any(os.environ.get(name) for name in _UNATTENDED)
    )


def ask(plan: Plan) -> None:
    """Show a plan, and ask whether to go on if it takes long; Enter says yes.

    Raises:
        typer.Exit: the answer was no.
    """
    echo(plan.as_text(), err=True)
    if plan.seconds <= ASKED_FROM or typer.confirm("Go on?", default=True, err=True):
        return
    echo("Stopped before the training. --dry-run shows the plan alone, --yes starts without asking.", err=True)
    raise typer.Exit(1)
