"""Plain distillation beside explanation-enhanced distillation, from the same initial weights on the same batches."""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import HfArgumentParser, set_seed

from ..alignment.labels import align_labels, class_names
from ..arguments import ExplanationDistillArguments
from ..cards.figures import explanation_panel
from ..explainers import Explainer
from ..metrics import explanation_similarity
from ..trainer import ExplanationDistillTrainer
from .tasks import EmbeddedSetting, Sources, Task, announce, embedded_task, load_task, training_arguments

# What a table of results shows, in this order, as far as it was measured.
METRICS = {
    "accuracy": "accuracy",
    "agreement": "agreement",
    "explanation_similarity": "similarity",
    "energy_pointing_game": "energy in the object",
}

# A transform makes the batches, from columns that no model's forward takes.
COMMON_TRAINING = {
    "remove_unused_columns": False,
    "report_to": "none",
    "save_strategy": "no",
    "logging_strategy": "epoch",
    "lr_scheduler_type": "cosine",
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 64,
}
PRETRAINED_TRAINING = {"learning_rate": 1e-4, "warmup_steps": 0.05, "num_train_epochs": 10, "weight_decay": 0.05}


@dataclass
class Comparison:
    """How the sides are compared."""

    compare: bool = field(default=True, metadata={"help": "Train a student by plain distillation beside the e²KD one."})
    seeds: int = field(default=1, metadata={"help": "Repeat with this many seeds, counted from --seed."})
    pictures: int = field(default=6, metadata={"help": "Samples in explanations.png."})


def run_side_by_side(setting: EmbeddedSetting, name: str, description: str) -> dict[str, Any]:
    """A whole recipe: reads the command line, trains, measures, writes.

    Into `--output_dir` go the first seed's students (`student`, and `student-kd` for plain distillation), the embedded
    default's `teacher`, `fidelity.json` with every seed's figures so far, and `explanations.png`. An earlier run's
    files stay until the first seed has been measured.

    Args:
        setting: What runs without `--teacher`, `--student` and `--dataset`.
        name: The recipe's name; results go to `outputs/NAME` unless said otherwise.
        description: Shown by `--help`.

    Returns:
        What `fidelity.json` holds.
    """
    sources, comparison, args = parse(setting, name, description)
    output = Path(args.output_dir)
    weights = {"KD": 0.0} if comparison.compare else {}
    weights["e²KD"] = args.explanation_weight
    runs = []
    start = time.monotonic()
    for seed in range(args.seed, args.seed + comparison.seeds):
        set_seed(seed)
        task = load_task(sources, seed) if sources.dataset else embedded_task(setting, args, seed)
        run: dict[str, Any] = {"seed": seed}
        trainers = {}
        for arm, weight in weights.items():
            announce(args, f"Seed {seed}: distilling the {arm} student")
            trainer = distil(task, training_arguments(args, seed=seed, explanation_weight=weight))
            measured = {
                split: trainer.evaluate(data, metric_key_prefix=split) for split, data in task.evaluations.items()
            }
            run["teacher"] = {split: _chosen(metrics, f"{split}_teacher_") for split, metrics in measured.items()}
            run[arm] = {split: _chosen(metrics, f"{split}_") for split, metrics in measured.items()}
            trainers[arm] = trainer
        runs.append(run)
        if seed == args.seed:
            save(task, trainers, comparison.pictures, output)
        results: dict[str, Any] = {
            "recipe": name,
            "sources": vars(sources) if sources.dataset else "embedded default",
            "arguments": {key: getattr(args, key) for key in _RECORDED},
            "device": torch.cuda.get_device_name() if args.device.type == "cuda" else args.device.type,
            "torch": torch.__version__,
            "seconds": round(time.monotonic() - start),
            "summary": summarise(runs),
            "runs": runs,
        }
        if args.process_index == 0:
            (output / "fidelity.json").write_text(json.dumps(results, indent=2, ensure_ascii=False), encoding="utf-8")
    if args.process_index == 0:
        print(f"\n{markdown_table(results['summary'])}\n")
        print(f"In {output}: {', '.join(sorted(path.name for path in output.iterdir()))}")
    return results


_RECORDED = (
    *("explainer", "explainer_options", "explanation_weight", "explanation_loss", "explanation_target"),
    *("task_weight", "logits_weight", "temperature", "num_train_epochs", "learning_rate", "weight_decay", "seed"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "max_grad_norm", "bf16", "fp16"),
)


def parse(
    setting: EmbeddedSetting, name: str, description: str
) -> tuple[Sources, Comparison, ExplanationDistillArguments]:
    """The command line. What it leaves open comes from the setting, or from defaults for pretrained models."""
    parser = HfArgumentParser((Sources, Comparison, ExplanationDistillArguments), description=description)
    names = ("teacher", "student", "dataset")
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for source in names:
        first.add_argument(f"--{source}")
    given = [source for source, value in vars(first.parse_known_args()[0]).items() if value is not None]
    if 0 < len(given) < len(names):
        parser.error(f"--teacher, --student and --dataset belong together; given: --{', --'.join(given)}.")
    training = PRETRAINED_TRAINING if given else setting.student_training
    parser.set_defaults(output_dir=f"outputs/{name}", **{**COMMON_TRAINING, **training})
    try:
        sources, comparison, args = parser.parse_args_into_dataclasses()
    except ValueError as error:
        parser.error(str(error))
    if comparison.seeds < 1:
        parser.error(f"--seeds must be at least 1, not {comparison.seeds}.")
    return sources, comparison, args


def distil(task: Task, args: ExplanationDistillArguments) -> ExplanationDistillTrainer:
    """Trains a copy of the task's student; the trainer that holds it is returned."""
    trainer = ExplanationDistillTrainer(
        copy.deepcopy(task.student),
        args,
        train_dataset=task.train,
        eval_dataset=task.evaluations,
        processing_class=task.processor,
        teacher_model=task.teacher,
    )
    trainer.train()
    return trainer


def save(task: Task, trainers: Mapping[str, ExplanationDistillTrainer], pictures: int, output: Path) -> None:
    """Writes the models and the picture; what an earlier run claimed of others goes first."""
    (first, *_) = trainers.values()
    if first.is_world_process_zero():
        for claim in ("fidelity.json", "explanations.png"):
            (output / claim).unlink(missing_ok=True)
        if task.teacher_is_new:
            task.teacher.save_pretrained(output / "teacher")
            task.processor.save_pretrained(output / "teacher")
    for arm, trainer in trainers.items():
        trainer.save_model(str(output / ("student" if arm == "e²KD" else "student-kd")))
    if first.is_world_process_zero() and pictures:
        students = {arm: trainer.student for arm, trainer in trainers.items()}
        draw(task, students, first.explainer, pictures, first.args.device, output / "explanations.png")


def draw(
    task: Task, students: Mapping[str, nn.Module], explainer: Explainer, count: int, device: torch.device, path: Path
) -> None:
    """Saves a picture of where the teacher and the students look, on the first samples of the last evaluation set."""
    data = list(task.evaluations.values())[-1]
    samples = [data[index] for index in range(min(count, len(data)))]
    pixel_values = torch.stack([sample["pixel_values"] for sample in samples]).to(device)
    shown_to_teacher = torch.stack([sample.get("teacher_pixel_values", sample["pixel_values"]) for sample in samples])
    labels = align_labels(task.teacher, task.student)
    teacher = explainer(
        task.teacher.eval(),
        {"pixel_values": shown_to_teacher.to(device)},
        lambda logits: labels.to_teacher(labels.teacher_logits(logits).argmax(1)),
    )
    target = labels.to_student(labels.teacher_logits(teacher.logits).argmax(1))
    names = class_names(task.student) or [str(index) for index in range(task.student.config.num_labels)]
    maps = {"Teacher": teacher.maps}
    predictions = {"Teacher": [names[index] for index in target.tolist()]}
    similarities = {}
    for arm, student in students.items():
        explained = explainer(student.eval(), {"pixel_values": pixel_values}, target)
        heading = f"{arm} student"
        maps[heading] = explained.maps
        predictions[heading] = [names[index] for index in explained.logits.argmax(1).tolist()]
        similarities[heading] = explanation_similarity(explained.maps, teacher.maps)[0]
    truths = [names[sample["labels"]] for sample in samples] if all("labels" in s for s in samples) else None
    images = task.transform.student.intensities(pixel_values).clamp(0, 1)
    explanation_panel(images, maps, labels=truths, predictions=predictions, similarities=similarities, path=path)


def _chosen(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {name: metrics[prefix + name] for name in METRICS if prefix + name in metrics}


def summarise(runs: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Mean and standard deviation (n − 1; 0 for one run) over the runs: split → side → metric → `mean`, `std`."""
    sides = [side for side in runs[0] if side != "seed"]
    sides.sort(key=lambda side: side != "teacher")
    summary: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for side in sides:
        for split, metrics in runs[0][side].items():
            for metric in metrics:
                values = [run[side][split][metric] for run in runs]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                figures = summary.setdefault(split, {}).setdefault(side, {})
                figures[metric] = {"mean": statistics.fmean(values), "std": spread}
    return summary


def markdown_table(summary: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]) -> str:
    """The summary as a table, one row a split and side."""
    shown = [m for m in METRICS if any(m in figures for sides in summary.values() for figures in sides.values())]
    lines = [
        f"| data | model | {' | '.join(METRICS[metric] for metric in shown)} |",
        f"|---|---|{'---|' * len(shown)}",
    ]
    for split, sides in summary.items():
        for side, figures in sides.items():
            cells = [_cell(figures.get(metric)) for metric in shown]
            lines.append(f"| {split.replace('_', ' ')} | {side} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(figure: Mapping[str, float] | None) -> str:
    if figure is None:
        return "–"
    spread = f" ± {figure['std']:.3f}" if figure["std"] else ""
    return f"{figure['mean']:.3f}{spread}"
