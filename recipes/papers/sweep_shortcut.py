# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Sweep over teachers and shortcuts: what students take over on the embedded digits, whose background tells the class.

Three teachers (neutral; guided to the digit by masks; one that looks at the background), each with students by KD and
by e²KD, over the share of the training images in which the background tells the class. Measured out of distribution,
where it says nothing.

    accelerate launch recipes/papers/sweep_shortcut.py
    accelerate launch recipes/papers/sweep_shortcut.py --teachers neutral --correlations 0.8 0.9 0.95 --seeds 3
    accelerate launch recipes/papers/sweep_shortcut.py --smoke
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _common import SMOKE_SIZES
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import nn
from transformers import HfArgumentParser, ViTImageProcessor, set_seed

from hf_e2kd.data import DistillationTransform, digits_on_textures
from hf_e2kd.data.images import label_names
from hf_e2kd.experiments import Distillation, ImageExperiment
from hf_e2kd.experiments.command_line import command_line, run_recipe
from hf_e2kd.experiments.demos import RESNET_ON_DIGITS
from hf_e2kd.experiments.distillation import (
    NOTHING_SAVED,
    announce,
    replace_arguments,
    train_on_labels,
    train_student,
    use_one_thread,
)
from hf_e2kd.experiments.experiment import COMMON_TRAINING
from hf_e2kd.experiments.images import classifier_of
from hf_e2kd.experiments.results import collect_results, markdown_table, measured_metrics, write_results
from hf_e2kd.references import AnnotationReference
from hf_e2kd.trainer.arguments import ExplanationDistillArguments

TEACHERS = {
    "neutral": "trained where the background says nothing",
    "guided": "trained on the student's data, and held to the object by its masks",
    "shortcut": "trained on the student's data, where the background tells the class",
}


@dataclass
class ShortcutOptions:
    """Options of the teachers and the correlations."""

    teachers: list[str] = field(
        default_factory=lambda: list(TEACHERS), metadata={"help": f"Of {', '.join(TEACHERS)}, any number."}
    )
    correlations: list[float] = field(
        default_factory=lambda: [0.0, 0.5, 0.9, 1.0],
        metadata={"help": "How often the background tells the class in the student's training data."},
    )
    guidance_weight: float = field(default=1.0, metadata={"help": "λ of the energy loss by which a teacher is guided."})
    seeds: int = field(default=1, metadata={"help": "Repeat with this many seeds, counted from --seed."})
    smoke: bool = field(default=False, metadata={"help": "Try the recipe in seconds: few images, two steps."})

    def __post_init__(self) -> None:
        unknown = sorted(set(self.teachers) - set(TEACHERS))
        if unknown or not self.teachers:
            raise ValueError(f"Unknown teachers {unknown}. Available: {', '.join(TEACHERS)}.")
        if not self.correlations or not all(0 <= each <= 1 for each in self.correlations):
            raise ValueError(f"--correlations lie between 0 and 1, not {self.correlations}.")
        if not self.guidance_weight >= 0:
            raise ValueError(f"--guidance_weight must be at least 0, not {self.guidance_weight}.")
        if self.seeds < 1:
            raise ValueError(f"--seeds must be at least 1, not {self.seeds}.")


SMOKE_TRAINING = {"max_steps": 2, "per_device_train_batch_size": 8}


def run_shortcuts(experiment: ImageExperiment, name: str, description: str) -> dict[str, Any]:
    """Distil, for each teacher and correlation, by KD and by e²KD, and measure where the shortcut says nothing.

    Into `--output_dir` go `results.json`, `table.md` and `shortcuts.png`.

    Args:
        experiment: Models, data and trainings. A teacher that learns from the student's data does so at the
            experiment's own correlation, and is trained as long as a student.
        name: Name of the recipe; results go to `outputs/NAME` unless said otherwise.
        description: Text of `--help`.

    Returns:
        The content of `results.json`.
    """
    options, args = _parse(experiment, name, description)
    output, start = Path(args.output_dir), time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    use_one_thread()
    runs = []
    for seed in range(args.seed, args.seed + options.seeds):
        run: dict[str, Any] = {"seed": seed}
        for kind in options.teachers:
            set_seed(seed)
            announce(args, f"Seed {seed}: training the {kind} teacher")
            teacher = _teacher(kind, experiment, options, replace_arguments(args, seed=seed))
            for correlation in options.correlations:
                announce(args, f"Seed {seed}: {kind} teacher, correlation {correlation:g}")
                set_seed(seed)
                figures = _students(teacher, experiment, options, args, seed, correlation)
                for model, measured in figures.items():
                    run.setdefault(model, {})[f"{kind} teacher, correlation {correlation:g}"] = measured
        runs.append(run)
        stated = {"recipe": name, "options": vars(options), "data": dict(experiment.data)}
        results = collect_results(args, runs, start, **stated)
        if args.process_index == 0:
            table = markdown_table(results["summary"])
            write_results(results, output)
            (output / "table.md").write_text(f"{table}\n", encoding="utf-8")
            shortcut_figure(results["summary"], options).savefig(output / "shortcuts.png", dpi=150)
    if args.process_index == 0:
        print(f"\n{table}\n\nIn {output}: results.json, shortcuts.png, table.md")
    return results


def shortcut_figure(summary: Mapping[str, Any], options: ShortcutOptions) -> Figure:
    """Draw one panel a teacher: accuracy where the shortcut says nothing over the correlation, of KD and e²KD."""
    figure = Figure(figsize=(3.4 * len(options.teachers), 3.2), layout="constrained")
    for axis, kind in zip(figure.subplots(1, len(options.teachers), squeeze=False)[0], options.teachers, strict=True):
        for number, (model, marker) in enumerate({"teacher": "D", "KD": "o", "e²KD": "s"}.items()):
            found = [
                summary[f"{kind} teacher, correlation {correlation:g}"][model]["accuracy"]
                for correlation in options.correlations
            ]
            axis.errorbar(
                options.correlations,
                [each["mean"] for each in found],
                [each["std"] for each in found],
                color=colormaps["tab10"]((7, 1, 0)[number]),
                marker=marker,
                linestyle=":" if model == "teacher" else "-",
                capsize=3,
                label=model,
            )
        axis.set_title(f"{kind} teacher", fontsize=10)
        axis.set_xlabel("correlation in the student's data")
        axis.set_ylim(0, 1.02)
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("accuracy out of distribution")
    figure.axes[0].legend(fontsize=8)
    return figure


def _parse(
    experiment: ImageExperiment, name: str, description: str
) -> tuple[ShortcutOptions, ExplanationDistillArguments]:
    given = command_line(ShortcutOptions, ExplanationDistillArguments)
    parser = HfArgumentParser((ShortcutOptions, ExplanationDistillArguments), description=description)
    parser.set_defaults(
        output_dir=f"outputs/{name}", **{**COMMON_TRAINING, **experiment.common_training, **experiment.student_training}
    )
    try:
        options, args = parser.parse_args_into_dataclasses(given)
    except ValueError as error:
        parser.error(str(error))
    if args.resume_from_checkpoint is not None:
        parser.error("many models are trained one after the other, and none of them is resumed: start anew.")
    # Figures alone are left of teachers and students.
    return options, replace_arguments(args, **NOTHING_SAVED, **(SMOKE_TRAINING if options.smoke else {}))


def _splits(experiment: ImageExperiment, options: ShortcutOptions, seed: int, **changes: Any) -> tuple[Any, Any]:
    """Make a seed's data with the transform that makes the models' inputs, and the processor that it follows."""
    sizes = {"sizes": SMOKE_SIZES} if options.smoke else {}
    splits = digits_on_textures(**{"seed": seed, **experiment.data, **sizes, **changes})
    side = experiment.input_size or splits["student_train"][0]["image"].width
    processor = ViTImageProcessor(size={"height": side, "width": side}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    for split in splits.values():
        split.set_transform(DistillationTransform(processor))
    return splits, processor


def _teacher(
    kind: str, experiment: ImageExperiment, options: ShortcutOptions, args: ExplanationDistillArguments
) -> nn.Module:
    splits, processor = _splits(experiment, options, args.seed)
    neutral = kind == "neutral"
    training = {} if options.smoke or not neutral else experiment.teacher_training
    guidance = {"mask": AnnotationReference("energy", explanation_weight=options.guidance_weight)}
    return train_on_labels(
        classifier_of(experiment.teacher, _names(splits)),
        replace_arguments(args, **training),
        splits["teacher_train" if neutral else "student_train"],
        processor,
        references=guidance if kind == "guided" else None,
    )


def _students(
    teacher: nn.Module,
    experiment: ImageExperiment,
    options: ShortcutOptions,
    args: ExplanationDistillArguments,
    seed: int,
    correlation: float,
) -> dict[str, dict[str, float]]:
    """Train students and measure them and the teacher out of distribution."""
    splits, processor = _splits(experiment, options, seed, correlation=correlation)
    distillation = Distillation(
        teacher,
        classifier_of(experiment.student, _names(splits)),
        processor,
        splits["student_train"],
        {"test": splits["test_ood"]},
        picture=lambda *_: None,
    )
    figures: dict[str, dict[str, float]] = {}
    for variant, weight in {"KD": 0.0, "e²KD": args.explanation_weight}.items():
        trainer = train_student(distillation, replace_arguments(args, seed=seed, explanation_weight=weight))
        metrics = trainer.evaluate(splits["test_ood"], metric_key_prefix="test")
        figures[variant] = measured_metrics(metrics, "test_")
        figures["teacher"] = measured_metrics(metrics, "test_teacher_")
    return figures


def _names(splits: Any) -> list[str]:
    names = label_names(splits["student_train"])
    assert names is not None
    return names


if __name__ == "__main__":
    run_recipe(run_shortcuts, RESNET_ON_DIGITS, "sweep_shortcut", __doc__)
