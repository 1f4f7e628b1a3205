"""Plots of where teacher and students look."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .escaping import escape_controls
from .fonts import Fonts, fonts_for
from .strengths import (
    COLORMAP,
    PERCENTILE,
    difference_colours,
    drawn_strengths,
    is_fine,
    overlay,
    overlay_colours,
    overlay_difference,
    to_grey,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLORMAP", "explanation_panel"]

# Inches.
TILE = 1.9  # width of a tile
LINE = 0.15  # height of a caption's line
GAP = 0.12  # between tiles
MARGIN = 0.15
BAR = 0.06  # height of a similarity's bar
SCALE = 0.11  # height of a colour bar

TILES_ACROSS = 6
CAPTION_WIDTH = 26  # characters that fit under a tile
HEADING_WIDTH = 20  # and above it, in larger type
NOTE_WIDTH = 15.5  # characters of the note in an inch
RIGHT, WRONG = "✓", "✗"
FRAME = "#d55e00"  # vermilion, which is neither in the colours of the maps nor taken for grey
DIFFERENCE = "Difference"


@dataclass
class _Tile:
    """One picture of the panel: its pixels (3, H, W), the lines below, the bar's length and whether it is framed."""

    pixels: Tensor
    caption: str = ""
    similarity: float | None = None
    framed: bool = False


def explanation_panel(
    images: Tensor,
    columns: Mapping[str, Tensor],
    *,
    labels: Sequence[str | None] | None = None,
    explained: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    predictions: Mapping[str, Sequence[str]] | None = None,
    similarities: Mapping[str, Sequence[float] | Tensor] | None = None,
    reference: str | None = None,
    difference: str | None = None,
    note: str = "",
    path: str | Path | None = None,
) -> "Figure":
    """Draw of each sample the image, then each model's map over the image in grey.

    Coarse maps are enlarged bilinearly and divided by their own maximum. Fine maps, of 56 or more rows or columns, are
    smoothed and divided by the 99th percentile of their positive values, as their single pixels would not be seen; the
    colour bar says so. What is negative is drawn as 0. A map without a positive value is left out of the drawing and
    named empty. Samples of few columns stand side by side.

    Args:
        images: Images (B, 3, H, W) or (B, 1, H, W); uint8, or floats from 0 to 1 (a processor's normalisation undone).
        columns: Maps (B, h, w) of each model by its heading, in the order of the columns ("Teacher", "KD student",
            ...). Grids may differ.
        labels: True class of each sample, shown under its image; predictions are marked as right or wrong by it. None
            of a sample without one.
        explained: Class that the maps of each sample are about, shown where it isn't the true one.
        names: Name of each sample, such as its file's.
        predictions: For some or all headings, each sample's predicted class.
        similarities: For some or all headings, each sample's similarity to the reference's map, also drawn as a bar.
        reference: Heading of the model that the others are compared with: tiles whose prediction isn't the
            reference's are framed.
        difference: Heading of the model whose strengths minus the reference's are drawn in a last column.
        note: Sentence below the picture, such as how the samples were chosen.
        path: File in which the plot is saved too, at 150 dpi; the suffix decides the format.

    Returns:
        The figure. It belongs to no pyplot window, so the user's backend isn't touched and nothing must be closed.

    Raises:
        ValueError: the shapes don't fit together, an image leaves 0 to 1, a map is not finite, or a heading is named
            that isn't there.

    Example:
        >>> figure = explanation_panel(torch.rand(2, 3, 32, 32), {"Teacher": torch.rand(2, 4, 4)}, labels=["3", "7"])
        >>> len(figure.axes)  # two images, two maps, one colour bar
        5
    """
    predictions, similarities = predictions or {}, similarities or {}
    _check_inputs(images, columns, {"labels": labels, "explained classes": explained, "names": names})
    _check_headings(images, columns, predictions, similarities, reference, difference)
    pixels = images.detach().cpu().float() / (255 if images.dtype == torch.uint8 else 1)
    grey = to_grey(pixels)
    size = (images.shape[2], images.shape[3])
    strengths = {heading: drawn_strengths(maps, size) for heading, maps in columns.items()}
    rows = []
    for row in range(len(images)):
        tiles = [_Tile(pixels[row].expand(3, -1, -1), _facts(row, labels, explained, names))]
        for heading, drawn in strengths.items():
            predicted = predictions[heading][row] if heading in predictions else None
            similarity = float(similarities[heading][row]) if heading in similarities else None
            lines = [] if predicted is None else [_wrap(f"predicts: {predicted}", _mark(predicted, labels, row))]
            lines += [] if similarity is None else [f"similarity: {similarity:.2f}"]
            lines += [] if drawn[row].any() else ["empty map"]
            expected = predictions[reference][row] if reference is not None and reference in predictions else None
            framed = None not in (predicted, expected) and predicted != expected
            tiles.append(_Tile(overlay(grey[row], drawn[row]), "\n".join(lines), similarity, framed))
        if difference is not None and reference is not None:
            tiles.append(_Tile(overlay_difference(grey[row], strengths[difference][row] - strengths[reference][row])))
        rows.append(tiles)
    headings = ["Image", *columns, *([DIFFERENCE] if difference is not None else [])]
    scales = [_scale_label(columns.values()), *([f"{difference} − {reference}"] if difference is not None else [])]
    legend = _legend(columns, predictions, similarities, labels, reference)
    figure = _drawn(rows, headings, scales, f"{legend} {note}".strip())
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _facts(
    row: int, labels: Sequence[str | None] | None, explained: Sequence[str] | None, names: Sequence[str] | None
) -> str:
    """The lines under an image: its name, its true class and the explained one."""
    label = None if labels is None else labels[row]
    lines = [] if names is None else [_wrap(str(names[row]))]
    lines += [] if label is None else [_wrap(f"true: {label}")]
    if explained is not None and explained[row] != label:
        lines.append(_wrap(f"explained: {explained[row]}"))
    return "\n".join(lines)


def _mark(predicted: str, labels: Sequence[str | None] | None, row: int) -> str:
    label = None if labels is None else labels[row]
    return "" if label is None else f" {RIGHT if predicted == label else WRONG}"


def _wrap(line: str, mark: str = "") -> str:
    """A caption on at most two lines of a tile's width, cut where it is longer, with a mark after it."""
    width = CAPTION_WIDTH - len(mark)
    return "\n".join(textwrap.wrap(escape_controls(line), width, max_lines=2, placeholder=" …")) + mark


def _scale_label(maps: Iterable[Tensor]) -> str:
    """The label of the colour bar of the maps."""
    fine = {is_fine(each) for each in maps}
    if fine == {True}:
        return f"explanation, smoothed / its {PERCENTILE}th percentile"
    return "explanation / its maximum" + (
        f"; fine maps smoothed / their {PERCENTILE}th percentile" if True in fine else ""
    )


def _legend(
    columns: Mapping[str, Tensor],
    predictions: Mapping[str, Sequence[str]],
    similarities: Mapping[str, Sequence[float] | Tensor],
    labels: Sequence[str | None] | None,
    reference: str | None,
) -> str:
    """Sentences that explain the picture: the maps' cells, marks, frames and bars."""
    grids = {heading: f"{maps.shape[1]}×{maps.shape[2]}" for heading, maps in columns.items()}
    if len(set(grids.values())) == 1:
        sentences = [f"Maps of {next(iter(grids.values()))} cells."]
    else:
        sentences = [f"Maps of {', '.join(f'{grid} cells ({heading})' for heading, grid in grids.items())}."]
    if predictions and labels is not None:
        sentences.append(f"{RIGHT} right, {WRONG} wrong.")
    if reference in predictions and len(predictions) > 1:
        sentences.append(f"Frame: another prediction than that of {reference}.")
    if similarities:
        sentences.append("Bar: similarity, from 0 to 1.")
    return " ".join(sentences)


def _drawn(rows: "list[list[_Tile]]", headings: Sequence[str], scales: Sequence[str], note: str) -> "Figure":
    """Lay the tiles out, each at its size in inches, so that no blank is left."""
    from matplotlib.figure import Figure

    headings = [textwrap.fill(heading, HEADING_WIDTH) for heading in headings]
    fonts = fonts_for(
        [note, *headings, *scales, *(tile.caption for tiles in rows for tile in tiles)], "give names that it can draw"
    )
    across = max(1, min(len(rows), TILES_ACROSS // len(headings)))
    across = -(-len(rows) // -(-len(rows) // across))  # as many rows, filled evenly
    bands = [rows[start : start + across] for start in range(0, len(rows), across)]
    tile_height = TILE * rows[0][0].pixels.shape[1] / rows[0][0].pixels.shape[2]
    has_bars = any(tile.similarity is not None for tiles in rows for tile in tiles)
    below = [
        max(_lines(tile.caption) for tiles in band for tile in tiles) * LINE + 2 * BAR * has_bars for band in bands
    ]
    block = len(headings) * TILE + (len(headings) - 1) * GAP
    width = across * block + (across - 1) * 3 * GAP + 2 * MARGIN
    note = textwrap.fill(note, int(NOTE_WIDTH * (width - 2 * MARGIN)))
    top = MARGIN + LINE * 1.2 * max(_lines(heading) for heading in headings)
    foot = SCALE + 2.7 * LINE + _lines(note) * LINE + MARGIN
    height = top + sum(tile_height + space + GAP for space in below) + foot
    figure = Figure(figsize=(width, height))

    def axes_at(left: float, upper: float, wide: float, high: float) -> "Axes":
        return figure.add_axes((left / width, 1 - (upper + high) / height, wide / width, high / height))

    y = top
    for number, (band, space) in enumerate(zip(bands, below, strict=True)):
        for place, tiles in enumerate(band):
            for column, tile in enumerate(tiles):
                left = MARGIN + place * (block + 3 * GAP) + column * (TILE + GAP)
                axes = axes_at(left, y, TILE, tile_height)
                _draw_tile(axes, tile, fonts, tile_height)
                if number == 0:
                    axes.set_title(fonts.drawable(headings[column]), fontsize=10, pad=5, fontfamily=fonts.families)
        y += tile_height + space + GAP
    _draw_scales(
        figure,
        [axes_at(MARGIN + each * width / 2, y, min(TILE * 1.3, width / 2), SCALE) for each in range(len(scales))],
        scales,
        fonts,
    )
    bottom = 1 - (y + SCALE + 2.7 * LINE) / height
    figure.text(
        MARGIN / width,
        bottom,
        fonts.drawable(note),
        fontsize=7.5,
        va="top",
        parse_math=False,
        fontfamily=fonts.families,
    )
    return figure


def _draw_tile(axes: "Axes", tile: _Tile, fonts: Fonts, height: float) -> None:
    from matplotlib.patches import Rectangle

    axes.imshow(tile.pixels.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest", aspect="auto")
    axes.set(xticks=[], yticks=[])
    caption = fonts.drawable(tile.caption)
    pad = 2 if tile.similarity is None else 2 + 2 * BAR * 72
    axes.set_xlabel(caption, fontsize=8, labelpad=pad, parse_math=False, fontfamily=fonts.families)
    for spine in axes.spines.values():
        spine.set(color=FRAME if tile.framed else "black", linewidth=3 if tile.framed else 0.5)
    if tile.similarity is not None:
        for length, colour in ((1.0, "#d9d9d9"), (min(max(tile.similarity, 0.0), 1.0), "#404040")):
            bar = Rectangle((0, -2 * BAR / height), length, BAR / height, transform=axes.transAxes, clip_on=False)
            bar.set(facecolor=colour, linewidth=0)
            axes.add_patch(bar)


def _draw_scales(figure: "Figure", places: "Sequence[Axes]", labels: Sequence[str], fonts: Fonts) -> None:
    """Draw the colour bar of the maps and, where there is one, that of the difference."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    kinds = ((0, overlay_colours()), (-1, difference_colours()))
    for axes, label, (lowest, colours) in zip(places, labels, kinds, strict=False):
        bar = figure.colorbar(ScalarMappable(Normalize(lowest, 1), colours), cax=axes, orientation="horizontal")
        bar.set_ticks([lowest, (lowest + 1) / 2, 1])
        bar.ax.tick_params(labelsize=7, pad=1, length=2)
        bar.ax.set_xlabel(fonts.drawable(label), fontsize=8, loc="left", labelpad=1, fontfamily=fonts.families)


def _lines(text: str) -> int:
    return text.count("\n") + 1 if text else 0


def _check_inputs(
    images: Tensor, columns: Mapping[str, Tensor], texts: Mapping[str, Sequence[str | None] | None]
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
    for name, values in texts.items():
        if values is not None and len(values) != len(images):
            raise ValueError(f"There are {len(images)} images, but {len(values)} {name}.")


def _check_headings(
    images: Tensor,
    columns: Mapping[str, Tensor],
    predictions: Mapping[str, Sequence[str]],
    similarities: Mapping[str, Sequence[float] | Tensor],
    reference: str | None,
    difference: str | None,
) -> None:
    named = {"reference": [reference], "difference": [difference]}
    named |= {"predictions": list(predictions), "similarities": list(similarities)}
    for name, headings in named.items():
        for heading in headings:
            if heading is not None and heading not in columns:
                raise ValueError(f"{name} names {heading!r}, but the columns are {', '.join(columns)}.")
    if difference is not None and reference is None:
        raise ValueError("A difference needs the model that it is taken from. Give reference, the heading of its maps.")
    for name, captions in (("predictions", predictions), ("similarities", similarities)):
        for heading, values in captions.items():
            if len(values) != len(images):
                raise ValueError(f"There are {len(images)} images, but {len(values)} {name} of {heading!r}.")
