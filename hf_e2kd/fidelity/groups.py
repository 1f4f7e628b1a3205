"""Figures by group of the samples, and of the worst group."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..data.groups import GROUP, Groups
from ..logs import get_logger
from ..metrics import f1_map
from ..metrics.running import SampleValues
from .prefixes import chance_levels, under_prefix, without_prefix
from .record import GroupsRecord, MetricValue
from .samples import are_several, joined
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
    # Beside several references, a figure ends in the name of its own.
    return any(figure == name or figure.startswith(f"{name}_") for name in LOWER_IS_BETTER)


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
        if logits is not None and are_several(labels):
            pooled = f1_map(joined(logits)[rows], joined(labels)[rows])
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


@dataclass(frozen=True)
class GroupedFigures:
    """All figures by group, of every student and explainer, by their names with prefixes.

    Args:
        columns: Columns of the data that make the groups.
        figures: Figures by group.
    """

    columns: tuple[str, ...]
    figures: dict[str, dict[str, MetricValue]]

    def under(self, prefix: str) -> "GroupedFigures":
        """Select the figures with a prefix, by what follows it."""
        return GroupedFigures(self.columns, {group: under_prefix(own, prefix) for group, own in self.figures.items()})

    def named(self, prefix: str = "") -> dict[str, dict[str, MetricValue]]:
        """Select the figures of one student, by their names without its prefix."""
        return {group: without_prefix(own, prefix) for group, own in self.figures.items()}

    def worst(self, prefixes: Iterable[str]) -> dict[str, MetricValue]:
        """Find the worst groups' figures of the students with these prefixes."""
        found = {prefix: worst_groups(self.named(prefix)) for prefix in prefixes}
        return {f"{prefix}{name}": figure for prefix, own in found.items() for name, figure in own.items()}

    def record(self, chance: bool) -> GroupsRecord:
        """Make the part of a record: the measured student's, without the groups' worst classes.

        Args:
            chance: True to record the similarity's chance levels.
        """
        kept = {
            group: {name: figure for name, figure in own.items() if not name.startswith("worst_")}
            for group, own in self.named().items()
        }
        levels = {group: chance_levels(own) for group, own in self.figures.items()} if chance else {}
        return GroupsRecord(list(self.columns), kept, levels)


def group_figures(
    values: SampleValues,
    groups: Groups,
    figures: Callable[[SampleValues, torch.Tensor], Mapping[str, MetricValue]],
) -> GroupedFigures:
    """Compute the figures by group, with a warning of groups that are too small to be the worst one.

    Args:
        values: Values of all samples, with the groups' numbers.
        groups: The samples' groups.
        figures: Function of the values of a group's samples, and of which samples these are, (N,) bool.
    """
    counts = np.bincount(groups.numbers)
    if small := [name for name, count in zip(groups.names, counts, strict=True) if count < SMALLEST_GROUP]:
        logger.warning(
            f"Groups with fewer than {SMALLEST_GROUP} samples don't count as the worst one: {', '.join(small)}."
        )
    return GroupedFigures(groups.columns, by_group(values, groups.names, figures))


def group_metrics(groups: Mapping[str, Mapping[str, MetricValue]]) -> Iterable[tuple[str, float]]:
    """List the metrics of an evaluation by group, as `accuracy/land`, and the worst groups'."""
    for group, figures in groups.items():
        for figure, value in figures.items():
            yield f"{figure}/{group}", value.value
    for figure, value in worst_groups(groups).items():
        yield figure, value.value
