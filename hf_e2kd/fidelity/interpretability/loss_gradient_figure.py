"""A picture of loss gradients, beside the images that they are of."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPREAD = 3.0
"""Standard deviations of a gradient at which its colours are full."""

TILE = 1.6
"""Side of a tile, in inches."""


def loss_gradient_panel(images: Tensor, gradients: Mapping[str, Tensor], path: str | Path | None = None) -> "Figure":
    """Draw one row a sample: the image, then each model's loss gradient.

    Gradients in colour are drawn as Tsipras et al. draw them: cut at three of their standard deviations, zero in the
    middle of the scale. Those of grey images are blue where more brightness lowers the loss, red where it raises it.

    Args:
        images: Images (B, 3 or 1, H, W), of intensities from 0 to 1 (a processor's normalisation undone).
        gradients: Gradients (B, 3 or 1, H, W) of each model, by its heading. Gradients of models that are shown a grey
            image as three equal colours are summed over them before.
        path: File for the picture, at 150 dpi; its suffix decides the format.

    Returns:
        The figure, which belongs to no pyplot window.

    Raises:
        ValueError: a shape differs, an image leaves 0 to 1, or a gradient isn't finite.
    """
    from matplotlib.figure import Figure

    if images.ndim != 4 or images.shape[1] not in (1, 3) or not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"images must be (B, 3 or 1, H, W) from 0 to 1, but the shape is {tuple(images.shape)}.")
    for heading, values in gradients.items():
        if values.shape[:1] + values.shape[2:] != images.shape[:1] + images.shape[2:] or values.shape[1] not in (1, 3):
            raise ValueError(
                f"The gradients of {heading!r} are of shape {tuple(values.shape)}, the images {tuple(images.shape)}."
            )
        if not values.isfinite().all():
            raise ValueError(f"The gradients of {heading!r} hold NaN or infinite values; leave these samples out.")
    count, width = len(images), 1 + len(gradients)
    figure = Figure(
        figsize=(TILE * width, TILE * count * images.shape[2] / images.shape[3] + 0.3), layout="constrained"
    )
    axes = figure.subplots(count, width, squeeze=False)
    columns = {"image": images.detach().cpu().float(), **{name: _scaled(values) for name, values in gradients.items()}}
    for column, (heading, tiles) in enumerate(columns.items()):
        axes[0, column].set_title(heading, fontsize=9)
        for axis, tile in zip(axes[:, column], tiles, strict=True):
            colours = "gray" if heading == "image" else "RdBu_r"
            shown = tile[0] if len(tile) == 1 else tile.permute(1, 2, 0)
            axis.imshow(shown.numpy(), cmap=colours, vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _scaled(gradients: Tensor) -> Tensor:
    """Gradients (B, C, H, W) from 0 to 1: zero at a half, `SPREAD` standard deviations at the ends."""
    values = gradients.detach().cpu().double()
    spread = SPREAD * values.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return torch.clamp(0.5 + values / (2 * spread.where(spread > 0, 1)), 0, 1).float()
