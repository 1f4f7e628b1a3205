# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Calibrate what a smoothed teacher passes on of its classes' similarity, by the temperature of the distillation.

A teacher trained on smoothed labels, and its students at T = 1, 2 and 4 (Han et al., ICML 2023, Fig. 4): in the paper
their accuracy falls with T, and their number of concept detectors rises. Beside these the entropies of the outputs,
over all classes and within the true one's category, say how much of the similarity arrives. The control is
`--teacher_smoothing 0`. Models are kept and shared as by `interpretability_table.py`.

    python recipes/papers/temperature_study.py --dataset imagenet --categories categories.csv --concepts broden1_224 \\
        --augment --seeds 3
    python recipes/papers/temperature_study.py --dataset tiny-imagenet-200 --image_size 64 --images_per_class 50 \\
        --teacher teacher.json --student student.json --concepts COCO --augment --use_cpu true
    python recipes/papers/temperature_study.py --smoke
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _common import smoke_folder
from _dissected import side_by_side
from _interpretability import outputs, parse_study
from entropy import measure, smoke_categories
from interpretability_table import TRAINING, DissectedStudy, TableOptions, prepare_smoke
from matplotlib.figure import Figure

from hf_e2kd.data import TINY_IMAGENET_GROUPS, read_categories
from hf_e2kd.data.imagenet import class_wnids
from hf_e2kd.data.images import label_names
from hf_e2kd.experiments import run_recipe
from hf_e2kd.experiments.results import collect_results, markdown_table, write_results

ENTROPIES = {"entire_entropy": "entropy (bits)", "category_entropy": "within the category (bits)"}


@dataclass
class TemperatureOptions(TableOptions):
    """Options of the teacher and of the temperatures."""

    students: list[str] = field(
        default_factory=lambda: ["scratch"], metadata={"help": "Students beside those of the temperatures."}
    )
    temperatures: list[float] = field(
        default_factory=lambda: [1.0, 2.0, 4.0], metadata={"help": "Temperatures T of the distillation."}
    )
    teacher_smoothing: float = field(
        default=0.1, metadata={"help": "Share of each label that is spread over all classes in the teacher's training."}
    )
    categories: str = field(
        default=str(TINY_IMAGENET_GROUPS),
        metadata={"help": "CSV with the columns class (a name, or a WordNet id) and category (other: none)."},
    )
    samples: int = field(default=1000, metadata={"help": "The most samples, of those that all students get right."})

    def __post_init__(self) -> None:
        if not self.temperatures:
            raise ValueError("--temperatures are one or more numbers above 0.")
        if self.samples < 1:
            raise ValueError(f"--samples must be at least 1, not {self.samples}.")
        self.students = [*self.students, *(name_of(temperature) for temperature in self.temperatures)]
        super().__post_init__()


def name_of(temperature: float) -> str:
    """Name the arm of a temperature."""
    return f"KD:temperature={temperature:g}"


def run_temperature_study(description: str) -> dict[str, Any]:
    """Train and measure, and write `results.json`, `table.md`, `temperatures.png` and `concept.png`.

    Args:
        description: Text of `--help`.

    Returns:
        The content of `results.json`.
    """
    options, args = parse_study(TemperatureOptions, "temperature_study", description, **TRAINING)
    output, start = Path(args.output_dir), time.monotonic()
    if options.smoke:
        prepare_smoke(options, smoke_folder(args))
        options.categories = str(smoke_categories(output))
    study = DissectedStudy(options, args, not_of_training=("temperatures", "categories", "samples"))
    classes = label_names(study.test)
    assert classes is not None
    categories = read_categories(options.categories, class_wnids(classes)).of_class
    runs, models = study.run()
    for run in runs:
        names = {arm.label: study.trained.name(arm, run["seed"]) for arm in options.arms}
        found = {
            label: outputs(study.trained.load(name), study.test, args.per_device_eval_batch_size)
            for label, name in names.items()
        }
        labels = next(iter(found.values()))[1]
        entropies = measure({label: each[0] for label, each in found.items()}, labels, categories, [], options.samples)
        for label, figures in entropies.items():
            run[label][options.split] |= figures
    results = collect_results(args, runs, start, recipe="temperature_study", options=vars(options))
    write_results(results, output)
    table = markdown_table(results["summary"], {"accuracy": "accuracy", **ENTROPIES, **study.headings})
    (output / "table.md").write_text(f"{table}\n", encoding="utf-8")
    draw_temperatures(results["summary"][options.split], options.temperatures, output / "temperatures.png")
    if options.pictures:
        side_by_side(models, study.images, options.pictures, output / "concept.png")
    print(f"\n{table}\n\nIn {output}: concept.png, results.json, table.md, temperatures.png")
    return results


def draw_temperatures(
    summary: Mapping[str, Mapping[str, Mapping[str, float]]], temperatures: list[float], path: Path
) -> Figure:
    """Draw accuracy, detectors and the entropy within the category over T, with the seeds' spread (Fig. 4).

    What other students reach, such as one from scratch, is a dotted line.
    """
    panels = {
        "accuracy": "accuracy",
        "total": "concept detectors",
        "category_entropy": "entropy in the category (bits)",
    }
    figure = Figure(figsize=(9, 3), layout="constrained")
    others = [label for label in summary if not label.startswith(("teacher", "KD:temperature"))]
    for axis, (metric, title) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        drawn = {t: found[metric] for t in sorted(temperatures) if metric in (found := summary[name_of(t)])}
        means, spreads = ([each[part] for each in drawn.values()] for part in ("mean", "std"))
        axis.errorbar(list(drawn), means, spreads, marker="o", capsize=3, label="KD")
        for number, label in enumerate(others, start=1):
            if metric in summary[label]:
                axis.axhline(summary[label][metric]["mean"], color=f"C{number}", linestyle=":", label=label)
        axis.set(xlabel="temperature T", title=title)
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.3)
    if others:
        figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=150)
    return figure


if __name__ == "__main__":
    run_recipe(run_temperature_study, __doc__)
