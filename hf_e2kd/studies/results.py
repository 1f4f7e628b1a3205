"""Figures of several seeds, and the table that shows them."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..trainer.arguments import ExplanationDistillArguments

# What a table of results shows, in this order, as far as it was measured.
METRICS = {
    "accuracy": "accuracy",
    "agreement": "agreement",
    "explanation_similarity": "similarity",
    "energy_pointing_game": "energy in the object",
    "word_accuracy": "word accuracy",
    "word_auroc": "word AUROC",
    "word_auprc": "word AUPRC",
}

_RECORDED = (
    *("explainer", "explainer_options", "explanation_weight", "explanation_loss", "explanation_target"),
    *("explanation_fraction", "explanation_interval", "task_weight", "logits_weight", "temperature"),
    *("num_train_epochs", "max_steps", "learning_rate", "weight_decay", "max_grad_norm", "bf16", "fp16", "seed"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "iou_threshold"),
)


def recorded_arguments(args: ExplanationDistillArguments) -> dict[str, Any]:
    """The arguments that results are read with."""
    return {name: getattr(args, name) for name in _RECORDED}


def describe_machine(device: torch.device) -> dict[str, str]:
    """The `device` by name, and the version of `torch`."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": name, "torch": torch.__version__}


def write_results(results: Mapping[str, Any], folder: Path, name: str = "results.json") -> None:
    """Writes results as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(results, indent=2, ensure_ascii=False), encoding="utf-8")


def summarise(runs: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Mean and standard deviation (n − 1; 0 for one run) over the runs: split → side → metric → `mean`, `std`."""
    sides = [side for side in runs[0] if side != "seed"]
    sides.sort(key=lambda side: side != "teacher")
    summary: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for side in sides:
        for split in runs[0][side]:
            # A metric may be undefined in some runs.
            for metric in dict.fromkeys(metric for run in runs for metric in run[side][split]):
                values = [run[side][split][metric] for run in runs if metric in run[side][split]]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                figures = summary.setdefault(split, {}).setdefault(side, {})
                figures[metric] = {"mean": statistics.fmean(values), "std": spread}
    return summary


def markdown_table(
    summary: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]], metrics: Mapping[str, str] = METRICS
) -> str:
    """The summary as a table, one row a split and side.

    Args:
        metrics: What to show, in this order, as far as it was measured, and what to call it.
    """
    shown = [m for m in metrics if any(m in figures for sides in summary.values() for figures in sides.values())]
    lines = [
        f"| data | model | {' | '.join(metrics[metric] for metric in shown)} |",
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
