"""Experiments: their settings, variants and command line."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from transformers import HfArgumentParser

from ..trainer.arguments import ExplanationDistillArguments
from .command_line import command_line, surroundings
from .distillation import Distillation

COMMON_TRAINING = {
    "explainer": "gradcam",
    "report_to": "none",
    "save_strategy": "no",
    "logging_strategy": "epoch",
    "lr_scheduler_type": "cosine",
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 64,
}
"""Training arguments of all experiments where the command line says nothing else."""


class Experiment:
    """Kind of distillation: options of its models and data, and default training arguments."""

    sources: ClassVar[type]
    """Data class of the options that name models and data; its instances have `dataset`."""

    required: ClassVar[tuple[str, ...]] = ()
    """Options that belong together on the command line."""

    embedded_options: ClassVar[tuple[str, ...]] = ()
    """Options of `sources` that count too where the required ones are not given."""

    # A transform makes the batches, from columns that no model's forward takes.
    common_training: ClassVar[Mapping[str, Any]] = {"remove_unused_columns": False}
    """Training arguments in any case."""

    pretrained_training: ClassVar[Mapping[str, Any]] = {}
    """Training arguments where the required options are given."""

    baselines: ClassVar[Mapping[str, Mapping[str, Any]]] = {"KD": {"explanation_weight": 0.0}}
    """Students beside the e²KD one, by name, with the training arguments that differ."""

    student_training: Mapping[str, Any]
    """Training arguments where the required options are not given."""

    def load(self, sources: Any, args: ExplanationDistillArguments, seed: int) -> Distillation:
        """Load or make one seed's models and data."""
        raise NotImplementedError


@dataclass
class Comparison:
    """Options of the compared students and the number of seeds."""

    compare: bool = field(default=True, metadata={"help": "Train a student by plain distillation beside the e²KD one."})
    seeds: int = field(default=1, metadata={"help": "Repeat with this many seeds, counted from --seed."})
    pictures: int = field(default=3, metadata={"help": "Samples in the pictures; 0 draws none."})


def parse_experiment(
    experiment: Experiment,
    name: str,
    description: str,
    options: type = Comparison,
    arguments: Sequence[str] | None = None,
    **keywords: Any,
) -> tuple[Any, Any, ExplanationDistillArguments]:
    """Read an experiment's command line. What it leaves open comes from the experiment.

    Args:
        experiment: The experiment.
        name: Its name; results go to `outputs/NAME` unless said otherwise.
        description: Text of `--help`.
        options: Data class of further options.
        arguments: Command line without the program's name; the process's own by default.
        keywords: Arguments of the `argparse` parser, such as `prog`.

    Returns:
        Instances of `experiment.sources` and of `options`, and the training arguments.
    """
    arguments = command_line(experiment.sources, options, ExplanationDistillArguments, arguments=arguments)
    parser = HfArgumentParser(
        (experiment.sources, options, ExplanationDistillArguments), description=description, **keywords
    )
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for source in experiment.required:
        first.add_argument(f"--{source}")
    given = [source for source, value in vars(first.parse_known_args(arguments)[0]).items() if value is not None]
    if 0 < len(given) < len(experiment.required):
        *others, last = experiment.required
        needed = f"--{', --'.join(others)} and --{last}"
        parser.error(f"{needed} belong together; given: --{', --'.join(given)}.")
    training = experiment.pretrained_training if given else experiment.student_training
    defaults = {**COMMON_TRAINING, **surroundings(), **experiment.common_training, **training}
    parser.set_defaults(output_dir=f"outputs/{name}", **defaults)
    try:
        sources, comparison, args = parser.parse_args_into_dataclasses(arguments)
    except ValueError as error:
        parser.error(str(error))
    if isinstance(comparison, Comparison) and comparison.seeds < 1:
        parser.error(f"--seeds must be at least 1, not {comparison.seeds}.")
    if args.resume_from_checkpoint is not None and (
        not isinstance(comparison, Comparison) or comparison.compare or comparison.seeds > 1
    ):
        # They would all go on from the last one's checkpoint.
        parser.error("a comparison of several students isn't resumed: add --compare false and --seeds 1.")
    return sources, comparison, args


def variants_of(experiment: Experiment, comparison: Comparison) -> dict[str, Mapping[str, Any]]:
    """Name the students to train, with the training arguments that differ; the e²KD student is the last."""
    return {**(experiment.baselines if comparison.compare else {}), "e²KD": {}}
