"""Network dissection of trained students: options, counts by layer, quantile and threshold, and pictures."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import nn

from hf_e2kd.alignment.grids import resize_maps
from hf_e2kd.architectures.base import evaluating
from hf_e2kd.architectures.taps import Taps, default_taps
from hf_e2kd.data.concepts import ConceptImages
from hf_e2kd.experiments.shared_runs import share_runs
from hf_e2kd.fidelity import Dissection, network_dissection
from hf_e2kd.fidelity.interpretability.concept_samples import ConceptSamples
from hf_e2kd.fidelity.interpretability.dissection import layer_maps, processor_of
from hf_e2kd.fidelity.interpretability.dissection_result import DissectedLayer
from hf_e2kd.store.key import weights_digest


@dataclass
class ConceptOptions:
    """Options of the concepts and of the dissection."""

    concepts: str | None = field(
        default=None, metadata={"help": "Concepts: Broden's folder, or one of COCO's form with masks in 'semantic'."}
    )
    layer: str = field(
        default="-1", metadata={"help": "Path of a layer, or a number among the stages or blocks, -1 for the last."}
    )
    quantile: float = field(default=0.995, metadata={"help": "Quantile of a unit's activations that it must exceed."})
    detector_iou: float = field(default=0.05, metadata={"help": "IoU that makes a unit a detector."})
    tally: str = field(
        default="official",
        metadata={
            "help": "official: as the paper's numbers were counted; category: the definition of the IoU.",
            "choices": ["official", "category"],
        },
    )
    pictures: int = field(default=4, metadata={"help": "Images of a concept in the pictures, 0 for no picture."})
    workers: int = field(default=0, metadata={"help": "Processes that read images and masks."})

    def __post_init__(self) -> None:
        for name in ("quantile", "detector_iou"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"--{name} must lie between 0 and 1, not {getattr(self, name)}.")
        if min(self.pictures, self.workers) < 0:
            raise ValueError("--pictures and --workers can't be below 0.")


OF_CONCEPTS = tuple(ConceptOptions.__dataclass_fields__)
"""Names of these options, none of which changes a model."""


@dataclass
class Dissected:
    """A dissected model.

    Args:
        model: The model, on its device.
        processor: Its image processor.
        layer: The layer's result.
    """

    model: nn.Module
    processor: Any
    layer: DissectedLayer


def dissect(
    name: str,
    model: nn.Module,
    processor: Any,
    images: ConceptImages,
    options: ConceptOptions,
    folder: Path,
    batch: int,
    layers: Sequence[str],
    quantiles: Sequence[float],
) -> Dissection:
    """Dissect layers of a model, or read the result where it is there; several processes share a folder.

    Args:
        name: Name of the result's files.
        folder: Folder of the results, which also keeps an unfinished one.
        batch: Images at once.
        layers: Paths of the layers.
        quantiles: Quantiles of a unit's activations.

    Raises:
        ValueError: the folder holds the result of another model, other concepts or other options.
    """

    def run(name: str) -> dict[str, Any]:
        own = folder / name
        own.mkdir(exist_ok=True)
        network_dissection(
            model,
            layers,
            images,
            processing_class=processor,
            quantile=quantiles,
            iou_threshold=options.detector_iou,
            tally=options.tally,
            batch_size=batch,
            workers=options.workers,
            state_folder=own,
        ).save(own)
        return {}

    chosen = [options.concepts, options.detector_iou, options.tally]
    stated = [weights_digest(model), list(layers), list(quantiles), *chosen]
    share_runs(folder, [name], hashlib.sha256(json.dumps(stated).encode()).hexdigest(), run)
    return Dissection.load(folder / name)


def find_layers(model: nn.Module, asked: Sequence[str]) -> list[str]:
    """Turn numbers among a model's stages or blocks into their paths; paths stay.

    Raises:
        ValueError: the model has no such stage.
    """
    paths = []
    for layer in asked:
        if layer.lstrip("-").isdigit():
            stages = default_taps(model)
            if not -len(stages) <= int(layer) < len(stages):
                raise ValueError(
                    f"{type(model).__name__} has no stage {layer}, but {', '.join(stages)}: numbers from "
                    f"-{len(stages)} to {len(stages) - 1}."
                )
            layer = stages[int(layer)]
        paths.append(layer)
    return paths


def detector_metrics(layer: DissectedLayer) -> dict[str, float]:
    """Count a layer's detectors: in each category, distinct concepts, units of one concept only, and all."""
    counts = asdict(layer.counts())
    return {**counts["categories"], **{name: counts[name] for name in ("unique", "single", "total")}}


def detector_headings(images: ConceptImages) -> dict[str, str]:
    """The metrics of `detector_metrics` with their headings in a table; of one category the total says all."""
    categories = dict.fromkeys(concept.category for concept in images.concepts.values())
    shown = categories if len(categories) > 1 else ()
    return {**{name: name for name in shown}, "unique": "unique", "single": "one concept", "total": "total"}


def shared_concept(models: Mapping[str, Dissected]) -> tuple[str, str] | None:
    """Choose the concept (category, name) whose worst detection among the models is the best; None without one."""
    best: list[dict[tuple[str, str], float]] = []
    for dissected in models.values():
        found: dict[tuple[str, str], float] = {}
        for unit in dissected.layer.units:
            if unit.concept is not None and unit.category is not None:
                key = (unit.category, unit.concept)
                found[key] = max(found.get(key, 0.0), unit.iou)
        best.append(found)
    shared = set.intersection(*(set(found) for found in best))
    return max(sorted(shared), key=lambda key: min(found[key] for found in best), default=None)


def side_by_side(models: Mapping[str, Dissected], images: ConceptImages, columns: int, path: Path) -> Figure | None:
    """Draw the best detectors of one concept, a row a model: activations over the same images (Fig. 3).

    The images are those that activate the models' detectors most, of each model in turn. The brightest yellow is a
    unit's largest activation in the row, and what is below 0 is not coloured.

    Returns:
        The figure; None where no concept is the best of some unit in every model.
    """
    concept = shared_concept(models)
    if concept is None:
        return None
    chosen = {
        label: max(
            (n for n, unit in enumerate(each.layer.units) if (unit.category, unit.concept) == concept),
            key=lambda n, each=each: each.layer.units[n].iou,  # type: ignore[misc]
        )
        for label, each in models.items()
    }
    tops = [models[label].layer.units[number].top_images for label, number in chosen.items()]
    ranked = [row for place in range(max(map(len, tops))) for own in tops for row in own[place : place + 1]]
    rows = list(dict.fromkeys(ranked))[:columns]
    figure = Figure(figsize=(1.7 * len(rows) + 1.6, 1.75 * (1 + len(models)) + 0.3), layout="constrained")
    axes = figure.subplots(1 + len(models), len(rows), squeeze=False)
    figure.suptitle(f"Best detectors of {concept[1]} ({concept[0]})", fontsize=9)
    for line, (label, number) in zip(axes[1:], chosen.items(), strict=True):
        pixels, maps = _activations(models[label], images, number, rows)
        peak = float(maps.max()) or 1.0
        for top, axis, image, own in zip(axes[0], line, pixels, maps, strict=True):
            top.imshow(image)
            axis.imshow(image.mean(-1, keepdims=True).repeat(3, -1) * 0.6)
            axis.imshow(own.numpy(), cmap="plasma", vmin=0, vmax=peak, alpha=(own.clamp(min=0) / peak).sqrt().numpy())
        caption = f"{label}\nunit {number}\nIoU {models[label].layer.units[number].iou:.3f}"
        line[0].set_ylabel(caption, rotation=0, ha="right", va="center", fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=150)
    return figure


@torch.no_grad()
def _activations(
    dissected: Dissected, images: ConceptImages, unit: int, rows: Sequence[int]
) -> tuple[Any, torch.Tensor]:
    """Images as pixels (N, H, W, 3) and a unit's activations on them (N, H, W)."""
    model = dissected.model
    samples = ConceptSamples(images, processor_of(model, dissected.processor), with_labels=False)
    pixels = torch.stack([samples[row].pixel_values for row in rows])
    taps = Taps(model, [dissected.layer.layer])
    try:
        with evaluating(model):
            maps = layer_maps(model, taps, pixels.to(next(model.parameters())))[dissected.layer.layer][:, unit].cpu()
    finally:
        taps.remove()
    shown = samples.view.intensities(pixels).clamp(0, 1).movedim(1, -1).numpy()
    return shown, resize_maps(maps, samples.view.size)


def detector_bars(
    summary: Mapping[str, Mapping[str, Mapping[str, float]]], headings: Mapping[str, str], path: Path
) -> Figure:
    """Draw the numbers of detectors, a group of bars a count and a bar a model, with the seeds' spread (Fig. 2)."""
    shown = [name for name in headings if any(figures.get(name, {}).get("mean") for figures in summary.values())]
    figure = Figure(figsize=(max(6.0, 1.3 * len(shown) + 2.5), 3.2), layout="constrained")
    axis = figure.subplots()
    width, colours = 0.8 / max(1, len(summary)), colormaps["tab20"]
    for number, (label, figures) in enumerate(summary.items()):
        places = [place + width * (number - (len(summary) - 1) / 2) for place in range(len(shown))]
        means, spreads = ([figures[name][part] for name in shown] for part in ("mean", "std"))
        axis.bar(
            places, means, width, yerr=spreads if any(spreads) else None, label=label, capsize=2, color=colours(number)
        )
    axis.set_xticks(range(len(shown)), [headings[name] for name in shown])
    axis.set_ylabel("detectors")
    figure.legend(fontsize=7, loc="outside right upper")
    figure.savefig(path, dpi=150)
    return figure
