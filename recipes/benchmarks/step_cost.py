# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Cost of an e²KD training step, or one by another method, beside a plain KD step: same models, same batch, one run.

    python recipes/benchmarks/step_cost.py
    python recipes/benchmarks/step_cost.py --only gradcam
    python recipes/benchmarks/step_cost.py --only gradcam --compile
    python recipes/benchmarks/step_cost.py --only method

All variants are whole `training_step`s of the trainer (teacher, student, loss, backward) and take turns, so that a
machine whose speed drifts slows both. Time is the process's CPU time over all threads (the device's time on a GPU); the
ratio is taken turn by turn and its median is printed. Peak memory is the most that one step allocates. With `--compile`
both steps are made with `torch_compile=True` too, and compared with each other and with the eager ones; the teacher
stays eager, and compiling isn't counted.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import BertConfig, BertForSequenceClassification
from transformers.utils import logging

from hf_e2kd import ExplanationDistillArguments, ExplanationDistillTrainer, Reference, ReferenceOutput, explain
from hf_e2kd.experiments import run_recipe
from hf_e2kd.models import BcosResNetConfig, BcosResNetForImageClassification
from hf_e2kd.terms.base import SAMPLE_ID

IMAGE_SIZE = 224
TEXT_BATCH, TOKENS = 16, 64


@dataclass
class Case:
    """A teacher, a student and how they are explained.

    Args:
        models: What makes teacher and student; random weights, which don't change what a step costs.
        explainer: Name of the explanation method.
        text: Whether the models read texts.
        given: Whether the teacher's logits and maps are given, instead of the teacher being there.
        stored: Whether the plain KD step is given the teacher's logits too, as from a store.
        share: Of each batch, what is explained at a step.
        options: Options of the explanation method.
        method: Arguments of a training by another method than e²KD; explanations are left out.
    """

    models: Callable[[], tuple[nn.Module, nn.Module]]
    explainer: str = "gradcam"
    text: bool = False
    given: bool = False
    stored: bool = False
    share: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)
    method: Mapping[str, Any] | None = None

    @property
    def variant(self) -> str:
        return "e²KD" if self.method is None else "method's"


def from_timm(teacher: str, student: str) -> Callable[[], tuple[nn.Module, nn.Module]]:
    return lambda: (timm.create_model(teacher), timm.create_model(student))


def bert(layers: int) -> nn.Module:
    """MiniLM's width, four classes."""
    width = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
    return BertForSequenceClassification(BertConfig(num_hidden_layers=layers, num_labels=4, **width))


def berts() -> tuple[nn.Module, nn.Module]:
    return bert(6), bert(3)


def bcos_resnet(*depths: int) -> nn.Module:
    return BcosResNetForImageClassification(BcosResNetConfig(depths=depths, num_labels=1000))


def bcos_resnets() -> tuple[nn.Module, nn.Module]:
    return bcos_resnet(3, 4, 6, 3), bcos_resnet(2, 2, 2, 2)


VITS = from_timm("vit_small_patch16_224", "vit_tiny_patch16_224")
RESNETS = from_timm("resnet34", "resnet18")
CONVNEXTS = from_timm("convnext_nano", "convnext_atto")

CASES = {
    "gradcam: ResNet-34 → ResNet-18": Case(RESNETS),
    "gradcam: ViT-S/16 → ViT-Ti/16": Case(VITS),
    "gradcam: ConvNeXt-nano → ConvNeXt-atto": Case(CONVNEXTS),
    "hires_cam: ResNet-34 → ResNet-18": Case(RESNETS, "hires_cam"),
    "hires_cam: ViT-S/16 → ViT-Ti/16": Case(VITS, "hires_cam"),
    "hires_cam: ConvNeXt-nano → ConvNeXt-atto": Case(CONVNEXTS, "hires_cam"),
    "layer_cam: ResNet-34 → ResNet-18": Case(RESNETS, "layer_cam"),
    "layer_cam: ViT-S/16 → ViT-Ti/16": Case(VITS, "layer_cam"),
    "layer_cam: ConvNeXt-nano → ConvNeXt-atto": Case(CONVNEXTS, "layer_cam"),
    "integrated_gradients: BERT 6 → 3 layers": Case(berts, "integrated_gradients", text=True),
    "integrated_gradients, maps given: BERT 6 → 3 layers": Case(berts, "integrated_gradients", text=True, given=True),
    "integrated_gradients of .4 of the batch: BERT 6 → 3 layers": Case(
        berts, "integrated_gradients", text=True, share=0.4
    ),
    "integrated_gradients of .4 of the batch, maps given: BERT 6 → 3 layers": Case(
        berts, "integrated_gradients", text=True, given=True, share=0.4
    ),
    "integrated_gradients, last layer: BERT 6 → 3 layers": Case(
        berts, "integrated_gradients", text=True, options={"layer": "last"}
    ),
    "attention_rollout: BERT 6 → 3 layers": Case(berts, "attention_rollout", text=True),
    "attention_gradient: BERT 6 → 3 layers": Case(berts, "attention_gradient", text=True),
    "input_x_gradient: BERT 6 → 3 layers": Case(berts, "input_x_gradient", text=True),
    "input_x_gradient, last layer: BERT 6 → 3 layers": Case(
        berts, "input_x_gradient", text=True, options={"layer": "last"}
    ),
    "input_x_gradient: ViT-S/16 → ViT-Ti/16": Case(VITS, "input_x_gradient"),
    "lrp: BERT 6 → 3 layers": Case(berts, "lrp", text=True),
    "lrp, last layer: BERT 6 → 3 layers": Case(berts, "lrp", text=True, options={"layer": "last"}),
    "lrp, last layer, stored: BERT 6 → 3 layers": Case(
        berts, "lrp", text=True, given=True, stored=True, options={"layer": "last"}
    ),
    "lrp: ViT-S/16 → ViT-Ti/16": Case(VITS, "lrp"),
    "lrp, last layer: ViT-S/16 → ViT-Ti/16": Case(VITS, "lrp", options={"layer": "last"}),
    "bcos: B-cos ResNet-34 → B-cos ResNet-18": Case(bcos_resnets, "bcos"),
}
METHODS: dict[str, dict[str, Any]] = {
    "attention_transfer": {"terms": {"attention_transfer": {}}},
    "nst": {"terms": {"nst": {}}},
    "cat_kd": {"terms": {"cat_kd": {}}},
    "hint": {"terms": {"hint": {}}},
    "activation_boundary": {"terms": {"activation_boundary": {}}},
    "review_kd": {"terms": {"review_kd": {}}},
    "review_kd, mid_channels=128": {"terms": {"review_kd": {"mid_channels": 128}}},
    # Without the stages of factor transfer and SSKD; the latter's loss of the logits is its own.
    "factor_transfer": {"terms": {"factor_transfer": {}}},
    "crd": {"terms": {"crd": {}}},
    "sskd": {"terms": {"sskd": {}}, "logits_weight": 0.0},
    "logits_loss=dkd": {"logits_loss": "dkd"},
    "logits_loss=dist": {"logits_loss": "dist"},
    "logits_loss=hard": {"logits_loss": "hard"},
}
CASES |= {f"method {name}: ResNet-34 → ResNet-18": Case(RESNETS, method=method) for name, method in METHODS.items()}


class Samples(Dataset):
    """As many samples as the banks of CRD shall hold, all of them the batch's first."""

    def __init__(self, batch: Mapping[str, torch.Tensor]):
        self.sample = {name: values[0] for name, values in batch.items() if name != SAMPLE_ID}

    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return self.sample


class Given(Reference):
    """Says what was computed of the batch before."""

    def __init__(self, reference_output: ReferenceOutput):
        super().__init__()
        self.reference_output = reference_output

    def __call__(self, inputs: Mapping[str, Any], with_maps: bool = True) -> ReferenceOutput:
        return self.reference_output if with_maps else replace(self.reference_output, maps=None, mask=None)


def build_trainer(
    case: Case,
    plain: bool,
    batch: dict[str, torch.Tensor],
    options: argparse.Namespace,
    compiled: bool = False,
) -> ExplanationDistillTrainer:
    """A trainer that is ready for `run_step`; with `plain` of plain KD, otherwise of the case's method."""
    torch.manual_seed(0)
    teacher, student = case.models()
    explanation_weight = 0.0 if plain or case.method is not None else 1.0
    args = ExplanationDistillArguments(
        output_dir=str(Path(tempfile.gettempdir(), "step_cost")),  # nothing is written
        explainer=case.explainer,
        explainer_options=case.options,
        explanation_weight=explanation_weight,
        explanation_fraction=case.share,
        use_cpu=options.device == "cpu",
        bf16=options.bf16,
        torch_compile=compiled,
        per_device_train_batch_size=len(next(iter(batch.values()))),
        report_to="none",
        disable_tqdm=True,
        **({} if plain else case.method or {}),
    )
    sources: dict[str, Any] = {"teacher_model": teacher}
    if (case.given and explanation_weight) or (case.stored and plain):
        reference_output = explain(teacher.eval(), batch, case.explainer, **case.options)
        sources = {
            "references": {
                "given": Given(
                    ReferenceOutput(
                        reference_output.target, reference_output.maps, reference_output.logits, reference_output.mask
                    )
                )
            }
        }
    trainer = ExplanationDistillTrainer(student, args, train_dataset=Samples(batch), **sources)
    trainer.set_up_terms()
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


def make_batch(case: Case, options: argparse.Namespace) -> dict[str, torch.Tensor]:
    if not case.text:
        rows = torch.arange(options.batch_size)
        images = torch.rand(options.batch_size, 3, IMAGE_SIZE, IMAGE_SIZE)
        return {"pixel_values": images, "labels": rows, SAMPLE_ID: rows}
    ids = torch.randint(1000, 30000, (TEXT_BATCH, TOKENS))
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "special_tokens_mask": torch.zeros_like(ids),
    }


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


@dataclass
class Ratio:
    """Ratios of one variant's time to another's, turn by turn."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"**{self.median:.3f}** ({self.low:.3f}–{self.high:.3f})"


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Each variant's median, and medians and quartiles of their ratios."""
    case, batch = CASES[name], make_batch(CASES[name], options)
    own = case.variant
    variants = {"KD": build_trainer(case, True, batch, options), own: build_trainer(case, False, batch, options)}
    if options.compile:
        torch.compiler.reset()
        variants["compiled KD"] = build_trainer(case, True, batch, options, compiled=True)
        variants[f"compiled {own}"] = build_trainer(case, False, batch, options, compiled=True)
    for trainer in variants.values():
        for _ in range(options.warmup):
            run_step(trainer, batch)
    turns: dict[str, list[float]] = {variant: [] for variant in variants}
    for turn in tqdm(range(options.steps), desc=name, leave=False):
        # The order alternates, so that no variant always runs on another's warm caches.
        for variant in list(variants) if turn % 2 == 0 else reversed(variants):
            turns[variant].append(run_step(variants[variant], batch))
    memory = {variant: peak_memory(variants[variant], batch) for variant in ("KD", own)}
    ratios = {"time ratio": _ratio(turns[own], turns["KD"])}
    if options.compile:
        ratios[f"compiled: {own} to KD"] = _ratio(turns[f"compiled {own}"], turns["compiled KD"])
        ratios[f"{own}: compiled to eager"] = _ratio(turns[f"compiled {own}"], turns[own])
    return {
        "ms": {variant: 1000 * statistics.median(seconds) for variant, seconds in turns.items()},
        "ratios": ratios,
        "mb": memory,
        "memory ratio": memory[own] / memory["KD"],
    }


def _ratio(seconds: list[float], others: list[float]) -> Ratio:
    ratios = sorted(own / other for own, other in zip(seconds, others, strict=True))
    return Ratio(statistics.median(ratios), ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4])


def quieten(options: argparse.Namespace) -> None:
    logging.set_verbosity_error()
    torch.set_num_threads(options.threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="steps of each variant that count")
    parser.add_argument("--warmup", type=int, default=3, help="steps of each variant before")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true", help="measure the steps with torch_compile too")
    parser.add_argument("--only", default="", metavar="METHOD", help=f"only cases that begin so: {', '.join(CASES)}")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    chosen = [name for name in CASES if name.startswith(options.only)]
    if not chosen:
        parser.error(f"--only {options.only} names no case. Cases: {'; '.join(CASES)}.")
    quieten(options)

    device = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {options.threads} threads"
    print(
        f"{device}; torch {torch.__version__}; batches of {options.batch_size}×3×{IMAGE_SIZE}×{IMAGE_SIZE} pixels or "
        f"{TEXT_BATCH}×{TOKENS} tokens; {options.steps} steps of each variant"
    )
    results: dict[str, Any] = {}
    header = ""
    for name in chosen:
        result = measure(name, options)
        row = {
            "what": name,
            **{f"{variant} step": f"{value:.0f} ms" for variant, value in result["ms"].items()},
            **{what: str(ratio) for what, ratio in result["ratios"].items()},
            **{f"{variant} memory": f"{value:.0f} MB" for variant, value in result["mb"].items()},
            "memory ratio": f"**{result['memory ratio']:.3f}**",
        }
        columns = " | ".join(row)
        if columns != header:
            print(f"\n| {columns} |\n|{'---|' * len(row)}")
            header = columns
        print(f"| {' | '.join(row.values())} |", flush=True)
        results[name] = {**result, "ratios": {what: vars(ratio) for what, ratio in result["ratios"].items()}}
    if options.json:
        options.json.write_text(
            json.dumps({"device": device, "torch": torch.__version__, "results": results}, indent=2)
        )


if __name__ == "__main__":
    run_recipe(main)
