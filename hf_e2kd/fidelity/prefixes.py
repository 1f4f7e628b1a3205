"""Prefixes of the names of measured values: those of other students and of chance levels end in a slash."""

from collections.abc import Mapping

from .record import MetricValue

CHANCE, CONTROL, UNTRAINED = "chance/", "control/", "untrained/"


def compared_prefix(number: int) -> str:
    """Return the prefix of a compared student."""
    return f"compared {number}/"


def under_prefix(figures: Mapping[str, MetricValue], prefix: str) -> dict[str, MetricValue]:
    """Select the figures with a prefix, by what follows it, further prefixes included."""
    return {name.removeprefix(prefix): figure for name, figure in figures.items() if name.startswith(prefix)}


def without_prefix(figures: Mapping[str, MetricValue], prefix: str = "") -> dict[str, MetricValue]:
    """Select the figures with a prefix, by their names without it; those of the measured student have none."""
    return {name: figure for name, figure in under_prefix(figures, prefix).items() if "/" not in name}


def chance_levels(figures: Mapping[str, MetricValue]) -> dict[str, MetricValue]:
    """Select the chance levels of the similarity."""
    untrained = figures.get(f"{UNTRAINED}explanation_similarity")
    return without_prefix(figures, CHANCE) | ({} if untrained is None else {"untrained": untrained})
