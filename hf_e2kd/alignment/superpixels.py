"""Superpixels of images (SLIC), and maps whose every pixel carries its superpixel's sum (XDistillation)."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from .grids import resize_maps
from .precision import at_least_float32

SUPERPIXELS = 19
"""Number of superpixels by default, as in the paper."""

FEWEST, MOST = 3, 20
"""The paper's range: fewer mix positive and negative values, more leave maps sparse."""

NO_SKIMAGE = "Superpixels need scikit-image: pip install 'hf-e2kd[interpretability]'"


def slic_superpixels(
    images: Tensor, count: int = SUPERPIXELS, compactness: float | None = None, workers: int = 1
) -> Tensor:
    """Cut images into superpixels by SLIC, about `count` of about equal size each.

    How many an image gets depends on it: of one colour, it is cut into a grid.

    References:
        Achanta et al., "SLIC Superpixels Compared to State-of-the-Art Superpixel Methods", TPAMI 2012; Alharbi et al.,
        "Learning Interpretation with Explainable Knowledge Distillation", IEEE Big Data 2021, Sec. III-A1.

    Args:
        images: Images (B, 3 or 1, H, W), intensities from 0 to 1; of a processor's pixel values
            `hf_e2kd.alignment.inputs.image_view(processor).intensities(pixel_values)`, or `stretched(pixel_values)`.
        count: Number of superpixels, from 3 to 20.
        compactness: Weight of nearness beside likeness of colour; by default 10 in the colour space Lab, whose
            lightness goes up to 100, and as much, .1, of grey.
        workers: Number of threads, one image each.

    Returns:
        Superpixel of each pixel, (B, H, W) int64 from 0.

    Raises:
        ImportError: scikit-image isn't installed.
        ValueError: count out of range or above the number of pixels, or images of another shape or range.
    """
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise ImportError(NO_SKIMAGE) from error
    if not FEWEST <= count <= MOST:
        raise ValueError(
            f"count is {count}, which is out of the range from {FEWEST} to {MOST}: fewer superpixels mix positive and "
            "negative values, more leave maps sparse."
        )
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must have the axes (B, 3 or 1, H, W), but the shape is {tuple(images.shape)}.")
    if images.shape[2:].numel() < count:
        raise ValueError(
            f"Images of {images.shape[2]}×{images.shape[3]} pixels can't be cut into {count} superpixels. Give a count "
            "below the number of pixels."
        )
    # Written so that a NaN fails too.
    if len(images) and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"images hold values from {images.min():g} to {images.max():g}. Give intensities from 0 to 1: undo the "
            "processor's normalisation by hf_e2kd.alignment.inputs.image_view(processor).intensities(pixel_values)."
        )
    if compactness is None:
        compactness = 10.0 if images.shape[1] == 3 else 0.1
    cut = partial(slic, n_segments=count, compactness=compactness, start_label=0, channel_axis=-1)
    pixels = list(images.detach().cpu().double().movedim(1, -1).numpy())
    with ThreadPoolExecutor(workers) as pool:
        segments = list(pool.map(cut, pixels))
    found = np.stack(segments) if segments else np.zeros((0, *images.shape[2:]))
    return torch.from_numpy(found.astype(np.int64)).to(images.device)


def stretched(pixels: Tensor) -> Tensor:
    """Stretch each image (B, 3 or 1, H, W) to intensities from 0 to 1, whatever the processor's normalisation.

    One of one colour becomes zeros.
    """
    flat = pixels.detach().flatten(1).double()
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    stretched = (flat - low) / (high - low).where(high > low, 1.0)
    return stretched.clamp(0, 1).view_as(pixels)


def superpixel_sums(maps: Tensor, superpixels: Tensor) -> Tensor:
    """Sum maps over each superpixel.

    Args:
        maps: Maps (B, h, w), enlarged to the superpixels' size where they are smaller (bilinear).
        superpixels: Superpixel of each pixel, (B, H, W) int64 from 0.

    Returns:
        (B, K) in at least float32, where K is the largest number of superpixels; 0 of those that an image hasn't.

    Raises:
        ValueError: maps and superpixels are of different images.
    """
    if maps.ndim != 3 or superpixels.ndim != 3 or len(maps) != len(superpixels):
        raise ValueError(
            "maps and superpixels must have the axes (B, h, w) and (B, H, W), of the same images, but their shapes are "
            f"{tuple(maps.shape)} and {tuple(superpixels.shape)}."
        )
    values = resize_maps(at_least_float32(maps), (superpixels.shape[1], superpixels.shape[2])).flatten(1)
    places = superpixels.to(values.device).flatten(1)
    sums = values.new_zeros(len(values), int(places.max()) + 1 if len(places) else 0)
    return sums.scatter_add(1, places, values)


def superpixel_maps(maps: Tensor, superpixels: Tensor, spread: bool = False) -> Tensor:
    """Give every pixel the sum of the map over its superpixel.

    Args:
        maps, superpixels: As `superpixel_sums` takes them.
        spread: Divide each sum by its superpixel's number of pixels, which keeps the map's own sum; for pictures.

    Returns:
        (B, H, W) in at least float32.

    Example:
        >>> superpixel_maps(torch.tensor([[[1.0, 2.0, 4.0]]]), torch.tensor([[[0, 0, 1]]]))
        tensor([[[3., 3., 4.]]])
    """
    sums = superpixel_sums(maps, superpixels)
    if spread:
        sums = sums / superpixel_sums(torch.ones_like(sums[:, :1, None]), superpixels).clamp(min=1)
    places = superpixels.to(sums.device).flatten(1)
    return sums.gather(1, places).unflatten(1, superpixels.shape[1:])


def explanation_scale(maps: Tensor) -> float:
    """The largest magnitude of a training set's maps, by which they are divided to lie in −1 to 1.

    Args:
        maps: Maps of the whole training set, of any shape.

    Raises:
        ValueError: all maps are zero, or a value is NaN or infinite.
    """
    if not maps.isfinite().all():
        raise ValueError(
            "The explanations hold NaN or infinite values. Explain in float32, and leave such samples out."
        )
    scale = maps.abs().amax().item() if maps.numel() else 0.0
    if scale == 0:
        raise ValueError(
            "All explanations are zero, so there is nothing to approximate. Explain another layer, or by another "
            "method."
        )
    return scale
