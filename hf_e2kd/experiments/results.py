"""Figures of several seeds, and the table that shows them."""

import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..fidelity.training import ARGUMENTS, recorded_arguments
from ..trainer.arguments import ExplanationDistillArguments

RESULTS_FILE = "results.json"
"""File of a run's results in its output folder, which is written last."""

METRICS = {
    "accuracy": "accuracy",
    "f1": "F1",
    "map": "mAP",
    "agreement": "agreement",
    "spearman": "Spearman",
    "pearson": "Pearson",
    "mae": "MAE",
    "explanation_similarity": "similarity",
    "energy_pointing_game": "energy in the object",
    "word_accuracy": "word accuracy",
    "word_auroc": "word AUROC",
    "word_auprc": "word AUPRC",
}
"""Metrics of a table of results, in its order, with their headings; a table shows those that were measured."""

RECORDED = (*ARGUMENTS, "explainer", "explainer_options", "num_train_epochs", "max_steps", "iou_threshold")
"""Training arguments that results are read with."""


def describe_machine(device: torch.device) -> dict[str, str]:
    """Name the `device` and the version of `torch`."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": name, "torch": torch.__version__}


def measured_metrics(
    metrics: Mapping[str, float], prefix: str, wanted: Mapping[str, str] = METRICS, suffix: str = ""
) -> dict[str, float]:
    """Select the metrics of a table from what `evaluate()` returned.

    Args:
        metrics: Values by prefixed name.
        prefix: Beginning of the names, such as `"test_"` or, for the teacher's own metrics, `"test_teacher_"`.
        wanted: Metrics of the table.
        suffix: End of the names, such as `"/land"` for those of a group.
    """
    names = {name: f"{prefix}{name}{suffix}" for name in wanted}
    return {name: metrics[full] for name, full in names.items() if full in metrics}


def collect_results(
    args: ExplanationDistillArguments, runs: list[dict[str, Any]], start: float, **stated: Any
) -> dict[str, Any]:
    """Put together the content of a `results.json`.

    Args:
        args: Training arguments.
        runs: Each seed's figures so far: `seed`, and model → split → metric → value.
        start: `time.monotonic()` at the beginning.
        stated: Further entries, such as the recipe's name.
    """
    return {
        **stated,
        "arguments": recorded_arguments(args, RECORDED),
        **describe_machine(args.device),
        "seconds": round(time.monotonic() - start),
        "summary": summarise(runs),
        "runs": runs,
    }


def write_results(results: Mapping[str, Any], folder: Path, name: str = RESULTS_FILE) -> None:
    """Write results as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(results, indent=2, ensure_ascii=False), encoding="utf-8")


def summarise(runs: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Summarise runs by mean and standard deviation (n − 1; 0 for one run).

    Args:
        runs: Each seed's figures: `seed`, and model → split → metric → value.

    Returns:
        Split → model → metric → `mean`, `std`; the teacher first.
    """
    models = [model for model in runs[0] if model != "seed"]
    models.sort(key=lambda model: model != "teacher")
    summary: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for model in models:
        # A group may be missing in some runs, and a metric undefined.
        for split in dict.fromkeys(split for run in runs for split in run[model]):
            measured = [run[model].get(split, {}) for run in runs]
            for metric in dict.fromkeys(metric for own in measured for metric in own):
                values = [own[metric] for own in measured if metric in own]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                figures = summary.setdefault(split, {}).setdefault(model, {})
                figures[metric] = {"mean": statistics.fmean(values), "std": spread}
    return summary


def markdown_table(
    summary: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]], metrics: Mapping[str, str] = METRICS
) -> str:
    """Write the summary as a table, one row a split and model.

    Args:
        summary: Figures as `summarise` returns them.
        metrics: Metrics to show, in this order, as far as they were measured, with their headings.
    """
    shown = [m for m in metrics if any(m in figures for models in summary.values() for figures in models.values())]
    lines = [
        f"| data | model | {' | '.join(metrics[metric] for metric in shown)} |",
        f"|---|---|{'---|' * len(shown)}",
    ]
    for split, models in summary.items():
        for model, figures in models.items():
            cells = [_cell(figures.get(metric)) for metric in shown]
            lines.append(f"| {split.replace('_', ' ')} | {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(figure: Mapping[str, float] | None) -> str:
    if figure is None:
        return "–"
    if figure["mean"] >= 1000:  # a count, such as that of parameters
        return f"{figure['mean']:,.0f}"
    spread = f" ± {figure['std']:.3f}" if figure["std"] else ""
    return f"{figure['mean']:.3f}{spread}"
