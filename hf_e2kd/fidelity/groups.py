"""Figures by group of the samples, and of the worst group."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..data.groups import GROUP, Groups
from ..logs import get_logger
from ..metrics import f1_map
from ..metrics.running import SampleValues
from .prefixes import chance_levels, without_prefix
from .record import GroupsRecord, MetricValue
from .scores import score_figures

logger = get_logger(__name__)

SMALLEST_GROUP = 10
"""Samples that a group must have to be the worst one."""

WORST_GROUP = "worst_group_"
"""Beginning of the names of the worst group's figures."""

LOWER_IS_BETTER = frozenset(
    {"deletion", "kl", "label_mae", "mae", "negative_flips", "sufficiency", "zero_student_maps"}
)
"""Figures whose lower values are the better ones."""

NEITHER_GOOD_NOR_BAD = ("agreement_where_teacher_errs",)
"""Figures without a better direction."""

_NOT_THE_STUDENTS = ("teacher_", "zero_teacher_", "worst_", "_")


def is_lower_better(figure: str) -> bool:
    """Tell whether lower values of a figure are the better ones, of one of a group, class or held-out explainer too."""
    figure = figure.split("/")[0]
    for part in (WORST_GROUP, "worst_class_"):
        figure = figure.removeprefix(part)
    return figure in LOWER_IS_BETTER


def by_group(
    values: SampleValues, names: Sequence[str], figures: Callable[[SampleValues, torch.Tensor], Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Compute figures of each group of samples.

    Args:
        values: Values of all samples, with the groups' numbers.
        names: Names of the groups by their number.
        figures: Function of the values of a group's samples, and of which samples these are, (N,) bool.

    Returns:
        Figures by the group's name; without groups none of whose samples were measured.
    """
    numbers = values.of(GROUP)[0]
    found = {}
    for number, name in enumerate(names):
        rows = numbers == number
        if rows.any():
            found[name] = dict(figures(values.where(rows), torch.from_numpy(rows)))
    return found


def means_by_group(
    values: SampleValues, names: Sequence[str], logits: Any = None, labels: Any = None
) -> dict[str, dict[str, MetricValue]]:
    """Compute each group's metrics without intervals, as an evaluation does.

    Args:
        values: Values of all samples, with the groups' numbers.
        names: Names of the groups by their number.
        logits, labels: (N, classes) of a multi-label student, for its F1 and mAP; None of others.
    """

    def figures(own: SampleValues, rows: torch.Tensor) -> dict[str, MetricValue]:
        found = {
            name: MetricValue(value, samples=int((own.of(name)[1] > 0).sum())) for name, value in own.means().items()
        }
        if logits is not None:
            pooled = f1_map(torch.as_tensor(logits)[rows], torch.as_tensor(labels)[rows])
            count = int(rows.sum())
            found |= {
                name: MetricValue(value, samples=count)
                for name, value in pooled.items()
                if isinstance(value, float) and not math.isnan(value)
            }
        return found | score_figures(own)

    return by_group(values, names, figures)


def worst_groups(groups: Mapping[str, Mapping[str, MetricValue]]) -> dict[str, MetricValue]:
    """Find the group with the worst value of each of the student's figures, among those with enough samples.

    Args:
        groups: Figures by group.

    Returns:
        `worst_group_…` by figure, with the interval of that group's own value and its name as the detail. The lowest
        of several groups' values lies below the group's expected one, so that the interval errs towards caution.
    """
    found = {}
    for figure in dict.fromkeys(figure for figures in groups.values() for figure in figures):
        if figure.startswith(_NOT_THE_STUDENTS) or figure in NEITHER_GOOD_NOR_BAD:
            continue
        counted = {
            group: figures[figure]
            for group, figures in groups.items()
            if figure in figures and (figures[figure].samples or 0) >= SMALLEST_GROUP
        }
        if counted:
            choose = max if is_lower_better(figure) else min
            worst = choose(counted, key=lambda group: counted[group].value)
            found[f"{WORST_GROUP}{figure}"] = replace(counted[worst], detail=worst)
    return found


def group_figures(
    values: SampleValues,
    groups: Groups,
    figures: Callable[[SampleValues, torch.Tensor], Mapping[str, MetricValue]],
    prefixes: Sequence[str],
    chance: bool,
) -> tuple[GroupsRecord, dict[str, MetricValue]]:
    """Compute the figures by group of a record.

    Args:
        values: Values of all samples, with the groups' numbers.
        groups: The samples' groups.
        figures: Function of the values of a group's samples, and of which samples these are, (N,) bool.
        prefixes: Prefixes of the students' names, "" for the measured one.
        chance: True to record the similarity's chance levels.

    Returns:
        The record's part, without the groups' worst classes; and the worst groups' figures of each student.
    """
    found = by_group(values, groups.names, figures)
    kept = {
        group: {name: figure for name, figure in without_prefix(each).items() if not name.startswith("worst_")}
        for group, each in found.items()
    }
    levels = {group: chance_levels(each) for group, each in found.items()} if chance else {}
    worst: dict[str, MetricValue] = {}
    for prefix in prefixes:
        own = worst_groups({group: without_prefix(each, prefix) for group, each in found.items()})
        worst |= {f"{prefix}{name}": figure for name, figure in own.items()}
    counts = np.bincount(groups.numbers)
    if small := [name for name, count in zip(groups.names, counts, strict=True) if count < SMALLEST_GROUP]:
        logger.warning(
            f"Groups with fewer than {SMALLEST_GROUP} samples don't count as the worst one: {', '.join(small)}."
        )
    return GroupsRecord(list(groups.columns), kept, levels), worst


def group_metrics(groups: Mapping[str, Mapping[str, MetricValue]]) -> Iterable[tuple[str, float]]:
    """List the metrics of an evaluation by group, as `accuracy/land`, and the worst groups'."""
    for group, figures in groups.items():
        for figure, value in figures.items():
            yield f"{figure}/{group}", value.value
    for figure, value in worst_groups(groups).items():
        yield figure, value.value
