"""Students side by side: the same initial weights, the same batches, several seeds."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import nn
from transformers import set_seed

from ..architectures.sharding import whole
from ..cards.escaping import escape_controls
from ..data.groups import read_groups
from ..export.reading import SUFFIXES
from ..hub.upload import create_repo, push_folder
from ..store.joining import unattached
from ..trainer import ExplanationDistillTrainer
from ..trainer.arguments import ExplanationDistillArguments
from .distillation import Distillation, announce, replace_arguments, train_student
from .experiment import Comparison, Experiment, parse_experiment, variants_of
from .results import RESULTS_FILE, collect_results, markdown_table, measured_metrics, write_results
from .student_card import write_card


def run_experiment(experiment: Experiment, name: str, description: str) -> dict[str, Any]:
    """Read the command line, then train, measure and write as `run_variants` does, and print the table.

    Args:
        experiment: The experiment.
        name: Its name; results go to `outputs/NAME` unless said otherwise.
        description: Text of `--help`.

    Returns:
        The content of `results.json`.
    """
    sources, comparison, args = parse_experiment(experiment, name, description)
    results = run_variants(experiment, name, sources, comparison, args)
    if args.process_index == 0:
        print(escape_controls(f"\n{as_text(results, args.output_dir)}"))
    return results


def run_variants(
    experiment: Experiment,
    name: str,
    sources: Any,
    comparison: Comparison,
    args: ExplanationDistillArguments,
    before: Callable[[Distillation, Mapping[str, Mapping[str, Any]]], None] | None = None,
    before_upload: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
    """Train, measure and save the variants of an experiment for each seed.

    Into `output_dir` go the first seed's students (`student`, and `student-kd` and the like for the baselines), a
    teacher that was trained for it, `results.json` with every seed's figures so far, and pictures. An earlier run's
    files stay until the first seed has been measured, but for a teacher's: a new one is saved once it is trained.

    Args:
        experiment: The experiment.
        name: Its name.
        sources, comparison, args: Options as `parse_experiment` reads them.
        before: `before(distillation, variants)` is called before the first seed's students are trained.
        before_upload: `before_upload(student)` is called with the folder of the student, once all are measured.

    Returns:
        The content of `results.json`.
    """
    output = Path(args.output_dir)
    variants = variants_of(experiment, comparison)
    repo_id = create_repo(args) if args.push_to_hub else None
    # What is published is the e²KD student alone, once it is measured.
    training = replace_arguments(args, push_to_hub=False)
    runs = []
    start = time.monotonic()
    for seed in range(args.seed, args.seed + comparison.seeds):
        set_seed(seed)
        distillation = experiment.load(sources, args, seed)
        if seed == args.seed:
            if distillation.teacher_is_new and args.process_index == 0:
                distillation.teacher.save_pretrained(output / "teacher")
                (distillation.teacher_processor or distillation.processor).save_pretrained(output / "teacher")
            if before is not None:
                before(distillation, variants)
        run: dict[str, Any] = {"seed": seed}
        trainers = {}
        for variant, changes in variants.items():
            announce(args, f"Seed {seed}: distilling the {variant} student")
            trainer = trainers[variant] = train_student(distillation, replace_arguments(training, seed=seed, **changes))
            run |= _evaluated(trainer, distillation.evaluations, variant)
        students = {variant: whole(trainer.student) for variant, trainer in trainers.items()}
        if distillation.measure is not None:
            announce(args, f"Seed {seed}: explaining")
            for role, model in {"teacher": distillation.teacher, **students}.items():
                for split in distillation.evaluations:
                    run[role][split] |= distillation.measure(model, split)
        if distillation.derive is not None:
            for role in ("teacher", *students):
                run[role] |= distillation.derive(run[role])
        runs.append(run)
        if seed == args.seed:
            _save(distillation, trainers, students, comparison.pictures, output)
            announce(args, f"Seed {seed}: measuring the e²KD student for its card")
            write_card(distillation, trainers["e²KD"], students, runs[0], output / "student", repo_id)
        stated = vars(sources) if sources.dataset else "embedded default"
        results = collect_results(args, runs, start, recipe=name, sources=stated)
        if args.process_index == 0:
            write_results(results, output)
    if before_upload is not None:
        before_upload(output / "student")
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
    """Render the table of results, and the content of the output folder."""
    files = ", ".join(sorted(path.name for path in Path(output_dir).iterdir()))
    return f"{markdown_table(results['summary'])}\n\nIn {output_dir}: {files}"


def _evaluated(
    trainer: ExplanationDistillTrainer, evaluations: Mapping[str, Dataset], variant: str
) -> dict[str, dict[str, dict[str, float]]]:
    """Evaluate the teacher and a student: model → split → metric. Groups of the last split's samples are splits too."""
    run: dict[str, dict[str, dict[str, float]]] = {"teacher": {}, variant: {}}
    for split, data in evaluations.items():
        is_last = split == [*evaluations][-1]
        columns = trainer.group_columns if is_last else ()
        metrics = trainer.evaluate(data, metric_key_prefix=split, group_column=columns)
        groups = read_groups(unattached(data), columns).names if columns else ()
        for name, suffix in {**{group: f"/{group}" for group in groups}, split: ""}.items():
            run["teacher"][name] = measured_metrics(metrics, f"{split}_teacher_", suffix=suffix)
            run[variant][name] = measured_metrics(metrics, f"{split}_", suffix=suffix)
    return run


def _save(
    distillation: Distillation,
    trainers: Mapping[str, ExplanationDistillTrainer],
    students: Mapping[str, nn.Module],
    pictures: int,
    output: Path,
) -> None:
    """Write the models and the picture, after removing an earlier run's files."""
    (first, *_) = trainers.values()
    if first.is_world_process_zero():
        for claim in (RESULTS_FILE, "explanations.png", "explanations.html"):
            (output / claim).unlink(missing_ok=True)
        for suffix in SUFFIXES:
            (output / "student" / f"student{suffix}").unlink(missing_ok=True)
    for variant, trainer in trainers.items():
        trainer.save_model(str(output / ("student" if variant == "e²KD" else f"student-{variant.lower()}")))
    if first.is_world_process_zero() and pictures:
        distillation.picture(students, pictures, output)
