"""The picture of a dissection: the images that the best detectors are most activated by."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ...alignment.grids import resize_maps
from ...architectures.base import evaluating
from ...architectures.taps import Taps
from ...data.concepts import ConceptImages
from .concept_samples import ConceptSamples
from .dissection import layer_maps, processor_of
from .dissection_result import DissectedLayer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REGION = "#ffd400"
CONCEPT = "#00e5ff"
DIMMED = 0.45
"""Brightness outside a unit's region."""


def detector_figure(
    model: nn.Module,
    images: ConceptImages,
    layer: DissectedLayer,
    *,
    processing_class: Any = None,
    units: int | Sequence[int] = 6,
    columns: int = 4,
    path: str | Path | None = None,
) -> "Figure":
    """Draw one row a unit: the images that activate it most, dimmed outside its region, whose outline is drawn.

    The labelled concept is outlined too, where the image has it.

    Args:
        model: Dissected model.
        images: Images that it was dissected on.
        layer: A layer of the result, `dissection.of(layer, quantile)`.
        processing_class: Image processor, as in `network_dissection`.
        units: Number of units, the best detectors, or units by their numbers.
        columns: Number of images a unit; there are at most as many as `top_images` of the dissection.
        path: File to save the picture to, at 150 dpi.

    Returns:
        The figure, which belongs to no window of pyplot.

    Raises:
        ValueError: no unit has a concept, or there is no such unit.
    """
    from matplotlib.figure import Figure

    chosen = layer.best(units) if isinstance(units, int) else list(units)
    if not chosen or not all(0 <= unit < len(layer.units) for unit in chosen):
        raise ValueError(
            f"There is nothing to draw of the units {chosen}: the layer has {len(layer.units)}, of which "
            f"{len(layer.best(len(layer.units)))} meet a concept."
        )
    processor = processor_of(model, processing_class)
    samples = ConceptSamples(images, processor)
    samples.mask_size = samples.view.size  # drawn on the image
    numbers = {(concept.category, concept.name): number for number, concept in images.concepts.items()}
    columns = min(columns, max(len(layer.units[unit].top_images) for unit in chosen))
    ratio = samples.view.size[0] / samples.view.size[1]
    figure = Figure(figsize=(1.7 * columns + 1.6, 1.75 * ratio * len(chosen) + 0.4), layout="constrained")
    axes = figure.subplots(len(chosen), columns, squeeze=False)
    parameter = next(model.parameters())
    taps = Taps(model, [layer.layer])
    try:
        with evaluating(model), torch.no_grad():
            for row, number in enumerate(chosen):
                unit = layer.units[number]
                own = numbers.get((unit.category or "", unit.concept or ""))
                axes[row, 0].set_ylabel(_caption(number, layer), rotation=0, ha="right", va="center", fontsize=8)
                for axis in axes[row]:
                    axis.set(xticks=[], yticks=[])
                for axis, image in zip(axes[row], unit.top_images, strict=False):
                    sample = samples[image]
                    maps = layer_maps(model, taps, sample.pixel_values[None].to(parameter))[layer.layer]
                    region = resize_maps(maps[0, number], samples.view.size) > unit.threshold
                    pixels = samples.view.intensities(sample.pixel_values).clamp(0, 1).movedim(0, -1).numpy()
                    places = (sample.present == samples.places[own]).nonzero() if own is not None else torch.empty(0)
                    members = sample.members[places[0, 0]].view(samples.mask_size).numpy() if len(places) else None
                    _draw(axis, pixels, region.cpu().numpy(), members)
    finally:
        taps.remove()
    _legend(figure)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _caption(number: int, layer: DissectedLayer) -> str:
    unit = layer.units[number]
    concept = "no concept" if unit.concept is None else f"{unit.concept}\n({unit.category})"
    return f"unit {number}\n{concept}\nIoU {unit.iou:.3f}"


def _draw(axis: "Axes", pixels: np.ndarray, region: np.ndarray, members: np.ndarray | None) -> None:
    """Draw an image (H, W, channels) with the outlines of a region and of a concept (H, W), bool."""
    shown = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    axis.imshow(np.where(region[..., None], shown, DIMMED * shown))
    for mask, colour, style in ((members, CONCEPT, "dashed"), (region, REGION, "solid")):
        if mask is not None and mask.any() and not mask.all():
            axis.contour(mask, levels=[0.5], colors=colour, linewidths=1.2, linestyles=style)


def _legend(figure: "Figure") -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=REGION), Line2D([], [], color=CONCEPT, linestyle="dashed")]
    figure.legend(lines, ["activated region", "labelled concept"], loc="outside lower center", ncols=2, fontsize=8)
