"""Network dissection: the concepts that the units of a model's layers detect."""

import hashlib
import json
import math
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from ...alignment.grids import resize_maps
from ...alignment.own_processing import own_image_processor
from ...alignment.precision import at_least_float32
from ...architectures import call_model
from ...architectures.base import evaluating
from ...architectures.functions import uncompiled
from ...architectures.taps import Taps, find_layer
from ...data.concepts import ConceptImages
from ...metrics.dissection import Tally, best_concepts, check_tally, concept_ious, tally_image
from ...metrics.quantiles import check_quantile
from ...store.key import weights_digest
from .concept_samples import ConceptSamples, collate
from .dissection_result import DissectedLayer, DissectedUnit, Dissection
from .dissection_state import DissectionState, LayerState

UNITS_AT_ONCE = 256
"""Units whose regions of one image are held at a time."""


def network_dissection(
    model: nn.Module,
    layers: str | Sequence[str],
    images: ConceptImages,
    *,
    processing_class: Any = None,
    quantile: float | Sequence[float] = 0.995,
    iou_threshold: float = 0.05,
    tally: Tally = "category",
    mask_size: tuple[int, int] | None = None,
    batch_size: int = 32,
    workers: int = 0,
    top_images: int = 4,
    sketch_size: int = 4096,
    state_folder: str | Path | None = None,
    save_every: int = 5000,
) -> Dissection:
    """Find the concept that each unit of a model's layers detects best.

    Two passes over the images, with one forward pass each: the first takes in the quantiles of the units' activations,
    the second counts. All layers and quantiles share them; thresholds of the IoU need none (`Dissection.counts`).
    Memory doesn't depend on the number of images, up to a buffer for each doubling (`QuantileSketch`).

    A unit's region is where its map, enlarged bilinearly to the labels, exceeds the unit's quantile over all images and
    positions. Its IoU with a concept is Σ∩ / Σ∪ over all images, where the region counts on images of the concept's
    category. Tokens of a ViT are laid out as a grid, without class and register tokens.

    The tally is "category" by default, the definition of the IoU by Bau et al.: all units are measured on the same
    images, and a unit gains nothing by missing a category. Published numbers of detectors were counted with "official",
    which gives larger IoUs: use it beside them.

    References:
        Bau et al., "Network Dissection: Quantifying Interpretability of Deep Visual Representations", CVPR 2017.
        Han et al., "On the Impact of Knowledge Distillation for Model Interpretability", ICML 2023, §3.1. Where its
        text and code differ, this is the code: IoU over the data set, >, and `unique` as the number of concepts.

    Args:
        model: Image classifier of transformers or timm, or one that takes `pixel_values`.
        layers: Paths of layers with maps, as in `model.get_submodule`.
        images: Images with labelled concepts: `hf_e2kd.data.load_broden(folder)` or
            `hf_e2kd.data.LabelledImages(dataset, columns)`.
        processing_class: Its image processor; by default the one that lies beside the model. Where it crops, labels are
            cropped too.
        quantile: Quantiles of a unit's activations whose excess is its region, as [0.99, 0.995].
        iou_threshold: IoU above which a unit is a detector.
        tally: "category" or "official": the images on which a region counts for a category; see
            `hf_e2kd.metrics.dissection.tally_image`.
        mask_size: Rows and columns at which regions and labels are compared; by default half the model's input, as in
            Broden. Masks of other sizes are resized by their nearest pixels.
        batch_size, workers: Images at a time, and processes that read them.
        top_images: Number of images to remember of each unit, those that activate it most.
        sketch_size: Entries of a buffer of the quantiles' sketch; the error is stated in the result.
        state_folder: Folder for the state of an unfinished run, from which the same call goes on, to the same result.
        save_every: Number of images between two saves of it.

    Raises:
        ValueError: a layer doesn't exist (the nearest are named) or has no maps, a quantile or threshold is out of
            range, no processor is known, there are too few images for the quantile, an activation isn't finite, the
            labels don't fit, or the folder holds the state of another run.
    """
    model = uncompiled(model)
    paths = list(dict.fromkeys([layers] if isinstance(layers, str) else layers))
    quantiles = sorted({quantile} if isinstance(quantile, int | float) else set(quantile))
    _check(model, paths, quantiles, iou_threshold, tally, batch_size)
    processor = processor_of(model, processing_class)
    samples = ConceptSamples(images, processor, mask_size)
    concepts = [images.concepts[number] for number in samples.numbers]
    names = list(dict.fromkeys(concept.category for concept in concepts))
    device = next(model.parameters()).device
    categories = torch.tensor([names.index(concept.category) for concept in concepts], device=device)
    key = _digest(
        weights_digest(model),
        [paths, quantiles, tally, samples.mask_size, batch_size, top_images, sketch_size, len(images)],
        [repr(samples.view), images.name(0), images.name(len(images) - 1)],
        [f"{concept.category}/{concept.name}" for concept in concepts],
    )
    state = DissectionState(state_folder, key, save_every)
    kept = {path: LayerState(quantiles, len(images), sketch_size, top_images) for path in paths}
    state.load(kept, device)
    reading = {"batch_size": batch_size, "workers": workers}

    if state.phase == "quantiles":
        seen = ConceptSamples(images, processor, samples.mask_size, with_labels=False)
        with closing(_batches(model, paths, seen, state.position, "Quantiles of activations", **reading)) as batches:
            for first, maps, labels in batches:
                for path in paths:
                    kept[path].take_in(maps[path], first)
                state.advance(kept, len(labels))
        for path in paths:
            kept[path].start_tally(len(concepts), len(names))
        state.next_phase(kept)
    with closing(_batches(model, paths, samples, state.position, "Concepts in regions", **reading)) as batches:
        for _, maps, labels in batches:
            for row, sample in enumerate(labels):
                present, members = sample.present.to(device), sample.members.to(device)
                for path in paths:
                    _tally(kept[path], maps[path][row], present, members, categories, tally, samples.mask_size)
            state.advance(kept, len(labels))
    state.remove()

    labelled = kept[paths[0]].tally.labelled
    return Dissection(
        tally=tally,
        images=len(images),
        concepts=len(concepts),
        unseen=[concept.name for concept, pixels in zip(concepts, labelled.tolist(), strict=True) if not pixels],
        mask_size=samples.mask_size,
        layers=[
            DissectedLayer(
                path,
                kept[path].grid,
                share,
                kept[path].sketch.error / kept[path].sketch.seen,
                iou_threshold,
                names,
                _units(kept[path], number, concepts, categories),
            )
            for path in paths
            for number, share in enumerate(quantiles)
        ],
    )


def processor_of(model: nn.Module, processing_class: Any = None) -> Any:
    """Return the image processor that was given, or the model's own.

    Raises:
        ValueError: the model states none.
    """
    processor = own_image_processor(model) if processing_class is None else processing_class
    if processor is None:
        raise ValueError(
            f"No image processor lies beside this {type(model).__name__}. Give processing_class, such as "
            "AutoImageProcessor.from_pretrained(...) or timm's pretrained_cfg."
        )
    return processor


def layer_maps(model: nn.Module, taps: Taps, pixel_values: Tensor) -> dict[str, Tensor]:
    """Run a model and return its layers' maps (B, units, h, w) by path, in at least float32.

    Raises:
        ValueError: a layer gives no maps, or a value that isn't finite.
    """
    inputs = {"pixel_values": pixel_values}
    taps.start()
    call_model(model, inputs)
    maps = {}
    for path, feature in taps.stop(inputs).items():
        if feature.ndim != 4:
            raise ValueError(
                f"The layer '{path}' gives {feature.shape[1]} numbers an image, without places. Dissect a layer before "
                "the pooling, such as the last stage or block."
            )
        # A NaN or an infinite value makes the sum so; a look at each value takes longer.
        if not feature.sum().isfinite() and not feature.isfinite().all():
            raise ValueError(f"An activation of the layer '{path}' is NaN or infinite. Dissect a model without.")
        maps[path] = at_least_float32(feature).movedim(-1, 1)
    return maps


def _batches(
    model: nn.Module,
    paths: Sequence[str],
    samples: ConceptSamples,
    first: int,
    title: str,
    batch_size: int,
    workers: int,
) -> Generator[tuple[int, dict[str, Tensor], list], None, None]:
    """Yield the number of the first image, the maps of each layer and the samples of each batch from image `first` on.

    The model's mode and hooks are put back when the generator is closed.
    """
    parameter = next(model.parameters())
    rest = Subset(samples, range(first, len(samples)))
    # With a generator of its own the loader leaves the global one as it is.
    loader = DataLoader(rest, batch_size, num_workers=workers, collate_fn=collate, generator=torch.Generator())
    taps = Taps(model, paths)
    try:
        with evaluating(model), torch.no_grad(), tqdm(total=len(samples), initial=first, desc=title) as bar:
            for pixel_values, labels in loader:
                yield first, layer_maps(model, taps, pixel_values.to(parameter)), labels
                first += len(labels)
                bar.update(len(labels))
    finally:
        taps.remove()


def _tally(
    kept: LayerState,
    maps: Tensor,
    present: Tensor,
    members: Tensor,
    categories: Tensor,
    tally: Tally,
    size: tuple[int, int],
) -> None:
    """Count one image's maps (units, h, w)."""
    total = kept.tally
    # Enlarged, a map nowhere exceeds its largest value: most units have no region in an image.
    active = (maps.flatten(1).amax(dim=1) > kept.thresholds[0]).nonzero()[:, 0]
    for units in active.split(UNITS_AT_ONCE):
        enlarged = resize_maps(maps[units], size).flatten(1)
        found = tally_image(
            enlarged, kept.thresholds[:, units], members, categories[present], total.activated.shape[2], tally
        )
        total.activated[:, units] += found.activated
        total.both[:, units[:, None], present] += found.both
    # There is always a part, be it empty, and all parts see the same labels.
    total.labelled[present] += found.labelled


def _units(kept: LayerState, number: int, concepts: Sequence, categories: Tensor) -> list[DissectedUnit]:
    """The units of a layer at one of the quantiles."""
    places, ious, seconds = best_concepts(concept_ious(kept.tally, categories)[number])
    thresholds = kept.thresholds[number]
    dead = kept.largest[:, 0] <= thresholds
    columns = (thresholds, places, ious, seconds, dead, kept.top_rows)
    return [
        DissectedUnit(
            threshold,
            None if place < 0 else concepts[place].name,
            None if place < 0 else concepts[place].category,
            iou,
            second,
            is_dead,
            rows,
        )
        for threshold, place, iou, second, is_dead, rows in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _check(
    model: nn.Module,
    paths: Sequence[str],
    quantiles: Sequence[float],
    iou_threshold: float,
    tally: str,
    batch_size: int,
) -> None:
    if not paths or not quantiles:
        raise ValueError("Give at least one layer and one quantile.")
    for path in paths:
        find_layer(model, path)
    for share in quantiles:
        check_quantile(share)
    check_tally(tally)
    if not 0 <= iou_threshold < 1 or math.isnan(iou_threshold):
        raise ValueError(f"iou_threshold is {iou_threshold}. Give a number from 0 up to 1, such as 0.05.")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}. Give at least 1.")


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
