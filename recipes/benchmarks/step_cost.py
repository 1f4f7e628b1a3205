"""What an e²KD training step costs beside a plain KD step: same models, same batch, one run.

    python recipes/benchmarks/step_cost.py

Both arms are whole `training_step`s of the trainer (teacher, student, loss, backward) and take turns, so that a
machine whose speed drifts slows both. Time is the process's CPU time over all threads (the device's time on a GPU); the
ratio is taken pair by pair and its median is printed. Peak memory is the most that one step allocates.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import timm
import torch
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm
from transformers.utils import logging

from hf_e2kd import ExplanationDistillArguments, ExplanationDistillTrainer

# The pairs of the foundation's target: e²KD / KD ≤ 1.05 in time, ≤ 1.10 in memory.
PAIRS = {
    "ResNet-34 → ResNet-18": ("resnet34", "resnet18"),
    "ViT-S/16 → ViT-Ti/16": ("vit_small_patch16_224", "vit_tiny_patch16_224"),
    "ConvNeXt-nano → ConvNeXt-atto": ("convnext_nano", "convnext_atto"),
}


def build_trainer(pair: str, explanation_weight: float, options: argparse.Namespace) -> ExplanationDistillTrainer:
    """A trainer on randomly initialised timm models; weights don't change what a step costs."""
    torch.manual_seed(0)
    teacher_name, student_name = PAIRS[pair]
    args = ExplanationDistillArguments(
        output_dir=tempfile.mkdtemp(),
        explanation_weight=explanation_weight,
        use_cpu=options.device == "cpu",
        bf16=options.bf16,
        torch_compile=options.compile,
        per_device_train_batch_size=options.batch_size,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = ExplanationDistillTrainer(
        timm.create_model(student_name), args, teacher_model=timm.create_model(teacher_name)
    )
    trainer.create_optimizer_and_scheduler(num_training_steps=1000)
    trainer.model_wrapped, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def run_step(trainer: ExplanationDistillTrainer, batch: dict[str, torch.Tensor]) -> float:
    """One step; seconds of CPU time, or of device time on a GPU."""
    on_gpu = trainer.args.device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter() if on_gpu else time.process_time()
    trainer.training_step(trainer.model_wrapped, dict(batch))
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    if on_gpu:
        torch.cuda.synchronize()
    return (time.perf_counter() if on_gpu else time.process_time()) - start


def make_batch(options: argparse.Namespace) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(options.batch_size, 3, 224, 224)}


def peak_memory(trainer: ExplanationDistillTrainer, batch: dict[str, torch.Tensor]) -> float:
    """The most that a step allocates beside what it finds (weights, optimizer), in MB."""
    if trainer.args.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run_step(trainer, batch)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # The resident set of a process varies by a tenth from run to run; the allocator's own records don't.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run_step(trainer, batch)
    # Only the raw events have every allocation and release; `profiler.events()` sums them up by operation.
    changes = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in changes)) / 2**20


def measure(pair: str, options: argparse.Namespace) -> dict[str, float]:
    """Medians of both arms and of their pairwise ratio."""
    plain, explained = build_trainer(pair, 0.0, options), build_trainer(pair, 1.0, options)
    batch = make_batch(options)
    for trainer in (plain, explained):
        for _ in range(options.warmup):
            run_step(trainer, batch)
    pairs = []
    for turn in tqdm(range(options.steps), desc=pair, leave=False):
        # The order alternates, so that neither arm always runs on the other's warm caches.
        order = (plain, explained) if turn % 2 == 0 else (explained, plain)
        seconds = {trainer: run_step(trainer, batch) for trainer in order}
        pairs.append((seconds[plain], seconds[explained]))
    ratios = sorted(explained / plain for plain, explained in pairs)
    memory = [peak_memory(trainer, batch) for trainer in (plain, explained)]
    return {
        "kd_ms": 1000 * statistics.median(plain for plain, _ in pairs),
        "e2kd_ms": 1000 * statistics.median(explained for _, explained in pairs),
        "time_ratio": statistics.median(ratios),
        "time_ratio_quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
        "kd_mb": memory[0],
        "e2kd_mb": memory[1],
        "memory_ratio": memory[1] / memory[0],
    }


def quieten(options: argparse.Namespace) -> None:
    logging.set_verbosity_error()
    torch.set_num_threads(options.threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="pairs of steps that count")
    parser.add_argument("--warmup", type=int, default=3, help="steps of each arm before")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true", help="train with torch_compile")
    parser.add_argument("--only", choices=sorted(PAIRS), help="one pair of models instead of all")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    quieten(options)

    device = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {options.threads} threads"
    print(
        f"{device}; torch {torch.__version__}; batch {options.batch_size}×3×224×224; {options.steps} pairs of steps\n"
    )
    print("| models | KD step | e²KD step | time ratio (quartiles) | KD memory | e²KD memory | memory ratio |")
    print("|---|---|---|---|---|---|---|")
    results = {}
    for pair in [options.only] if options.only else PAIRS:
        results[pair] = r = measure(pair, options)
        low, high = r["time_ratio_quartiles"]
        cells = [
            pair,
            f"{r['kd_ms']:.0f} ms",
            f"{r['e2kd_ms']:.0f} ms",
            f"**{r['time_ratio']:.3f}** ({low:.3f}–{high:.3f})",
            f"{r['kd_mb']:.0f} MB",
            f"{r['e2kd_mb']:.0f} MB",
            f"**{r['memory_ratio']:.3f}**",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)
    if options.json:
        options.json.write_text(
            json.dumps({"device": device, "torch": torch.__version__, "results": results}, indent=2)
        )


if __name__ == "__main__":
    sys.exit(main())
