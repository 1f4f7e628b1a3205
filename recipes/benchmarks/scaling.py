# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Cost per sample and memory from 1,000 samples to 100,000, beside the size of the data.

    python recipes/benchmarks/scaling.py
    python recipes/benchmarks/scaling.py --only train --sizes 10000

Models are tiny (32 pixels, 16 channels), so that what surrounds them is seen: data set, ids, store, trainer, metrics.
Samples are computed by their number when they are asked for. Each size has a process of its own, which does the work on
1,000 samples before and after it: the ratio is of CPU time a sample, after what one batch takes has been taken off both
as the cost of starting. Bytes a sample are by how much the process's largest resident set, and Python's traced
allocations, exceed those of 1,000 samples.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback, ViTConfig, ViTForImageClassification
from transformers.utils import logging

from hf_e2kd import ExplanationDistillArguments, ExplanationDistillTrainer
from hf_e2kd.experiments import run_recipe
from hf_e2kd.store import StoredReference

BASE = 1000
BATCH = 100
# Tracing makes Python several times slower.
TRACED = 10_000
# Building the stores that are read, in a process whose memory isn't measured.
PREPARE = "prepare"
IMAGE_SIZE, CLASSES = 32, 100
WHAT = {
    "build": "building a store",
    "read": "reading rows of a store, shuffled, by their ids",
    "train": "training step with a stored reference",
    "evaluate": "fidelity evaluation, live teacher",
}


class Images(Dataset):
    """Images that exist only while they are looked at, with labels and ids."""

    def __init__(self, count: int):
        self.count = count
        self.noise = torch.randn(3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        pixels = self.noise.roll(index % IMAGE_SIZE, 1) + index % 97 / 97
        return {"pixel_values": pixels, "labels": index % CLASSES, "id": f"image-{index:09d}"}


def vit(seed: int) -> ViTForImageClassification:
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return ViTForImageClassification(ViTConfig(**shape, image_size=IMAGE_SIZE, patch_size=8, num_labels=CLASSES)).eval()


class Stopwatch(TrainerCallback):
    """CPU time from a training's beginning to its end, without what a trainer takes to be made."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.process_time()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.seconds = time.process_time() - self.start


def build(count: int, folder: Path) -> float:
    start = time.process_time()
    with tempfile.TemporaryDirectory() as other:
        StoredReference.build(vit(0), Images(count), Path(other) / "store", **STORE)
        return time.process_time() - start


STORE: dict[str, Any] = {"id_column": "id", "batch_size": BATCH, "progress": False}


def store_of(count: int, folder: Path) -> StoredReference:
    """The store of so many samples; built where it isn't there yet."""
    return StoredReference.build(vit(0), Images(count), folder / str(count), **STORE)


def read(count: int, folder: Path) -> float:
    reference = StoredReference(folder / str(count))
    start = time.process_time()
    attached = reference.attach(Images(count))
    places = np.random.default_rng(0).permutation(count)
    for first in range(0, count, BATCH):
        attached.__getitems__(places[first : first + BATCH].tolist())
    return time.process_time() - start


def train(count: int, folder: Path) -> float:
    reference, watch = StoredReference(folder / str(count)), Stopwatch()
    trainer = ExplanationDistillTrainer(
        vit(1),
        _arguments(),
        references={"teacher": reference},
        train_dataset=reference.attach(Images(count)),
        callbacks=[watch],
    )
    trainer.train()
    return watch.seconds


def evaluate(count: int, folder: Path) -> float:
    trainer = ExplanationDistillTrainer(vit(1), _arguments(), teacher_model=vit(0))
    trainer.log = lambda *_: None  # type: ignore[method-assign,assignment]
    data = Images(count)
    start = time.process_time()
    trainer.evaluate(data)
    return time.process_time() - start


def _arguments() -> ExplanationDistillArguments:
    return ExplanationDistillArguments(
        output_dir=tempfile.gettempdir(),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


WORK: dict[str, Callable[[int, Path], float]] = {"build": build, "read": read, "train": train, "evaluate": evaluate}


def largest_resident_set() -> int:
    """In bytes, since this process's last `forget_largest`."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def forget_largest() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def one_size(name: str, count: int, folder: Path, trace: bool) -> dict[str, float]:
    """Runs within a process of its own.

    Returns:
        Without `trace` times and resident set, with it the peak of Python's allocations, in bytes.
    """
    work = WORK[name]
    for _ in range(3):
        work(BASE, folder)
    if trace:
        peaks = []
        for each in (BASE, count):
            tracemalloc.start()
            work(each, folder)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        return {"python_base": peaks[0], "python": peaks[1]}
    forget_largest()
    few, one_batch = _in_turn(work, folder)
    resident_base = largest_resident_set()
    many = [work(count, folder) for _ in range(max(1, 30_000 // count))]
    resident = largest_resident_set()
    for earlier, later in zip((few, one_batch), _in_turn(work, folder), strict=True):
        earlier += later
    start = statistics.median(one_batch)
    cost = (statistics.median(many) - start) / (count - BATCH)
    base = (statistics.median(few) - start) / (BASE - BATCH)
    return {
        "start_ms": 1e3 * start,
        "us_per_sample": 1e6 * cost,
        "us_per_sample_of_base": 1e6 * base,
        "ratio": cost / base,
        "resident_base": resident_base,
        "resident": resident,
    }


def _in_turn(work: Callable[[int, Path], float], folder: Path) -> tuple[list[float], list[float]]:
    """Times of a thousand samples, and of one batch, which is what it costs to start."""
    pairs = [(work(BASE, folder), work(BATCH, folder)) for _ in range(8)]
    return [first for first, _ in pairs], [second for _, second in pairs]


def in_own_process(name: str, count: int, folder: Path) -> dict[str, float]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def run(*arguments: str) -> dict[str, float]:
        line = [sys.executable, __file__, "--one", *arguments]
        done = subprocess.run(line, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    if name in ("read", "train"):
        run(PREPARE, str(count), str(folder))
    figures = run(name, str(count), str(folder))
    if BASE < count <= TRACED:
        figures |= run(name, str(count), str(folder), "--trace")
    for kind in ("resident", "python"):
        if count > BASE and kind in figures:
            figures[f"{kind}_bytes_per_sample"] = (figures[kind] - figures[f"{kind}_base"]) / (count - BASE)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--only", nargs="+", choices=list(WHAT), default=list(WHAT))
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--trace", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    if options.one:
        name, size, store = options.one
        if name == PREPARE:
            for count in (BATCH, BASE, int(size)):
                store_of(count, Path(store))
            print("{}")
        else:
            print(json.dumps(one_size(name, int(size), Path(store), options.trace)))
        return

    print(f"CPU, 1 thread; torch {torch.__version__}; batches of {BATCH}; against {BASE} samples in the same process\n")
    print("| what | samples | µs a sample | of that at 1,000 | peak resident set | more, B a sample | Python's, B |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            for count in options.sizes:
                figures = in_own_process(name, count, Path(folder))
                rows.append({"what": name, "samples": count, **figures})
                cells = [
                    WHAT[name],
                    f"{count:,}",
                    f"{figures['us_per_sample']:.0f}",
                    f"**{figures['ratio']:.3f}**",
                    f"{figures['resident'] / 2**20:.0f} MB",
                    *(
                        f"{figures[each]:.0f}" if each in figures else ""
                        for each in ("resident_bytes_per_sample", "python_bytes_per_sample")
                    ),
                ]
                print(f"| {' | '.join(cells)} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=2))


if __name__ == "__main__":
    run_recipe(main)
