"""Plain distillation beside explanation-enhanced distillation, from the same initial weights on the same batches."""

import argparse
import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from transformers import HfArgumentParser, set_seed

from ..architectures.sharding import whole
from ..hub.upload import create_repo, push_folder
from ..trainer import ExplanationDistillTrainer
from ..trainer.arguments import ExplanationDistillArguments
from .images import EmbeddedSetting
from .protocols import Protocol
from .results import METRICS, describe_machine, markdown_table, recorded_arguments, summarise, write_results
from .student_card import write_card
from .tasks import Task, announce, training_arguments
from .texts import TextSetting

COMMON_TRAINING = {
    "report_to": "none",
    "save_strategy": "no",
    "logging_strategy": "epoch",
    "lr_scheduler_type": "cosine",
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 64,
}


@dataclass
class Comparison:
    """How the sides are compared."""

    compare: bool = field(default=True, metadata={"help": "Train a student by plain distillation beside the e²KD one."})
    seeds: int = field(default=1, metadata={"help": "Repeat with this many seeds, counted from --seed."})
    pictures: int = field(default=6, metadata={"help": "Samples in the pictures."})


def run_side_by_side(setting: EmbeddedSetting | TextSetting | Protocol, name: str, description: str) -> dict[str, Any]:
    """A whole recipe: reads the command line, trains, measures, writes.

    Into `--output_dir` go the first seed's students (`student`, and `student-kd` and the like for what it is compared
    with), a teacher that was trained for it, `results.json` with every seed's figures so far, and pictures. An earlier
    run's files stay until the first seed has been measured, but for a teacher's: a new one is saved once it is trained.

    Args:
        setting: What runs without sources on the command line, and how sources are loaded.
        name: The recipe's name; results go to `outputs/NAME` unless said otherwise.
        description: Shown by `--help`.

    Returns:
        What `results.json` holds.
    """
    sources, comparison, args = parse(setting, name, description)
    results = compare(setting, name, sources, comparison, args)
    if args.process_index == 0:
        print(f"\n{as_text(results, args.output_dir)}")
    return results


def compare(
    setting: EmbeddedSetting | TextSetting | Protocol,
    name: str,
    sources: Any,
    comparison: Comparison,
    args: ExplanationDistillArguments,
    before: Callable[[Task, Mapping[str, Mapping[str, Any]]], None] | None = None,
) -> dict[str, Any]:
    """What a recipe does once its command line is read (`run_side_by_side`).

    Args:
        before: `before(task, arms)` is called before the first seed's students are trained.
    """
    output = Path(args.output_dir)
    arms: dict[str, Mapping[str, Any]] = {**(setting.others if comparison.compare else {}), "e²KD": {}}
    repo_id = create_repo(args) if args.push_to_hub else None
    # What is published is the e²KD student alone, once it is measured.
    training = training_arguments(args, push_to_hub=False)
    runs = []
    start = time.monotonic()
    for seed in range(args.seed, args.seed + comparison.seeds):
        set_seed(seed)
        task = setting.load(sources, args, seed)
        if task.teacher_is_new and seed == args.seed and args.process_index == 0:
            task.teacher.save_pretrained(output / "teacher")
            (task.teacher_processor or task.processor).save_pretrained(output / "teacher")
        if before is not None and seed == args.seed:
            before(task, arms)
        run: dict[str, Any] = {"seed": seed}
        trainers = {}
        for arm, changes in arms.items():
            announce(args, f"Seed {seed}: distilling the {arm} student")
            trainer = trainers[arm] = distil(task, training_arguments(training, seed=seed, **changes))
            measured = {
                split: trainer.evaluate(data, metric_key_prefix=split) for split, data in task.evaluations.items()
            }
            run["teacher"] = {split: _chosen(metrics, f"{split}_teacher_") for split, metrics in measured.items()}
            run[arm] = {split: _chosen(metrics, f"{split}_") for split, metrics in measured.items()}
        students = {arm: whole(trainer.student) for arm, trainer in trainers.items()}
        if task.measure is not None:
            announce(args, f"Seed {seed}: explaining")
            for side, model in {"teacher": task.teacher, **students}.items():
                for split in task.evaluations:
                    run[side][split] |= task.measure(model, split)
        if task.derive is not None:
            for side in ("teacher", *students):
                run[side] |= task.derive(run[side])
        runs.append(run)
        if seed == args.seed:
            save(task, trainers, students, comparison.pictures, output)
            announce(args, f"Seed {seed}: measuring the e²KD student for its card")
            write_card(task, trainers["e²KD"], students, run, output / "student", repo_id)
        results: dict[str, Any] = {
            "recipe": name,
            "sources": vars(sources) if sources.dataset else "embedded default",
            "arguments": recorded_arguments(args),
            **describe_machine(args.device),
            "seconds": round(time.monotonic() - start),
            "summary": summarise(runs),
            "runs": runs,
        }
        if args.process_index == 0:
            write_results(results, output)
    if repo_id is not None and args.process_index == 0:
        push_folder(
            output / "student",
            repo_id,
            private=args.hub_private_repo,
            revision=args.hub_revision,
            token=args.hub_token,
            commit_message=f"Student of {name}",
        )
    return results


def as_text(results: Mapping[str, Any], output_dir: str | Path) -> str:
    """The table of results, and where everything is."""
    files = ", ".join(sorted(path.name for path in Path(output_dir).iterdir()))
    return f"{markdown_table(results['summary'])}\n\nIn {output_dir}: {files}"


def parse(
    setting: EmbeddedSetting | TextSetting | Protocol,
    name: str,
    description: str,
    options: type = Comparison,
    arguments: Sequence[str] | None = None,
    **keywords: Any,
) -> tuple[Any, Any, ExplanationDistillArguments]:
    """The command line. What it leaves open comes from the setting, or from defaults for pretrained models.

    Args:
        arguments: Without the program's name; the process's own by default.
        keywords: Of the `argparse` parser, as `prog`.
    """
    parser = HfArgumentParser(
        (setting.sources, options, ExplanationDistillArguments), description=description, **keywords
    )
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for source in setting.required:
        first.add_argument(f"--{source}")
    given = [source for source, value in vars(first.parse_known_args(arguments)[0]).items() if value is not None]
    if 0 < len(given) < len(setting.required):
        *others, last = setting.required
        needed = f"--{', --'.join(others)} and --{last}"
        parser.error(f"{needed} belong together; given: --{', --'.join(given)}.")
    training = setting.pretrained_training if given else setting.student_training
    parser.set_defaults(output_dir=f"outputs/{name}", **{**COMMON_TRAINING, **setting.common_training, **training})
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


def distil(task: Task, args: ExplanationDistillArguments) -> ExplanationDistillTrainer:
    """Trains a copy of the task's student; the trainer that holds it is returned."""
    trainer = ExplanationDistillTrainer(
        copy.deepcopy(task.student),
        args,
        train_dataset=task.train,
        eval_dataset=task.evaluations,
        processing_class=task.processor,
        data_collator=task.collator,
        callbacks=list(task.callbacks),
        **({"teacher_model": task.teacher} if task.references is None else {"references": task.references}),
    )
    resumed: Any = args.resume_from_checkpoint
    trainer.train(resume_from_checkpoint=True if str(resumed).lower() == "true" else resumed)
    return trainer


def save(
    task: Task,
    trainers: Mapping[str, ExplanationDistillTrainer],
    students: Mapping[str, nn.Module],
    pictures: int,
    output: Path,
) -> None:
    """Writes the models and the picture; what an earlier run claimed of others goes first."""
    (first, *_) = trainers.values()
    if first.is_world_process_zero():
        for claim in ("results.json", "explanations.png", "explanations.html"):
            (output / claim).unlink(missing_ok=True)
    for arm, trainer in trainers.items():
        trainer.save_model(str(output / ("student" if arm == "e²KD" else f"student-{arm.lower()}")))
    if first.is_world_process_zero() and pictures:
        task.picture(students, pictures, output)


def _chosen(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {name: metrics[prefix + name] for name in METRICS if prefix + name in metrics}
