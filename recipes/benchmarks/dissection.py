# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Network dissection beside what it can't do without: two passes of plain inference, and reading the masks once.

    python recipes/benchmarks/dissection.py --threads 1
    python recipes/benchmarks/dissection.py --only memory

Speed: generated photographs of 224×224 pixels and masks of 112×112 in Broden's layout, read from disk by both sides.
Plain inference reads the images twice and the masks once, as a dissection does, and keeps nothing. Memory: the peak of
a process that dissects a small network on so many generated images, which it never holds together.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import ViTImageProcessor

from hf_e2kd.data import load_broden
from hf_e2kd.data.broden import Broden
from hf_e2kd.data.concepts import Concept, ConceptLabels
from hf_e2kd.experiments import run_recipe
from hf_e2kd.fidelity import network_dissection
from hf_e2kd.fidelity.interpretability.concept_samples import ConceptSamples, collate

CATEGORIES = ("color", "object", "part", "material")
PER_CATEGORY = 40
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "layer4": ("resnet18", {"layers": "layer4"}),
    "layer4, ten quantiles": ("resnet18", {"layers": "layer4", "quantile": np.linspace(0.99, 0.999, 10).tolist()}),
    "layer1 to layer4": ("resnet18", {"layers": ["layer1", "layer2", "layer3", "layer4"]}),
    "blocks.11": ("vit_small_patch16_224", {"layers": "blocks.11"}),
}
"""timm's name of the network, with random weights, and the options of its dissection."""


def write_photographs(folder: Path, count: int) -> Path:
    """Write smooth noise in Broden's layout, with a mask for each category and a scene."""
    rng = np.random.default_rng(0)
    header = ["image", "split", "ih", "iw", "sh", "sw", *CATEGORIES, "scene"]
    rows = []
    for number in range(count):
        files = [f"{number}_{category}.png" for category in CATEGORIES]
        _smooth(rng, 9, 224, 256).save(_made(folder / "images" / f"{number}.jpg"))
        for place, file in enumerate(files):
            numbers = 1 + place * PER_CATEGORY + np.asarray(_smooth(rng, 4, 112, 8))[..., 0] * 5 % PER_CATEGORY
            Image.fromarray(np.stack([numbers, 0 * numbers, 0 * numbers], axis=2).astype(np.uint8)).save(
                folder / "images" / file
            )
        rows.append([f"{number}.jpg", "val", 224, 224, 112, 112, *files, 1 + len(CATEGORIES) * PER_CATEGORY])
    names = (*CATEGORIES, "scene")
    _table(folder / "index.csv", header, rows)
    _table(folder / "category.csv", ["name"], [[name] for name in names])
    labels = []
    for place, name in enumerate(names):
        numbers = range(1 + place * PER_CATEGORY, 2 + place * PER_CATEGORY + (name != "scene") * (PER_CATEGORY - 1))
        labels += [[number, f"{name} {number}"] for number in numbers]
        _table(folder / f"c_{name}.csv", ["number", "coverage"], [[number, 1.0] for number in numbers])
    _table(folder / "label.csv", ["number", "name"], labels)
    return folder


def _smooth(rng: np.random.Generator, cells: int, side: int, top: int) -> Image.Image:
    coarse = Image.fromarray(rng.integers(0, top, (cells, cells, 3), dtype=np.uint8))
    return coarse.resize((side, side), Image.Resampling.BICUBIC)


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _table(path: Path, header: list[str], rows: list[list]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@torch.inference_mode()
def infer(model: nn.Module, images: Broden, processor: Any, batch_size: int, device: str) -> None:
    """Read and run all images twice, and read the masks once."""
    for with_labels in (False, True):
        samples = ConceptSamples(images, processor, with_labels=with_labels)
        for pixel_values, _ in DataLoader(samples, batch_size, collate_fn=collate):
            model(pixel_values.to(device))
    if device == "cuda":
        torch.cuda.synchronize()


def measure_speed(name: str, images: Broden, options: argparse.Namespace) -> dict[str, Any]:
    architecture, settings = CASES[name]
    torch.manual_seed(0)
    model = timm.create_model(architecture).eval().to(options.device)
    processor = ViTImageProcessor(size={"height": 224, "width": 224})
    # A GPU's work shows in the time that passes, not in the process's.
    clock = time.perf_counter if options.device == "cuda" else time.process_time
    found: list[Any] = []

    def dissect() -> None:
        done = network_dissection(
            model, images=images, processing_class=processor, batch_size=options.batch_size, **settings
        )
        found[:] = [max(layer.quantile_error for layer in done.layers)]

    variants = {
        "plain": lambda: infer(model, images, processor, options.batch_size, options.device),
        "dissection": dissect,
    }
    for work in variants.values():
        work()
    rounds: list[Mapping[str, float]] = []
    for turn in tqdm(range(options.rounds), desc=name, leave=False):
        seconds = {}
        for variant in list(variants)[:: -1 if turn % 2 else 1]:
            start = clock()
            variants[variant]()
            seconds[variant] = clock() - start
        rounds.append(seconds)
    shares = sorted(each["plain"] / each["dissection"] for each in rounds)
    return {
        "case": f"{architecture}, {name}",
        "images_per_second": len(images) / statistics.median(each["dissection"] for each in rounds),
        "share": statistics.median(shares),
        "quartiles": [shares[len(shares) // 4], shares[-1 - len(shares) // 4]],
        "quantile_error": found[0],
    }


class Generated:
    """So many images of noise with a labelled half, made when they are read."""

    concepts: Mapping[int, Concept] = {1: Concept("left", "side"), 2: Concept("right", "side")}

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def name(self, row: int) -> str:
        return f"image {row}"

    def image(self, row: int) -> Image.Image:
        return Image.fromarray(np.random.default_rng(row).integers(0, 256, (32, 32, 3), dtype=np.uint8))

    def labels(self, row: int) -> ConceptLabels:
        return ConceptLabels(np.repeat([[[1] * 16 + [2] * 16]], 32, axis=1))


class Small(nn.Module):
    """A convolution of 64 units on a grid of 16×16."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 64, 3, stride=2, padding=1)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.layer(pixel_values).mean(dim=(2, 3))


def peak_memory(count: int) -> dict[str, Any]:
    """Dissect so many images, and return the process's peak in MB, and what it held before."""
    torch.manual_seed(0)
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    before = _memory("VmRSS")
    done = network_dissection(Small(), "layer", Generated(count), processing_class=processor, sketch_size=1024)
    peak = _memory("VmHWM")
    return {"images": count, "before": before, "peak": peak, "quantile_error": done.of().quantile_error}


def _memory(entry: str) -> float:
    """A figure of Linux on this process's memory in MB; `getrusage` would give that of the process that started it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(entry))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6, help="passes of each variant that count")
    parser.add_argument("--images", type=int, default=64, help="images of the measurement of speed")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10000], help="images of those of memory")
    parser.add_argument("--only", choices=["speed", "memory"], help="one of the two")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak_of is not None:
        print(json.dumps(peak_memory(options.peak_of)))
        return
    rows, peaks = [], []
    if options.only != "memory":
        print("| network and layers | images/s | share of plain inference (quartiles) | quantile's error |")
        print("|---|---|---|---|")
        with tempfile.TemporaryDirectory() as folder:
            images = load_broden(write_photographs(Path(folder), options.images))
            for name in CASES:
                row = measure_speed(name, images, options)
                low, high = row["quartiles"]
                rows.append(row)
                share = f"**{row['share']:.3f}** ({low:.3f}–{high:.3f})"
                print(
                    f"| {row['case']} | {row['images_per_second']:.1f} | {share} | {row['quantile_error']:.1e} |",
                    flush=True,
                )
    if options.only != "speed":
        print("\n| images | memory before | peak | quantile's error |\n|---|---|---|---|")
        for count in options.counts:
            line = [sys.executable, __file__, "--threads", str(options.threads), "--peak-of", str(count)]
            done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
            peaks.append(json.loads(done.stdout))
            before, peak, error = (peaks[-1][name] for name in ("before", "peak", "quantile_error"))
            print(f"| {count:,} | {before:.0f} MB | {peak:.0f} MB | {error:.1e} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"torch": torch.__version__, "speed": rows, "memory": peaks}, indent=2))


if __name__ == "__main__":
    run_recipe(main)
