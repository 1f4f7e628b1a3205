"""The state of a network dissection: of each layer, and as a file from which an interrupted run goes on."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...metrics.dissection import ConceptTally
from ...metrics.quantiles import QuantileSketch

STATE_FILE = "dissection.safetensors"


class LayerState:
    """A layer's quantiles and tally so far.

    Args:
        quantiles: Quantiles, ascending.
        images: Number of images in all.
        sketch_size: Entries of a buffer of the sketch.
        top_images: Number of images to remember of each unit.
    """

    def __init__(self, quantiles: Sequence[float], images: int, sketch_size: int, top_images: int):
        self.quantiles, self.images, self.sketch_size = quantiles, images, sketch_size
        self.top_images = min(max(1, top_images), images)
        self.grid = (0, 0)
        self.sketch: QuantileSketch
        self.largest, self.top_rows = torch.empty(0), torch.empty(0)
        self.thresholds = torch.empty(0)
        self.tally: ConceptTally

    def take_in(self, maps: Tensor, first: int) -> None:
        """Take in maps (B, units, h, w) of the images from row `first` on."""
        if not self.grid[0]:
            self.set_grid((maps.shape[2], maps.shape[3]))
            self.largest = maps.new_empty(maps.shape[1], 0)
            self.top_rows = torch.empty(maps.shape[1], 0, dtype=torch.long, device=maps.device)
        self.sketch.update(maps.flatten(2).movedim(0, 1).flatten(1))
        rows = torch.arange(first, first + len(maps), device=maps.device).expand(maps.shape[1], -1)
        values = torch.cat([self.largest, maps.flatten(2).amax(dim=2).T], dim=1)
        # Stable, so that of equal images the first stay.
        order = values.sort(dim=1, descending=True, stable=True).indices[:, : self.top_images]
        self.largest = values.gather(1, order)
        self.top_rows = torch.cat([self.top_rows, rows], dim=1).gather(1, order)

    def set_grid(self, grid: tuple[int, int]) -> None:
        """Begin the sketch, once the grid says how many activations there will be."""
        self.grid = grid
        self.sketch = QuantileSketch(self.quantiles[0], self.images * grid[0] * grid[1], self.sketch_size)

    def start_tally(self, concepts: int, categories: int) -> None:
        """Read the thresholds (quantiles, units), and begin to count."""
        self.thresholds = torch.stack([self.sketch.quantile(share) for share in self.quantiles])
        zeros, shape = self.thresholds.new_zeros, tuple(self.thresholds.shape)
        self.tally = ConceptTally(
            activated=zeros((*shape, categories), dtype=torch.long),
            both=zeros((*shape, concepts), dtype=torch.long),
            labelled=zeros((concepts,), dtype=torch.long),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the state as tensors."""
        if not self.grid[0]:
            return {}
        parts = {"grid": torch.tensor(self.grid), "largest": self.largest, "top_rows": self.top_rows}
        parts |= {f"sketch {name}": value for name, value in self.sketch.state().items()}
        if self.thresholds.numel():
            parts["thresholds"] = self.thresholds
            parts |= {f"tally {name}": value for name, value in vars(self.tally).items()}
        return parts

    def load(self, parts: Mapping[str, Tensor]) -> None:
        """Go on from such tensors."""
        if not parts:
            return
        rows, columns = parts["grid"].tolist()
        self.set_grid((rows, columns))
        self.sketch.load_state(_under(parts, "sketch "))
        self.largest, self.top_rows = parts["largest"], parts["top_rows"]
        if "thresholds" in parts:
            self.thresholds = parts["thresholds"]
            self.tally = ConceptTally(**_under(parts, "tally "))


class DissectionState:
    """The progress of a dissection, saved in a folder now and then.

    Args:
        folder: Folder of the file; None saves nothing.
        key: Digest of all that the result depends on.
        save_every: Number of images between two saves.
    """

    def __init__(self, folder: str | Path | None, key: str, save_every: int):
        self.path = None if folder is None else Path(folder) / STATE_FILE
        self.key, self.save_every = key, save_every
        self.phase, self.position, self.saved = "quantiles", 0, 0

    def load(self, layers: Mapping[str, LayerState], device: torch.device) -> None:
        """Read the state, if the folder holds one.

        Raises:
            ValueError: it is of another run.
        """
        if self.path is None or not self.path.is_file():
            return
        with safe_open(self.path, "pt", device=str(device)) as file:
            stated = file.metadata()
            if stated.get("key") != self.key:
                raise ValueError(
                    f"{self.path} is the state of another dissection: of another model, data, layers or settings. Give "
                    "another state_folder, or delete the file."
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        self.phase, self.position = stated["phase"], int(stated["position"])
        self.saved = self.position
        for path, layer in layers.items():
            layer.load(_under(tensors, f"{path}/"))

    def advance(self, layers: Mapping[str, LayerState], images: int) -> None:
        """Count images as done, and save when it is time."""
        self.position += images
        if self.position - self.saved >= self.save_every:
            self._save(layers)

    def next_phase(self, layers: Mapping[str, LayerState]) -> None:
        """Go on to the tally, from the first image."""
        self.phase, self.position = "tally", 0
        self._save(layers)

    def remove(self) -> None:
        """Delete the file of a run that is finished."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _save(self, layers: Mapping[str, LayerState]) -> None:
        self.saved = self.position
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"{path}/{name}": value.contiguous()
            for path, layer in layers.items()
            for name, value in layer.tensors().items()
        }
        # Under another name first, so that an interrupted save leaves the last one.
        partial = self.path.with_suffix(".partial")
        save_file(tensors, partial, {"key": self.key, "phase": self.phase, "position": str(self.position)})
        os.replace(partial, self.path)


def _under(parts: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in parts.items() if name.startswith(prefix)}
