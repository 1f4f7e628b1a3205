# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd[export]"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Cost of an exported map: an ONNX file's logits and map over the logits alone, in ONNX Runtime.

    pip install 'hf-e2kd[export]'
    python recipes/benchmarks/export.py
    python recipes/benchmarks/export.py --models resnet18 --batch-size 8

Both files of a model take turns on the same images in one process, on one thread; time is the process's CPU time. The
ratio is taken turn by turn, and its median and quartiles are printed. Weights are random, which changes no cost.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from hf_e2kd.experiments import run_recipe
from hf_e2kd.export import export_model

MODELS = ["resnet18", "mobilenetv4_conv_small", "vit_tiny_patch16_224"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help="architectures of timm")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--runs", type=int, default=60, help="turns of each file")
    parser.add_argument("--warmup", type=int, default=5, help="turns that aren't counted")
    options = parser.parse_args()

    print("| model | logits | logits and map | time ratio (quartiles) | size ratio |")
    print("|---|---|---|---|---|")
    for name in options.models:
        print(row(name, options), flush=True)


def row(name: str, options: argparse.Namespace) -> str:
    """Measure one model: a row of the table."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    with tempfile.TemporaryDirectory() as folder:
        plain = export_model(model, Path(folder) / "plain.onnx")
        explained = export_model(model, Path(folder) / "explained.onnx", explanation=True)
        size = explained.stat().st_size / plain.stat().st_size
        sessions = session(plain), session(explained)
    images = np.random.default_rng(0).standard_normal((options.batch_size, *sessions[0].get_inputs()[0].shape[1:]))
    inputs = {"pixel_values": images.astype(np.float32)}
    both = {**inputs, "target": np.full(options.batch_size, -1)}
    turns = [[run(sessions[0], inputs), run(sessions[1], both)] for _ in range(options.warmup + options.runs)]
    times = turns[options.warmup :]
    ratios = [explained / alone for alone, explained in times]
    low, middle, high = statistics.quantiles(ratios, n=4)
    alone, all_of_it = (1000 * statistics.median(column) for column in zip(*times, strict=True))
    return f"| {name} | {alone:.1f} ms | {all_of_it:.1f} ms | **{middle:.3f}** ({low:.3f}–{high:.3f}) | {size:.2f} |"


def session(path: Path) -> Any:
    import onnxruntime  # of the extra `export`

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def run(session: Any, inputs: dict[str, np.ndarray]) -> float:
    """CPU time of one batch in seconds."""
    start = time.process_time()
    session.run(None, inputs)
    return time.process_time() - start


if __name__ == "__main__":
    run_recipe(main)
