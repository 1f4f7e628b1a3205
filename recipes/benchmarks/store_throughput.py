# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Cost of building, keeping and training from a store of a teacher's explanations: all in one run.

    python recipes/benchmarks/store_throughput.py
    python recipes/benchmarks/store_throughput.py --only training --json store.json

Building is compared with the teacher's plain inference over the same images; a training step from the store, the
joining of its rows included, with plain distillation from the same stored logits and with the live teacher's. Variants
take turns, so that a machine whose speed drifts slows all of them; ratios are taken turn by turn and their median is
printed. Time is the process's CPU time over all threads; on a GPU, time on the clock.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import default_data_collator
from transformers.utils import logging

from hf_e2kd import Explanation, ExplanationDistillArguments, ExplanationDistillTrainer, TeacherReference
from hf_e2kd.experiments import run_recipe
from hf_e2kd.store import StoredReference
from hf_e2kd.store.ids import IdIndex
from hf_e2kd.store.rows import RowEncoder
from hf_e2kd.store.writer import ShardWriter

TEACHER, STUDENT = "resnet34", "resnet18"
IMAGE_SIZE, CLASSES, GRID = 224, 1000, (7, 7)
ON_GPU = torch.cuda.is_available()


def images(count: int) -> list[dict[str, Any]]:
    """Samples with ids as ImageNet's; what is in the images doesn't change what they cost."""
    return [
        {"pixel_values": torch.randn(3, IMAGE_SIZE, IMAGE_SIZE), "image_id": f"n01440764_{number:05d}"}
        for number in range(count)
    ]


def seconds(work: Callable[[], Any]) -> float:
    """CPU time of all threads, or time on the clock with a GPU."""
    clock = time.perf_counter if ON_GPU else time.process_time
    if ON_GPU:
        torch.cuda.synchronize()
    start = clock()
    work()
    if ON_GPU:
        torch.cuda.synchronize()
    return clock() - start


def take_turns(variants: Mapping[str, Callable[[], Any]], turns: int, what: str) -> dict[str, list[float]]:
    """Seconds of each variant at each turn. Who begins changes from turn to turn."""
    names, taken = list(variants), {name: [0.0] * turns for name in variants}
    for turn in tqdm(range(turns), desc=what, leave=False):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            taken[name][turn] = seconds(variants[name])
    return taken


def ratio(taken: Mapping[str, list[float]], one: str, other: str) -> dict[str, Any]:
    """The median of one variant's time over another's, turn by turn, and its quartiles."""
    ratios = sorted(a / b for a, b in zip(taken[one], taken[other], strict=True))
    quarter = len(ratios) // 4
    return {"ratio": statistics.median(ratios), "quartiles": [ratios[quarter], ratios[-1 - quarter]]}


# ---- Building --------------------------------------------------------------------------------------------------------


def build(teacher: nn.Module, data: list[dict[str, Any]], options: argparse.Namespace, **more: Any) -> StoredReference:
    settings = {"id_column": "image_id", "batch_size": options.batch_size, "progress": False}
    return StoredReference.build(teacher, data, tempfile.mkdtemp(), **settings, **more)


def building(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A whole building, its description and checks included, beside a loop over the same images."""
    teacher, data = timm.create_model(TEACHER).eval(), images(options.samples)
    build(teacher, data[: options.batch_size], options)  # moves the teacher to its device
    device = next(teacher.parameters()).device

    @torch.no_grad()
    def infer() -> None:
        for batch in DataLoader(data, options.batch_size, collate_fn=default_data_collator):
            teacher(batch["pixel_values"].to(device)).cpu()

    infer()
    variants = {"building": lambda: build(teacher, data, options), "inference": infer}
    taken = take_turns(variants, options.turns, "building")
    each = {name: 1000 * statistics.median(own) / len(data) for name, own in taken.items()}
    rows = [
        {
            "what": f"building a store of {len(data)} images, {TEACHER}",
            "figure": f"{each['building']:.1f} ms a sample ({each['inference']:.1f} ms of inference)",
            **ratio(taken, "building", "inference"),
            "beside": "plain inference",
            "target": 1.10,
        }
    ]
    for name, more in (("all logits", {}), ("the 50 largest logits", {"top_k": 50})):
        reference = build(teacher, data, options, **more)
        size = sum(info.bytes for info in reference.shards.infos) / len(data)
        grid = "×".join(map(str, GRID))
        rows.append(
            {"what": f"size: {name} of {CLASSES}, {grid} cells", "figure": f"{size:.0f} bytes a sample", "bytes": size}
        )
    rows[1]["target"] = 2200
    return rows


# ---- Reading ---------------------------------------------------------------------------------------------------------


def written(count: int, options: argparse.Namespace) -> StoredReference:
    """A store of random rows, which needs no teacher."""
    teacher = timm.create_model("resnet18", num_classes=CLASSES)
    small = build(teacher, images(2), options)
    folder, batch, shards, target = Path(tempfile.mkdtemp()), 256, [], 4096
    writer, write = None, RowEncoder("float16", None, vectors=False)
    for start in range(0, count, batch):
        size = min(batch, count - start)
        reference_output = Explanation(
            torch.randn(size, CLASSES), torch.rand(size, *GRID), torch.zeros(size, dtype=torch.long)
        )
        rows, fields, _ = write([f"n01440764_{start + number:07d}" for number in range(size)], reference_output, None)
        writer = writer or ShardWriter(folder / f"shard-{len(shards):05d}.arrow", fields)
        writer.add(rows)
        if writer.rows >= target or start + size == count:
            shards.append(writer.close())
            writer = None
    description = {**small.description, "count": count, "shards": [vars(info) for info in shards]}
    (folder / "store.json").write_text(json.dumps(description))
    return StoredReference(folder)


class Ids:
    """A data set of ids alone, so that nothing but the joining costs."""

    def __init__(self, order: np.ndarray):
        self.names = [f"n01440764_{number:07d}" for number in order.tolist()]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return {"image_id": self.names[place], "labels": 0}


def reading(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows by a shuffled data set through a data loader, beside the same loader without a store."""
    reference = written(options.rows, options)
    order = np.random.default_rng(0).permutation(options.rows)
    data = Ids(order)
    index = seconds(lambda: IdIndex(reference.shards))
    attached = reference.attach(data)
    batches = [list(range(start, start + 64)) for start in range(0, options.rows - 63, 64)]

    def drain(source: Any) -> None:
        for _ in DataLoader(source, batch_sampler=batches, collate_fn=default_data_collator):
            pass

    drain(attached)  # maps the files
    variants = {
        "rows alone": lambda: [reference.decoder(order[batch]) for batch in batches],
        "joined": lambda: [attached.__getitems__(batch) for batch in batches],
        "loader": lambda: drain(attached),
        "without": lambda: drain(data),
    }
    taken = take_turns(variants, options.turns, "reading")
    each = {name: 1e6 * statistics.median(own) / (64 * len(batches)) for name, own in taken.items()}
    figures = {
        "indexing the ids of a store, once": 1e6 * index / options.rows,
        "reading a row, 64 together": each["rows alone"],
        "finding it by its sample's id, reading and joining it": each["joined"],
        "the same through a DataLoader, beyond what it costs without a store": each["loader"] - each["without"],
    }
    return [{"what": what, "figure": f"{value:.1f} µs a row", "microseconds": value} for what, value in figures.items()]


# ---- Training --------------------------------------------------------------------------------------------------------


def stepper(reference: Any, data: Any, weight: float, options: argparse.Namespace) -> Callable[[], Any]:
    """One training step of a student: samples, their rows, the batch, loss, gradient and optimizer."""
    torch.manual_seed(0)
    args = ExplanationDistillArguments(
        output_dir=tempfile.mkdtemp(),
        explanation_weight=weight,
        use_cpu=not ON_GPU,
        bf16=options.bf16,
        per_device_train_batch_size=options.batch_size,
        report_to="none",
        disable_tqdm=True,
    )
    student = timm.create_model(STUDENT)
    trainer = ExplanationDistillTrainer(student, args, train_dataset=data, references={"teacher": reference})
    trainer.create_optimizer_and_scheduler(num_training_steps=1000)
    trainer.model_wrapped, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    trainer.current_gradient_accumulation_steps = 1
    collate = trainer._get_collator_with_removed_columns(trainer.data_collator)
    draw = np.random.default_rng(0)

    def step() -> None:
        places = draw.integers(len(data), size=options.batch_size).tolist()
        samples = data.__getitems__(places) if hasattr(data, "__getitems__") else [data[place] for place in places]
        trainer.training_step(trainer.model_wrapped, collate(samples))
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    return step


def training(options: argparse.Namespace) -> list[dict[str, Any]]:
    """GradCAM from a store, beside plain distillation from the same store and from the live teacher."""
    teacher, data = timm.create_model(TEACHER), images(max(options.batch_size, options.samples))
    folder = build(teacher, data, options).folder

    def stored(weight: float) -> Callable[[], Any]:
        reference = StoredReference(folder)
        return stepper(reference, reference.attach(data), weight, options)

    variants = {
        "stored e²KD": stored(1.0),
        "stored KD": stored(0.0),
        "live KD": stepper(TeacherReference(teacher), data, 0.0, options),
        "live e²KD": stepper(TeacherReference(teacher), data, 1.0, options),
    }
    for step in variants.values():
        for _ in range(options.warmup):
            step()
    taken = take_turns(variants, options.steps, "training")
    milliseconds = {name: 1000 * statistics.median(own) for name, own in taken.items()}
    rows = []
    for beside, target in (("stored KD", 1.05), ("live KD", None), ("live e²KD", None)):
        rows.append(
            {
                "what": f"a step of GradCAM from a store, {TEACHER} → {STUDENT}",
                "figure": f"{milliseconds['stored e²KD']:.0f} ms ({milliseconds[beside]:.0f} ms)",
                **ratio(taken, "stored e²KD", beside),
                "beside": f"{beside} step",
                "target": target,
            }
        )
    return rows


PARTS = {"building": building, "reading": reading, "training": training}


def line(row: Mapping[str, Any]) -> str:
    share = ""
    if "ratio" in row:
        low, high = row["quartiles"]
        share = f"**{row['ratio']:.3f}** ({low:.3f}–{high:.3f}) of {row['beside']}"
    target = "" if row.get("target") is None else f"≤ {row['target']}"
    return f"| {row['what']} | {row['figure']} | {share} | {target} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=256, help="images of the store that is built")
    parser.add_argument("--turns", type=int, default=7, help="how often building and reading are measured")
    parser.add_argument("--rows", type=int, default=40960, help="rows of the store that is read")
    parser.add_argument("--steps", type=int, default=20, help="training steps of each variant that count")
    parser.add_argument("--warmup", type=int, default=3, help="steps of each variant before")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--bf16", action="store_true", help="train in bf16")
    parser.add_argument("--only", choices=list(PARTS), help="measure this part alone")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(options.threads)

    device = torch.cuda.get_device_name() if ON_GPU else f"CPU, {options.threads} threads"
    print(f"{device}; torch {torch.__version__}; batches of {options.batch_size}×3×{IMAGE_SIZE}×{IMAGE_SIZE} pixels\n")
    print("| what | figure | time ratio (quartiles) | target |")
    print("|---|---|---|---|")
    results = {}
    for name in [options.only] if options.only else PARTS:
        results[name] = PARTS[name](options)
        print("\n".join(line(row) for row in results[name]), flush=True)
    if options.json:
        content = {"device": device, "torch": torch.__version__, "results": results}
        options.json.write_text(json.dumps(content, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    run_recipe(main)
