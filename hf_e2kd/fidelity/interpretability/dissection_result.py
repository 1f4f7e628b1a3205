"""The result of a network dissection, and its file (`dissection.json`)."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...metrics.dissection import DetectorCounts, Tally, count_detectors

DISSECTION_FILE = "dissection.json"
FORMAT = "hf_e2kd.dissection/1"


@dataclass(frozen=True)
class DissectedUnit:
    """A unit (channel) of a layer.

    Args:
        threshold: Activation that its region exceeds.
        concept, category: Its best concept, and that one's category; None where its regions meet no concept.
        iou: IoU of its regions with the best concept, over all images.
        second_iou: IoU with the next concept.
        dead: True where no activation exceeds the threshold, as in a unit that is always 0, or that is at its largest
            value too often (ReLU6).
        top_images: Rows of the images that activate it most, the strongest first.
    """

    threshold: float
    concept: str | None
    category: str | None
    iou: float
    second_iou: float
    dead: bool
    top_images: list[int]


@dataclass(frozen=True)
class DissectedLayer:
    """A layer's units at one quantile.

    Args:
        layer: Path of the layer.
        grid: Rows and columns of its maps.
        quantile: Quantile of a unit's activations that is its threshold.
        quantile_error: By how much the quantile may be off at most, as a share of the activations; 0 where it is exact.
        iou_threshold: IoU that makes a unit a detector, where `counts` is given no other.
        categories: All categories of the data.
        units: Units in their order.
    """

    layer: str
    grid: tuple[int, int]
    quantile: float
    quantile_error: float
    iou_threshold: float
    categories: list[str]
    units: list[DissectedUnit]

    def counts(self, iou_threshold: float | None = None) -> DetectorCounts:
        """Count the detectors, at any threshold of the IoU.

        Raises:
            ValueError: the threshold isn't from 0 up to 1.
        """
        return count_detectors(
            [unit.concept for unit in self.units],
            [unit.category for unit in self.units],
            [unit.iou for unit in self.units],
            [unit.second_iou for unit in self.units],
            self.iou_threshold if iou_threshold is None else iou_threshold,
            self.categories,
        )

    def best(self, count: int) -> list[int]:
        """List the units of the highest IoUs, the highest first; without those that meet no concept."""
        order = sorted(range(len(self.units)), key=lambda unit: -self.units[unit].iou)
        return [unit for unit in order[:count] if self.units[unit].concept is not None]


@dataclass(frozen=True)
class Dissection:
    """A network dissection.

    Args:
        tally: "category" or "official"; see `hf_e2kd.metrics.dissection.tally_image`.
        images: Number of images.
        concepts: Number of concepts that the data name.
        unseen: Names of those that no pixel bears.
        mask_size: Rows and columns at which regions and labels were compared.
        layers: A layer and quantile each.
    """

    tally: Tally
    images: int
    concepts: int
    unseen: list[str]
    mask_size: tuple[int, int]
    layers: list[DissectedLayer]

    def of(self, layer: str | None = None, quantile: float | None = None) -> DissectedLayer:
        """Choose a layer and a quantile; either may be left out where there is one alone.

        Raises:
            ValueError: none or several fit; those that there are are listed.
        """
        found = [x for x in self.layers if layer in (None, x.layer) and quantile in (None, x.quantile)]
        if len(found) != 1:
            there = "; ".join(f"layer '{x.layer}', quantile {x.quantile}" for x in self.layers)
            raise ValueError(f"{len(found)} results have layer={layer!r} and quantile={quantile}. There are: {there}.")
        return found[0]

    def counts(
        self, iou_threshold: float | None = None, *, layer: str | None = None, quantile: float | None = None
    ) -> DetectorCounts:
        """Count the detectors of a layer at a quantile; see `of` and `DissectedLayer.counts`."""
        return self.of(layer, quantile).counts(iou_threshold)

    def save(self, folder: str | Path) -> Path:
        """Write `dissection.json` into a folder."""
        path = Path(folder) / DISSECTION_FILE
        content = {"format": FORMAT, **asdict(self)}
        path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, folder: str | Path) -> "Dissection":
        """Read `dissection.json` of a folder.

        Raises:
            ValueError: it is no JSON, or of another format.
        """
        path = Path(folder) / DISSECTION_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        # Arrays within arrays without end are no dissection either.
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no JSON: {error}. Dissect anew.") from error
        found = content.pop("format", None) if isinstance(content, dict) else None
        if found != FORMAT:
            raise ValueError(f"{path} is no dissection of the format {FORMAT} (it says {found!r}). Dissect anew.")
        try:
            layers = [_layer(layer) for layer in content.pop("layers")]
            return cls(**{**content, "layers": layers, "mask_size": tuple(content["mask_size"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} lacks a part of a dissection, or has one too many: {error}.") from error


def _layer(content: dict[str, Any]) -> DissectedLayer:
    units: Sequence[dict[str, Any]] = content["units"]
    return DissectedLayer(
        **{**content, "grid": tuple(content["grid"]), "units": [DissectedUnit(**unit) for unit in units]}
    )
