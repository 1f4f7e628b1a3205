"""Pictures of XDistillation's recipe: what the autoencoder learns, where students look, accuracy over epochs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from skimage.segmentation import mark_boundaries
from torch import Tensor

SCALES = "red: for the class; blue: against it; each map on its own scale"
"""Legend of maps."""


def draw_representations(images: Tensor, superpixels: Tensor, rows: Mapping[str, Tensor], path: Path) -> Figure:
    """Draw images, their superpixels, and maps of them, each map on its own scale (Figs. 3, 5, 6 and 7).

    Args:
        images: Images (N, 3, H, W), intensities from 0 to 1.
        superpixels: Superpixel (N, H, W) of each pixel.
        rows: Maps (N, H, W) by title.
        path: File to write.
    """
    figure = Figure(figsize=(1.2 * len(images) + 1, 1.2 * (2 + len(rows))), layout="constrained")
    axes = figure.subplots(2 + len(rows), len(images), squeeze=False)
    pictures = images.permute(0, 2, 3, 1).numpy()
    for place, image in enumerate(pictures):
        axes[0, place].imshow(image)
        # Enlarged, so that the boundaries are thinner than a pixel.
        large, parts = (each.repeat(4, axis=0).repeat(4, axis=1) for each in (image, superpixels[place].numpy()))
        axes[1, place].imshow(mark_boundaries(large, parts, color=(1, 0.6, 0), mode="inner"))
        for line, maps in zip(axes[2:], rows.values(), strict=True):
            _show_map(line[place], maps[place])
    _finish(axes, ["image", "superpixels", *rows])
    figure.supxlabel(SCALES.replace("; each", "\neach"), fontsize=7)
    figure.savefig(path, dpi=150)
    return figure


def draw_students(images: Tensor, maps: Mapping[str, Mapping[str, Tensor]], path: Path, count: int = 3) -> Figure:
    """Draw teacher's and students' maps of some images, by explainer (Figs. 9 to 11).

    Args:
        images: Images (N, 3, H, W), intensities from 0 to 1.
        maps: Explainer → model → maps (N, H, W).
        path: File to write.
        count: Number of images.
    """
    models = list(next(iter(maps.values())))
    count = min(count, len(images))
    figure = Figure(figsize=(1.2 * (1 + len(maps)) + 1, 1.2 * count * len(models)), layout="constrained")
    axes = figure.subplots(count * len(models), 1 + len(maps), squeeze=False)
    for row in range(count * len(models)):
        place, model = row // len(models), models[row % len(models)]
        axes[row, 0].imshow(images[place].permute(1, 2, 0).numpy())
        for axis, of_models in zip(axes[row, 1:], maps.values(), strict=True):
            _show_map(axis, of_models[model][place])
    _finish(axes, models * count)
    for axis, title in zip(axes[0], ["image", *maps], strict=True):
        axis.set_title(title, fontsize=8)
    figure.supxlabel(SCALES, fontsize=8)
    figure.savefig(path, dpi=150)
    return figure


def draw_accuracies(curves: Mapping[str, Mapping[str, list[float]]], path: Path) -> Figure:
    """Draw students' accuracies over the epochs, means over seeds (Fig. 8: by λ).

    Args:
        curves: Seed → student → accuracy after each epoch.
        path: File to write.
    """
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    axis = figure.subplots()
    for number, name in enumerate(next(iter(curves.values()))):
        mean = np.mean([each[name] for each in curves.values()], axis=0)
        style = {"color": colormaps["tab20"](number), "marker": "o", "markersize": 3, "linewidth": 1}
        axis.plot(range(1, len(mean) + 1), mean, label=name, **style)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.set(xlabel="epoch", ylabel="accuracy on test images")
    axis.grid(alpha=0.3)
    figure.legend(fontsize=7, loc="outside right upper")
    figure.savefig(path, dpi=150)
    return figure


def _show_map(axis: Any, own: Tensor) -> None:
    peak = float(own.abs().max()) or 1.0
    axis.imshow(own.numpy(), cmap="RdBu_r", vmin=-peak, vmax=peak)


def _finish(axes: Any, titles: list[str]) -> None:
    for line, title in zip(axes, titles, strict=True):
        line[0].set_ylabel(title.replace(" of ", "\nof "), fontsize=7)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
