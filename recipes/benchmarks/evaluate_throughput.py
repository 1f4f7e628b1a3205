# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Cost of a fidelity evaluation beside the plain inference of both models: same models, same loader, one run.

    python recipes/benchmarks/evaluate_throughput.py
    python recipes/benchmarks/evaluate_throughput.py --only resnet

The plain variant calls teacher and student on every batch and keeps their top classes. The others are whole
`evaluate()` calls, each with more to measure than the one before: the differences are the cost of a metric. All take
turns. Time is the process's CPU time over all threads (the device's time on a GPU); the ratio is taken round by round
and its median is printed. Images come from memory: a loader that decodes them only brings the ratio nearer to 1.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers.utils import logging

from hf_e2kd import ExplanationDistillArguments, ExplanationDistillTrainer
from hf_e2kd.experiments import run_recipe

IMAGE_SIZE = 224
CLASSES = 1000
# timm's names of teacher and student; random weights, which don't change what an evaluation costs.
CASES = {
    "resnet: ResNet-34 → ResNet-18": ("resnet34", "resnet18"),
    "vit: ViT-S/16 → ViT-Ti/16": ("vit_small_patch16_224", "vit_tiny_patch16_224"),
    "convnext: ConvNeXt-nano → ConvNeXt-atto": ("convnext_nano", "convnext_atto"),
}
PLAIN = "plain inference of both"
LOGITS = "evaluate: loss, agreement, both accuracies"
MAPS = "+ GradCAM of both, similarity, zero maps"
MASKS = "+ energy pointing game of both"


class Images(Dataset):
    """Random images with labels, and with a mask where one is wanted."""

    def __init__(self, count: int, with_masks: bool):
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randn(count, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
        self.masks = torch.zeros(count, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
        self.masks[:, 50:150, 60:180] = 1
        self.with_masks = with_masks

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = {"pixel_values": self.pixels[index], "labels": index % CLASSES}
        return sample | {"mask": self.masks[index]} if self.with_masks else sample


def build_trainer(teacher: nn.Module, student: nn.Module, options: argparse.Namespace) -> ExplanationDistillTrainer:
    args = ExplanationDistillArguments(
        output_dir=tempfile.mkdtemp(),
        use_cpu=options.device == "cpu",
        bf16=options.bf16,
        per_device_eval_batch_size=options.batch_size,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = ExplanationDistillTrainer(student, args, teacher_model=teacher)
    trainer.log = lambda *_: None  # type: ignore[method-assign,assignment]
    return trainer


@torch.no_grad()
def infer(trainer: ExplanationDistillTrainer, models: list[nn.Module], data: Dataset) -> list[torch.Tensor]:
    """The top classes of each model, from the loader that an evaluation reads."""
    tops = []
    for batch in trainer.get_eval_dataloader(data):
        pixels = batch["pixel_values"].to(trainer.args.device)
        with trainer.accelerator.autocast():
            tops += [model(pixels).argmax(1).cpu() for model in models]
    return tops


def evaluate(trainer: ExplanationDistillTrainer, data: Dataset, with_maps: bool) -> dict[str, float]:
    trainer.args.evaluate_explanations = with_maps
    return trainer.evaluate(data)


def seconds(work: Callable[[], Any], device: str) -> float:
    """CPU time of all threads, or device time on a GPU."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def measure(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each variant: milliseconds per sample, and the ratio to the plain variant."""
    torch.manual_seed(0)
    teacher, student = (timm.create_model(model).eval() for model in CASES[name])
    trainer = build_trainer(teacher, student, options)
    models = [model.to(trainer.args.device) for model in (teacher, student)]
    count = options.batches * options.batch_size
    bare, masked = Images(count, with_masks=False), Images(count, with_masks=True)
    variants = {
        PLAIN: lambda: infer(trainer, models, bare),
        LOGITS: lambda: evaluate(trainer, bare, with_maps=False),
        MAPS: lambda: evaluate(trainer, bare, with_maps=True),
        MASKS: lambda: evaluate(trainer, masked, with_maps=True),
    }
    for work in variants.values():
        work()
    rounds: list[dict[str, float]] = []
    for turn in tqdm(range(options.rounds), desc=name, leave=False):
        # The order turns, so that no variant always runs on another's warm caches.
        order = list(variants)[turn % len(variants) :] + list(variants)[: turn % len(variants)]
        rounds.append({variant: seconds(variants[variant], options.device) for variant in order})
    rows = []
    for variant in variants:
        ratios = sorted(each[variant] / each[PLAIN] for each in rounds)
        rows.append(
            {
                "case": name,
                "variant": variant,
                "ms_per_sample": 1000 * statistics.median(each[variant] for each in rounds) / count,
                "ratio": statistics.median(ratios),
                "quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="passes of each variant that count")
    parser.add_argument("--batches", type=int, default=4, help="batches of a pass")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--only", default="", metavar="FAMILY", help=f"only cases that begin so: {', '.join(CASES)}")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    chosen = [name for name in CASES if name.startswith(options.only)]
    if not chosen:
        parser.error(f"--only {options.only} names no case. Cases: {'; '.join(CASES)}.")
    logging.set_verbosity_error()
    torch.set_num_threads(options.threads)

    device = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {options.threads} threads"
    print(
        f"{device}; torch {torch.__version__}; {options.rounds} rounds of {options.batches} batches of "
        f"{options.batch_size}×3×{IMAGE_SIZE}×{IMAGE_SIZE} pixels\n"
    )
    print("| models | what | ms a sample | ratio (quartiles) |")
    print("|---|---|---|---|")
    rows = []
    for name in chosen:
        for row in measure(name, options):
            rows.append(row)
            low, high = row["quartiles"]
            ratio = f"**{row['ratio']:.3f}** ({low:.3f}–{high:.3f})"
            print(f"| {name} | {row['variant']} | {row['ms_per_sample']:.2f} | {ratio} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"device": device, "torch": torch.__version__, "rows": rows}, indent=2))


if __name__ == "__main__":
    run_recipe(main)
