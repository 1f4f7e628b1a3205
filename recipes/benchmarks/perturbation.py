# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd[perturbation]"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Speed of the explainers without gradients: many changed inputs at a time against one.

    python recipes/benchmarks/perturbation.py --threads 1 --rounds 3

The models have random weights, which cost as much as trained ones. A round times both ways one after the other; shown
are the medians and the ratio's median and range over the rounds. Beside it stands what the model's plain forward pass
gains by that batch size, which is the most that batches can gain.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from hf_e2kd.architectures import call_model
from hf_e2kd.experiments import run_recipe
from hf_e2kd.explainers import build_explainer


def resnet(size: int) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    return timm.create_model("resnet18", num_classes=10).eval(), {"pixel_values": torch.randn(4, 3, size, size)}


def mobilenet(size: int) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    model = timm.create_model("mobilenetv4_conv_small", num_classes=10).eval()
    return model, {"pixel_values": torch.randn(4, 3, size, size)}


def bert(tokens: int) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    config = BertConfig(hidden_size=384, num_hidden_layers=3, num_attention_heads=12, intermediate_size=1536)
    ids = torch.randint(5, 30000, (4, tokens))
    return BertForSequenceClassification(config).eval(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


CASES: dict[str, tuple[Callable[[int], tuple[nn.Module, dict[str, torch.Tensor]]], int]] = {
    "MobileNetV4-conv-small, 32 px": (mobilenet, 32),
    "MobileNetV4-conv-small, 224 px": (mobilenet, 224),
    "ResNet-18, 32 px": (resnet, 32),
    "MiniLM of 3 layers, 16 tokens": (bert, 16),
    "MiniLM of 3 layers, 64 tokens": (bert, 64),
}


def timed(run: Callable[[], Any]) -> float:
    """Time a run: the process's CPU time, or on an accelerator the time until it is done."""
    clock = time.perf_counter if torch.accelerator.is_available() else time.process_time
    start = clock()
    with torch.no_grad():
        run()
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return clock() - start


def seconds(explainer: Any, model: nn.Module, inputs: dict[str, torch.Tensor]) -> float:
    """Time of an explanation."""
    target = torch.zeros(4, dtype=torch.long, device=next(model.parameters()).device)
    return timed(lambda: explainer(model, inputs, target))


def gain(model: nn.Module, inputs: dict[str, torch.Tensor], count: int) -> float:
    """Time of a plain forward pass of one input, over each one's share in a batch of so many."""
    rows = torch.arange(count) % 4
    batch = {name: value[rows.to(value.device)] for name, value in inputs.items()}
    one = {name: value[:1] for name, value in inputs.items()}
    alone = statistics.median(timed(lambda: call_model(model, one)) for _ in range(9))
    return alone * count / timed(lambda: call_model(model, batch))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="occlusion", help="occlusion, rise or kernel_shap")
    parser.add_argument("--cases", nargs="+", default=list(CASES), help="some of the models")
    parser.add_argument("--batch-size", type=int, default=64, help="changed inputs at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")

    print(f"{options.method}, {options.batch_size} changed inputs at a time, on {device}\n")
    print("| model, 4 samples | forward passes | at a time | one by one | ratio | of plain passes |")
    print("|---|---|---|---|---|---|")
    for name in options.cases:
        build, size = CASES[name]
        model, inputs = build(size)
        model, inputs = model.to(device), {key: value.to(device) for key, value in inputs.items()}
        explainers = [build_explainer(options.method, batch_size=count) for count in (options.batch_size, 1)]
        seconds(explainers[0], model, inputs)  # warm
        times = [[seconds(each, model, inputs) for each in explainers] for _ in range(options.rounds)]
        ratios = [single / many for many, single in times]
        gains = [gain(model, inputs, options.batch_size) for _ in range(options.rounds)]
        medians = [statistics.median(column) for column in zip(*times, strict=True)]
        print(
            f"| {name} | {explainers[0].passes(inputs):,} | {medians[0]:.2f} s | {medians[1]:.2f} s | "
            f"**{statistics.median(ratios):.1f}** ({min(ratios):.1f}–{max(ratios):.1f}) | "
            f"{statistics.median(gains):.1f} ({min(gains):.1f}–{max(gains):.1f}) |",
            flush=True,
        )


if __name__ == "__main__":
    run_recipe(main)
