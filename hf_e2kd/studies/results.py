"""Figures of several seeds, and the table that shows them."""

import statistics
from collections.abc import Mapping
from typing import Any

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
