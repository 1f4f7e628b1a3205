"""Figures of quantised models beside controls: of each row the samples' values, their means, the table, the picture."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from hf_e2kd.fidelity.intervals import mean_with_interval
from hf_e2kd.metrics import explanation_similarity

REFERENCE = "float32"
"""Name of the row that the others are compared with."""

MEASURES = {"spearman": "Spearman", "cosine": "cosine"}
"""Similarities of two maps, with their names."""

HEADINGS = {
    "agreement": "agreement",
    "kl": "KL ↓",
    "spearman": "Spearman",
    "cosine": "cosine",
    "alike": "alike",
    "alike_spearman": "Spearman, alike",
    "alike_cosine": "cosine, alike",
}
"""Figures of the table."""


@dataclass
class Row:
    """Outputs of one row on the first samples.

    Args:
        logits: (n, classes).
        maps: n maps (h, w) of the reference's class: falls of its logit by patch, or by word (1, words).
        about: Runtime, precision and costs.
    """

    logits: Tensor
    maps: list[Tensor]
    about: dict[str, Any]


def row_figures(row: Row, reference: Row, controls: Mapping[str, Row], small_kl: float, seed: int) -> dict[str, Any]:
    """Compute a row's figures, and its differences to controls on the same samples.

    Args:
        row: The row; of the reference itself there are no figures.
        reference: Row that it is compared with.
        controls: Rows that it stands beside, by name.
        small_kl: KL in nats up to which two decisions are alike.
        seed: Seed of the bootstrap.
    """
    own = {} if row is reference else sample_values(row, reference, small_kl)
    beside = {}
    for name, control in controls.items():
        other = sample_values(control, reference, small_kl)
        compared = [figure for figure in own if figure.removeprefix("alike_") in MEASURES]
        differences = {figure: own[figure] - other[figure][: len(own[figure])] for figure in compared}
        beside[name] = with_intervals(differences, seed)
    return {**row.about, "samples": len(row.maps), "figures": with_intervals(own, seed), "beside": beside}


def sample_values(row: Row, reference: Row, small_kl: float) -> dict[str, Tensor]:
    """Compare a row with the reference, sample by sample; NaN where a value isn't defined.

    Returns:
        Values (n,): `agreement`, `kl` (of the reference to the row, in nats), the maps' `spearman` and `cosine`,
        `alike` (1 where the class is the same and the KL at most `small_kl`), and both measures of those.
    """
    count = len(row.maps)
    before, after = reference.logits[:count].log_softmax(1), row.logits.log_softmax(1)
    agreement = (before.argmax(1) == after.argmax(1)).float()
    kl = F.kl_div(after, before, reduction="none", log_target=True).sum(1)
    alike = agreement * (kl <= small_kl)
    values = {"agreement": agreement, "kl": kl, "alike": alike}
    for measure_name in MEASURES:
        similarities = []
        for own, theirs in zip(row.maps, reference.maps, strict=False):
            # A word that was appended has no other to be compared with.
            pair = own[None, :, : theirs.shape[1]], theirs[None]
            value, valid = explanation_similarity(*pair, measure=measure_name)
            similarities.append(value.where(valid, torch.nan)[0])
        values[measure_name] = torch.stack(similarities)
        values[f"alike_{measure_name}"] = values[measure_name].where(alike.bool(), torch.nan)
    return values


def with_intervals(values: Mapping[str, Tensor], seed: int) -> dict[str, dict[str, Any]]:
    """Average values (n,) over the samples where they are defined, with 95 % bootstrap intervals."""
    found = {}
    for name, each in values.items():
        counts = (~each.isnan()).double()
        if counts.any():
            value = mean_with_interval(each.nan_to_num().double().numpy(), counts.numpy(), seed)
            found[name] = {key: part for key, part in asdict(value).items() if part is not None}
    return found


def drift_table(results: Mapping[str, Any]) -> str:
    """Write the figures, one row a model or control; the last columns are the cosine's differences to the controls."""
    controls = results["controls"]
    headings = ["", "samples", "quantised weights", "ms", *HEADINGS.values(), *(f"beside {each}" for each in controls)]
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    for name, row in results["rows"].items():
        share = "control" if name in controls else f"{100 * row['quantised_share']:.0f} %"
        figures = [_cell(row["figures"].get(figure)) for figure in HEADINGS]
        differences = [_cell(row["beside"].get(control, {}).get("cosine"), "+") for control in controls]
        cells = [name, str(row["samples"]), share, f"{row['cpu_ms_per_input']:.1f}", *figures, *differences]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_drift(results: Mapping[str, Any], path: Path) -> Figure:
    """Draw each row's similarities with their intervals, beside bands of the controls' intervals."""
    rows = {name: row for name, row in results["rows"].items() if name != REFERENCE}
    places = dict(zip(rows, range(len(rows) - 1, -1, -1), strict=True))
    figure = Figure(figsize=(9, 1 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots(1, len(MEASURES), sharey=True)
    for measure_name, axis in zip(MEASURES, axes, strict=True):
        for number, control in enumerate(name for name in results["controls"] if name in rows):
            band = rows[control]["figures"][measure_name]
            axis.axvspan(band["low"], band["high"], color=f"C{number + 2}", alpha=0.25, linewidth=0, label=control)
        for prefix, colour, label, shift in (("", "C0", "all samples", 0.12), ("alike_", "C1", "alike", -0.12)):
            shown = {name: row["figures"].get(f"{prefix}{measure_name}") for name, row in rows.items()}
            for name, figure_of in shown.items():
                if figure_of is None:
                    continue
                ends = [figure_of.get(end, figure_of["value"]) for end in ("low", "high")]
                axis.plot(ends, [places[name] + shift] * 2, color=colour, linewidth=1.4)
                axis.plot(figure_of["value"], places[name] + shift, "o", color=colour, markersize=4.5, label=label)
        axis.set_xlabel(f"{MEASURES[measure_name]} with the float32 model's maps")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(list(places.values()), list(places))
    handles, labels = axes[0].get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    figure.legend(once.values(), once.keys(), loc="outside upper center", ncols=len(once), fontsize=8)
    figure.savefig(path, dpi=150)
    return figure


def _cell(figure: Mapping[str, float] | None, sign: str = "") -> str:
    if figure is None:
        return "–"
    cell = f"{figure['value']:{sign}.3f}"
    return f"{cell} [{figure['low']:{sign}.3f}, {figure['high']:{sign}.3f}]" if "low" in figure else cell
