"""DiffROAR: do the pixels that a model's gradient ranks first help more to learn the task than those it ranks last?"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import set_seed

from ..architectures import call_model
from ..architectures.base import evaluating
from ..explainers.input_gradients import differentiate
from ..fidelity.training import recorded_arguments
from ..trainer.arguments import ExplanationDistillArguments
from .distillation import replace_arguments, train_on_labels
from .shared_runs import SETTLED, share_runs

FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Fractions of the pixels that are masked."""

SEEDS = tuple(range(10))
"""Seeds of the retrained networks."""

Part = Literal["top", "bottom"]
PARTS: tuple[Part, Part] = ("top", "bottom")
"""The pixels that are masked: those of the largest attribution, or of the smallest."""


@dataclass
class LabelledImages(torch.utils.data.Dataset):
    """Images as a model takes them, in memory, with their labels.

    Args:
        pixel_values: Images (N, C, H, W).
        labels: Labels (N,).
    """

    pixel_values: Tensor
    labels: Tensor

    @classmethod
    def of(cls, dataset: Dataset, batch_size: int = 1000) -> "LabelledImages":
        """The images and labels of a data set whose transform gives `pixel_values` and `labels`."""
        parts = [dataset[first : first + batch_size] for first in range(0, len(dataset), batch_size)]
        pixels = torch.cat([torch.stack(list(part["pixel_values"])) for part in parts])
        return cls(pixels, torch.cat([torch.as_tensor(part["labels"]) for part in parts]))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.pixel_values[index], "labels": self.labels[index]}


def rank_pixels(attributions: Tensor, per_element: bool = False, seed: int = 0) -> Tensor:
    """Rank each image's pixels by the magnitude of their attribution.

    Args:
        attributions: Attributions (B, C, H, W), signed or not.
        per_element: Rank every colour of every pixel by itself, as the official code does; otherwise pixels are ranked
            by their magnitudes' sum over the colours.
        seed: Draws the order of equal ones.

    Returns:
        Ranks from 0 (the smallest), int32: (B, 1, H, W), or (B, C, H, W) per element.

    Raises:
        ValueError: the attributions are of other axes, or not finite.

    Example:
        >>> rank_pixels(torch.tensor([[[[1.0, -5.0], [3.0, 0.0]]]]))
        tensor([[[[1, 3],
                  [2, 0]]]], dtype=torch.int32)
    """
    if attributions.ndim != 4:
        raise ValueError(f"attributions must have the axes (B, C, H, W), but the shape is {tuple(attributions.shape)}.")
    if not attributions.isfinite().all():
        wrong = (~attributions.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        raise ValueError(
            f"The attributions of the samples {wrong[:8]} hold NaN or infinite values, which have no rank. Explain in "
            "float32, or leave these samples out."
        )
    magnitude = attributions.abs() if per_element else attributions.abs().sum(dim=1, keepdim=True)
    flat = magnitude.flatten(1)
    # Equal ones, as in an all-zero map, must not be ranked by their place.
    shuffled = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(seed)).to(flat.device)
    order = shuffled[flat[:, shuffled].argsort(dim=1, stable=True)]
    ranks = torch.empty_like(order, dtype=torch.int32)
    ranks.scatter_(1, order, torch.arange(flat.shape[1], dtype=torch.int32, device=flat.device).expand_as(ranks))
    return ranks.view_as(magnitude)


def mask_ranked(images: Tensor, ranks: Tensor, fraction: float, part: Part, fill: Tensor) -> Tensor:
    """Replace the pixels of the largest or the smallest attribution.

    Args:
        images: Images (B, C, H, W).
        ranks: Ranks by `rank_pixels`, (B, 1, H, W) or (B, C, H, W).
        fraction: Share of the ranked pixels (or of their colours) that is replaced, in (0, 1), rounded to whole ones.
        part: "top" replaces those of the largest attribution, "bottom" those of the smallest.
        fill: Value in their place, such as each colour's mean over the data, (C, 1, 1).

    Raises:
        ValueError: the fraction leaves nothing or masks nothing, the part is none, or the ranks are of other images.

    Example:
        >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> mask_ranked(image, rank_pixels(image), 0.25, "top", torch.zeros(1, 1, 1))
        tensor([[[[1., 2.],
                  [3., 0.]]]])
    """
    if part not in PARTS:
        raise ValueError(f"part is {part!r}. Choose from: {', '.join(PARTS)}.")
    if ranks.shape not in (images.shape, (len(images), 1, *images.shape[2:])):
        raise ValueError(f"The ranks are of shape {tuple(ranks.shape)}, which aren't those of {tuple(images.shape)}.")
    count = ranks[0].numel()
    masked = round(fraction * count) if 0 < fraction < 1 else 0
    if not 0 < masked < count:
        raise ValueError(
            f"fraction is {fraction}, of {count} pixels. Give a number between 0 and 1 by which at least one pixel is "
            "masked and at least one stays."
        )
    chosen = ranks >= count - masked if part == "top" else ranks < masked
    return torch.where(chosen, fill.to(images), images)


def rank_by_gradient(
    model: nn.Module, images: LabelledImages, per_element: bool = False, batch_size: int = 100
) -> Tensor:
    """Rank the pixels of images by the gradient of the model's top logit; see `rank_pixels`."""
    device = next(model.parameters()).device
    ranks = []
    with torch.no_grad(), evaluating(model):
        for pixels in images.pixel_values.split(batch_size):
            (gradient,) = differentiate(model, {"pixel_values": pixels.to(device)}, None).gradients
            ranks.append(rank_pixels(gradient, per_element).cpu())
    return torch.cat(ranks)


def diffroar(
    model: nn.Module,
    new_model: Callable[[], nn.Module],
    train: LabelledImages,
    test: LabelledImages,
    processor: Any,
    args: ExplanationDistillArguments,
    folder: str | Path,
    *,
    fractions: Sequence[float] = FRACTIONS,
    seeds: Sequence[int] = SEEDS,
    per_element: bool = False,
) -> dict[str, Any]:
    """Measure DiffROAR: accuracy after retraining without the pixels ranked last, less that without those ranked first.

    For each fraction and seed two new networks are trained on the labels, on images in which that share of the pixels
    of the smallest, and of the largest, gradient is replaced by each colour's mean over the training data, and tested
    on test images masked alike. The gradient is that of the model's own top logit, so that no test label enters. Runs
    are kept in `folder`: a command that was interrupted goes on, and several processes share them
    (`hf_e2kd.experiments.shared_runs`).

    References:
        Shah et al., "Do Input Gradients Highlight Discriminative Features?", NeurIPS 2021; Han et al., ICML 2023,
        Table 4: fractions .1 to .9, ten seeds, in percentage points. The official code ranks elements; by default all
        colours of a pixel are masked together here, as a masked colour alone gives the pixel away.

    Args:
        model: The explained classifier.
        new_model: Makes a network with random weights.
        train, test: Images as the networks take them, with labels.
        processor: Image processor of both.
        args: Training arguments of the retrained networks; the weights of the loss don't count.
        folder: Folder of the runs.
        fractions: Shares of the pixels that are masked, in (0, 1).
        seeds: Seeds of the retrained networks.
        per_element: Rank and mask each colour of a pixel by itself.

    Returns:
        `diffroar`: mean over all fractions and seeds, from −1 to 1; `std` over the seeds of their means over the
        fractions (n − 1; 0 for one seed); `fractions`: by fraction the mean accuracies `bottom` and `top` (of what is
        masked) and their difference `diffroar`; `runs`: the accuracy of each.

    Raises:
        ValueError: no fractions or seeds, one is given twice or out of range, an image without a class or with several,
            an attribution isn't finite, or the folder holds runs of other settings.
    """
    for name, values in (("fractions", fractions), ("seeds", seeds)):
        if not len(values) or len(set(values)) < len(values):
            raise ValueError(f"{name} is {list(values)}. Give at least one, and each once.")
    wrong = [fraction for fraction in fractions if not 0 < fraction < 1]
    if wrong:
        raise ValueError(f"fractions holds {wrong}. Give numbers between 0 and 1, as .1 for a tenth of the pixels.")
    for images in (train, test):
        if images.labels.ndim != 1 or images.labels.is_floating_point() or (images.labels < 0).any():
            raise ValueError(
                "Accuracy is that of images with one class each, as whole numbers from 0 on, not of labels of shape "
                f"{tuple(images.labels.shape)} and type {images.labels.dtype}. Leave out images without a label."
            )
    ranks = {id(images): rank_by_gradient(model, images, per_element) for images in (train, test)}
    fill = train.pixel_values.mean(dim=(0, 2, 3))[:, None, None]

    def masked(images: LabelledImages, fraction: float, part: Part) -> LabelledImages:
        return replace(images, pixel_values=mask_ranked(images.pixel_values, ranks[id(images)], fraction, part, fill))

    runs = {
        f"{part}-{fraction:g}-seed{seed}": (part, fraction, seed)
        for seed in seeds
        for fraction in fractions
        for part in PARTS
    }

    def retrain(name: str) -> dict[str, Any]:
        part, fraction, seed = runs[name]
        set_seed(seed)
        arguments = replace_arguments(args, seed=seed)
        trained = train_on_labels(new_model(), arguments, masked(train, fraction, part), processor)
        return {"accuracy": accuracy(trained, masked(test, fraction, part))}

    stated = {"per_element": per_element, **recorded_arguments(args, SETTLED)}
    del stated["seed"]
    key = _digest(stated, model, new_model(), train, test)
    results = share_runs(Path(folder), list(runs), key, retrain)
    return summarise({runs[name]: result["accuracy"] for name, result in results.items()})


def summarise(accuracies: Mapping[tuple[Part, float, int], float]) -> dict[str, Any]:
    """Summarise accuracies by part, fraction and seed; see `diffroar`.

    Example:
        >>> found = summarise({("bottom", 0.5, 0): 0.9, ("top", 0.5, 0): 0.5})
        >>> round(found["diffroar"], 3), found["fractions"]["0.5"]["top"]
        (0.4, 0.5)
    """
    fractions = list(dict.fromkeys(fraction for _, fraction, _ in accuracies))
    seeds = list(dict.fromkeys(seed for _, _, seed in accuracies))
    by_part = {
        part: np.array([[accuracies[part, fraction, seed] for seed in seeds] for fraction in fractions])
        for part in PARTS
    }
    differences = by_part["bottom"] - by_part["top"]
    return {
        "diffroar": float(differences.mean()),
        "std": float(differences.mean(axis=0).std(ddof=1)) if len(seeds) > 1 else 0.0,
        "fractions": {
            f"{fraction:g}": {
                **{part: float(by_part[part][row].mean()) for part in PARTS},
                "diffroar": float(differences[row].mean()),
            }
            for row, fraction in enumerate(fractions)
        },
        "runs": [
            {"masked": part, "fraction": fraction, "seed": seed, "accuracy": value}
            for (part, fraction, seed), value in accuracies.items()
        ],
    }


@torch.no_grad()
def accuracy(model: nn.Module, images: LabelledImages, batch_size: int = 500) -> float:
    """The share of images that a classifier classifies correctly."""
    device = next(model.parameters()).device
    right = 0
    with evaluating(model):
        for pixels, labels in zip(images.pixel_values.split(batch_size), images.labels.split(batch_size), strict=True):
            right += int((call_model(model, {"pixel_values": pixels.to(device)}).argmax(1).cpu() == labels).sum())
    return right / len(images)


def _digest(stated: Mapping[str, Any], model: nn.Module, new: nn.Module, *images: LabelledImages) -> str:
    """A digest of what all runs of a folder share: arguments, the explained model, the networks' kind, the data."""
    digest = hashlib.sha256(json.dumps([stated, str(new)], sort_keys=True, default=str).encode())
    tensors = [*model.state_dict().values(), *(tensor for own in images for tensor in (own.pixel_values, own.labels))]
    for tensor in tensors:
        # As bytes: numpy has no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
