"""Figures of a record from samples' values: means with bootstrap intervals, and the worst classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from ..alignment.labels import class_names, is_multi_label, is_score
from ..metrics import f1_map
from ..metrics.running import SampleValues
from .record import MetricValue
from .samples import are_several
from .scores import score_figures

RESAMPLES = 1000
"""Bootstrap resamples of a mean."""

POOLED_RESAMPLES = 200
"""Bootstrap resamples of figures of all samples at once (F1, mAP), which take longer."""

SHARES = frozenset(
    {
        *("accuracy", "agreement", "agreement_where_teacher_errs", "negative_flips", "zero_student_maps"),
        *("teacher_accuracy", "zero_teacher_maps"),
    }
)
"""Figures that are shares of samples, whose exact interval is known."""

SMALLEST_CLASS = 10
"""Samples that a class must have to be the worst one."""

LABEL, TEACHER_CLASS = "_label", "_teacher_class"
"""Columns of values that are no figures of their own: classes by which others are grouped."""


def student_figures(
    values: SampleValues, student: nn.Module, seed: int, logits: Any = None, labels: Any = None, rows: Any = slice(None)
) -> dict[str, MetricValue]:
    """Compute all figures of samples' values, with their intervals.

    Args:
        values: Values of the samples, of the student and those beside it.
        student: The student, whose problem decides on the figures.
        seed: Seed of the resamples.
        logits, labels: The student's logits and the labels of all samples (N, classes), for F1 and mAP; None without.
        rows: Which of all samples these are.

    Returns:
        Values by name, as of `metric_values`.
    """
    found = metric_values(values, seed, class_names(student))
    if is_multi_label(student) and logits is not None and are_several(labels):
        found |= pooled_values(torch.as_tensor(logits)[rows], torch.as_tensor(labels)[rows], seed)
    if is_score(student):
        found |= score_figures(values, POOLED_RESAMPLES, seed)
    return found


def metric_values(values: SampleValues, seed: int, names: Sequence[str] | None) -> dict[str, MetricValue]:
    """Average the samples' values, with bootstrap intervals and the worst classes.

    Args:
        names: Names of the student's classes.

    Returns:
        Values by name; those of other students and chance levels have a slash in their names.
    """
    found = {}
    for name in values.names:
        sums, counts = values.of(name)
        if not name.split("/")[-1].startswith("_") and counts.sum():
            found[name] = mean_with_interval(sums, counts, seed, is_share=name.split("/")[-1] in SHARES)
    for metric, column in {"accuracy": LABEL, "agreement": TEACHER_CLASS}.items():
        if metric in found and column in values.names:
            worst = _worst_class(values, metric, column, names)
            if worst is not None:
                found[f"worst_class_{metric}"] = worst
    return found


def exact_end(samples: int) -> float:
    """Return the lower end of the exact 95 % interval of a share that is 1 on all samples.

    References:
        Clopper & Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
        Biometrika 1934.

    Example:
        >>> round(exact_end(40), 3)
        0.912
    """
    return 0.025 ** (1 / samples)


def mean_with_interval(sums: np.ndarray, counts: np.ndarray, seed: int, is_share: bool = False) -> MetricValue:
    """Average samples' values (N,), with the 95 % percentile bootstrap interval over the samples.

    Args:
        sums, counts: Sum and number (N,) of each sample's values: a sample may have several, or none.
        is_share: True for a share of samples: where it is 1 or 0, whose resamples are all alike, it gets the exact
            interval.

    References:
        Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    kept = counts > 0
    sums, counts = sums[kept], counts[kept]
    value, samples = float(sums.sum() / counts.sum()), len(sums)
    if samples < 2:
        return MetricValue(value, samples=samples)
    if is_share and value in (0, 1):
        low, high = (exact_end(samples), 1.0) if value == 1 else (0.0, 1 - exact_end(samples))
        return MetricValue(value, low, high, samples)
    from scipy import stats

    interval = stats.bootstrap(
        (sums, counts),
        lambda sums, counts, axis: sums.sum(axis) / counts.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=100,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return MetricValue(value, float(interval.low), float(interval.high), samples)


def pooled_values(logits: torch.Tensor, labels: torch.Tensor, seed: int) -> dict[str, MetricValue]:
    """Compute micro-F1 and mean average precision of a multi-label student, with intervals over the samples.

    Args:
        logits, labels: Logits, and labels of zeros and ones, (N, classes).
    """
    count, rng = len(logits), np.random.default_rng(seed)
    resamples = [np.arange(count), *(rng.integers(0, count, count) for _ in range(POOLED_RESAMPLES))]
    values: dict[str, list[Any]] = {name: [] for name in ("f1", "map")}
    for rows in tqdm(resamples, desc="Intervals of F1 and mAP", leave=False, disable=None):
        found = f1_map(logits[rows], labels[rows])
        for name, own in values.items():
            own.append(found[name])
    figures = {}
    for name, (value, *resampled) in values.items():
        if not np.isnan(value):
            low, high = np.nanpercentile(resampled, [2.5, 97.5]).tolist()
            figures[name] = MetricValue(value, low, high, count)
    return figures


def _worst_class(values: SampleValues, metric: str, column: str, names: Sequence[str] | None) -> MetricValue | None:
    """Find the class with the lowest metric, among those with enough samples; None where there are none."""
    sums, counts = values.of(metric)
    classes = values.of(column)[0]
    worst = None
    for number in np.unique(classes[counts > 0]):
        rows = (classes == number) & (counts > 0)
        if number < 0 or rows.sum() < SMALLEST_CLASS:
            continue
        value = float(sums[rows].sum() / counts[rows].sum())
        if worst is None or value < worst.value:
            name = str(int(number)) if names is None else names[int(number)]
            worst = MetricValue(value, samples=int(rows.sum()), detail=name)
    return worst
