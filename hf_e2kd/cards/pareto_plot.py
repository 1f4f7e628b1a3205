"""Plots of Pareto fronts: what models pay in one measure for another."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "tab10"  # qualitative, of which groups are told by their marker too
MARKERS = "osD^vP*X<>"
PALE = 0.25  # the opacity of dominated points
PANEL = (4.2, 3.6)  # inches, a panel's width and height

Points = Sequence[Mapping[str, float]]
Place = tuple[float, float]  # from left to right, and upwards


def pareto_plot(
    points: Points,
    front: Sequence[int],
    x: str,
    y: str | Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
    path: str | Path | None = None,
) -> "Figure":
    """Draw the points of a Pareto front beside those they dominate, one panel for each measure against `x`.

    A front over three measures has points that each panel of two measures shows as dominated. They stay solid; the
    line joins those that make up the front of the panel's own two measures, in each group.

    Args:
        points: the measures of each point by name, all better the larger.
        front: the positions of the points on the front, from `hf_e2kd.metrics.pareto.pareto_front`.
        x: the measure from left to right.
        y: the measure upwards, or several for as many panels.
        groups: each point's group, as the loss it was trained by; a group has one colour and marker.
        labels: a short text for each point, as its λ; written beside the points of the front.
        names: how to write the measures, as {"epg": "EPG"}; by default as they are.
        path: where to save the plot too, at 150 dpi; the suffix decides the format.

    Returns:
        The figure. It belongs to no pyplot window, so the user's backend isn't touched and nothing must be closed.

    Raises:
        ValueError: there is no point, the front names a point that isn't there, a point lacks a measure, or groups or
            labels are not one a point.

    Example:
        >>> points = [{"f1": 0.70, "epg": 0.50}, {"f1": 0.65, "epg": 0.60}, {"f1": 0.64, "epg": 0.55}]
        >>> figure = pareto_plot(points, [0, 1], "f1", "epg", labels=["0", "1", "5"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['0', '1']
    """
    from matplotlib.figure import Figure

    heights = [y] if isinstance(y, str) else list(y)
    _check_inputs(points, front, [x, *heights], groups=groups, labels=labels)
    names, solid = names or {}, set(front)
    rows_of: dict[str, list[int]] = {}
    for row in range(len(points)):
        rows_of.setdefault("" if groups is None else groups[row], []).append(row)

    figure = Figure(figsize=(PANEL[0] * len(heights), PANEL[1]), layout="constrained")
    for axis, height in zip(figure.subplots(1, len(heights), squeeze=False)[0], heights, strict=True):
        places = [(point[x], point[height]) for point in points]
        for number, (group, rows) in enumerate(rows_of.items()):
            best = [places[row] for row in rows if row in solid]
            _draw(axis, [places[row] for row in rows], best, number, group)
        if labels is not None:
            for row in front:
                axis.annotate(labels[row], places[row], (4, 4), textcoords="offset points", fontsize=8)
        axis.set_xlabel(names.get(x, x))
        axis.set_ylabel(names.get(height, height))
        axis.margins(0.1)  # room for the labels beside the outermost points
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
    if groups is not None:
        figure.axes[0].legend(fontsize=8)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _draw(axis: "Axes", places: Sequence[Place], best: Sequence[Place], number: int, group: str) -> None:
    """Draw one group: all its points pale, those of the front solid over them, and the line that joins the best."""
    from matplotlib import colormaps

    colour, marker = colormaps[COLOURS](number % 10), MARKERS[number % len(MARKERS)]
    # Named without a place, so that the legend is whole where a group has no point on the front.
    axis.plot([], [], color=colour, marker=marker, markersize=5, linewidth=1.2, label=group)
    pale = [place for place in places if place not in best]
    if pale:
        axis.scatter(*_coordinates(pale), s=22, color=colour, marker=marker, alpha=PALE, linewidths=0)
    if best:
        axis.scatter(*_coordinates(best), s=30, color=colour, marker=marker, zorder=3)
        joined = sorted(place for place in best if not _is_dominated(place, best))
        axis.plot(*_coordinates(joined), color=colour, linewidth=1.2)


def _coordinates(places: Sequence[Place]) -> tuple[list[float], list[float]]:
    return [place[0] for place in places], [place[1] for place in places]


def _is_dominated(place: Place, places: Sequence[Place]) -> bool:
    return any(other != place and other[0] >= place[0] and other[1] >= place[1] for other in places)


def _check_inputs(points: Points, front: Sequence[int], measures: Sequence[str], **texts: Sequence[str] | None) -> None:
    if not points:
        raise ValueError("There is no point to draw.")
    unknown = sorted(row for row in front if not 0 <= row < len(points))
    if unknown:
        raise ValueError(f"front names the points {unknown}, but there are {len(points)}, from 0.")
    for number, point in enumerate(points):
        missing = [name for name in measures if name not in point]
        if missing:
            raise ValueError(f"Point {number} has no {', '.join(missing)}. Its measures: {', '.join(point)}.")
    for name, values in texts.items():
        if values is not None and len(values) != len(points):
            raise ValueError(f"There are {len(points)} points, but {len(values)} {name}.")
