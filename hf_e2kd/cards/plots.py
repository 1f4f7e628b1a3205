"""Plots of where teacher and students look."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..alignment.grids import resize_maps
from .escaping import escape_controls

if TYPE_CHECKING:
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

COLORMAP = "viridis"  # ordered in brightness and readable by colour-blind people
OPACITY = (0.2, 0.75)  # of the colours over the grey image, from strength 0 to 1: the strongest cells hide most
TILE = 1.9  # inches, a tile's width
LINE = 0.15  # inches, a caption line's height
CAPTION_WIDTH = 26  # characters that fit under a tile
HEADING_WIDTH = 20  # and above it, in larger type
GREY = (0.299, 0.587, 0.114)  # luma of red, green and blue, ITU-R BT.601


def explanation_panel(
    images: Tensor,
    columns: Mapping[str, Tensor],
    *,
    labels: Sequence[str] | None = None,
    predictions: Mapping[str, Sequence[str]] | None = None,
    similarities: Mapping[str, Sequence[float] | Tensor] | None = None,
    label_word: str = "true",
    path: str | Path | None = None,
) -> "Figure":
    """Draw one row a sample: the image, then each model's map drawn over the image in grey.

    Each map is enlarged bilinearly to the image and divided by its own maximum, so that all share one colour bar from
    0 to 1; what is negative is drawn as 0. A map without a positive value is left out of the drawing and named empty.

    Args:
        images: `(B, 3, H, W)` or `(B, 1, H, W)`; uint8, or floats from 0 to 1 (a processor's normalisation undone).
        columns: the maps `(B, h, w)` of each model, by its heading, in the order of the columns ("Teacher",
            "KD student", ...). Grids may differ.
        labels: the true class of each sample, shown under its image.
        predictions: for some or all headings, each sample's predicted class.
        similarities: for some or all headings, each sample's similarity to the teacher's map.
        label_word: what stands before a label, as "true: cat".
        path: where to save the plot too, at 150 dpi; the suffix decides the format.

    Returns:
        The figure. It belongs to no pyplot window, so the user's backend isn't touched and nothing must be closed.

    Raises:
        ValueError: the shapes don't fit together, an image leaves 0 to 1, a map is not finite, or predictions or
            similarities name a heading that isn't there.

    Example:
        >>> figure = explanation_panel(torch.rand(2, 3, 32, 32), {"Teacher": torch.rand(2, 4, 4)}, labels=["3", "7"])
        >>> len(figure.axes)  # two images, two maps, one colour bar
        5
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    predictions, similarities = predictions or {}, similarities or {}
    _check_inputs(images, columns, labels, predictions, similarities)
    pixels = images.detach().cpu().float() / (255 if images.dtype == torch.uint8 else 1)
    grey = _to_grey(pixels)

    truths = [""] * len(images) if labels is None else [_wrap(f"{label_word}: {label}") for label in labels]
    panels = [("Image", list(pixels.expand(-1, 3, -1, -1)), truths)]
    for heading, maps in columns.items():
        strengths = _normalise(maps, (images.shape[2], images.shape[3]))
        captions = [
            _caption(heading, row, strength, predictions, similarities) for row, strength in enumerate(strengths)
        ]
        panels.append((heading, [_overlay(*pair) for pair in zip(grey, strengths, strict=True)], captions))

    count, tile_height = len(images), TILE * images.shape[2] / images.shape[3]
    lines = 1 + max(caption.count("\n") for _, _, captions in panels for caption in captions)
    headings = [textwrap.fill(heading, HEADING_WIDTH) for heading, _, _ in panels]
    heading_lines = 1 + max(heading.count("\n") for heading in headings)
    height = (tile_height + LINE * (lines + 1)) * count + LINE * 1.5 * heading_lines
    figure = Figure(figsize=(TILE * len(panels) + 0.8, height), layout="constrained")
    axes = figure.subplots(count, len(panels), squeeze=False)
    for column, (_, tiles, captions) in enumerate(panels):
        axes[0, column].set_title(headings[column], fontsize=10)
        for axis, tile, caption in zip(axes[:, column], tiles, captions, strict=True):
            axis.imshow(tile.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(caption, fontsize=8)
    scale = ScalarMappable(Normalize(0, 1), _overlay_colours())
    bar = figure.colorbar(scale, ax=axes, shrink=min(1, 2 / count), anchor=(0, 1), aspect=30, pad=0.02)
    bar.set_label("explanation / its maximum", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _check_inputs(
    images: Tensor,
    columns: Mapping[str, Tensor],
    labels: Sequence[str] | None,
    predictions: Mapping[str, Sequence[str]],
    similarities: Mapping[str, Sequence[float] | Tensor],
) -> None:
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(f"images must be (B, 3, H, W) or (B, 1, H, W), but the shape is {tuple(images.shape)}.")
    if images.is_floating_point() and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"Float images must lie between 0 and 1, but go from {images.min():.2f} to {images.max():.2f}: undo the "
            "image processor's normalisation (pixels * std + mean), or pass uint8."
        )
    for heading, maps in columns.items():
        if maps.ndim != 3 or len(maps) != len(images):
            raise ValueError(
                f"The maps of {heading!r} must be ({len(images)}, h, w), one an image, but the shape is "
                f"{tuple(maps.shape)}."
            )
        if not maps.isfinite().all():
            raise ValueError(f"The maps of {heading!r} hold NaN or infinite values; leave these samples out.")
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"There are {len(images)} images, but {len(labels)} labels.")
    for name, captions in (("predictions", predictions), ("similarities", similarities)):
        for heading, values in captions.items():
            if heading not in columns:
                raise ValueError(f"{name} names {heading!r}, but the columns are {', '.join(columns)}.")
            if len(values) != len(images):
                raise ValueError(f"There are {len(images)} images, but {len(values)} {name} of {heading!r}.")


def _to_grey(pixels: Tensor) -> Tensor:
    """`(B, 1 or 3, H, W)` to `(B, H, W)`."""
    if pixels.shape[1] == 1:
        return pixels[:, 0]
    return torch.einsum("bchw,c->bhw", pixels, torch.tensor(GREY))


def _normalise(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge maps `(B, h, w)` to `(B, H, W)`; their positive part over its maximum. Zero maps stay zero."""
    maps = resize_maps(maps.detach().cpu().float(), size).clamp(min=0)
    peak = maps.amax(dim=(1, 2), keepdim=True)
    return maps / peak.where(peak > 0, 1)


def _overlay_colours() -> "ListedColormap":
    """The colour map with an opacity that rises with the strength."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    colours = colormaps[COLORMAP](np.linspace(0, 1, 256))
    colours[:, 3] = np.linspace(*OPACITY, 256)
    return ListedColormap(colours)


def _overlay(grey: Tensor, strength: Tensor) -> Tensor:
    """The colours of one map over one grey image, both `(H, W)` from 0 to 1; `(3, H, W)`. Empty maps add no colour."""
    backdrop = grey.expand(3, -1, -1)
    if not strength.any():
        return backdrop
    colours = torch.from_numpy(_overlay_colours()(strength.numpy())).permute(2, 0, 1)
    return torch.lerp(backdrop.double(), colours[:3], colours[3])


def _caption(
    heading: str,
    row: int,
    strength: Tensor,
    predictions: Mapping[str, Sequence[str]],
    similarities: Mapping[str, Sequence[float] | Tensor],
) -> str:
    """The lines under one map: the model's class, the similarity, and whether nothing could be drawn."""
    lines = []
    if heading in predictions:
        lines.append(_wrap(f"predicts: {predictions[heading][row]}"))
    if heading in similarities:
        lines.append(f"similarity: {float(similarities[heading][row]):.2f}")
    if not strength.any():
        lines.append("empty map")
    return "\n".join(lines)


def _wrap(line: str) -> str:
    """A caption on at most two lines of a tile's width, cut where it is longer."""
    return "\n".join(textwrap.wrap(escape_controls(line), CAPTION_WIDTH, max_lines=2, placeholder=" …"))
