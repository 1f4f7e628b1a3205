# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd[interpretability,perturbation]"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Speed of XDistillation's parts: superpixels, the teacher's explanations in batches, the student beside its CNN.

    python recipes/benchmarks/xdistillation.py --threads 1 --rounds 3

Random images of 32×32 pixels and networks of random weights; CPU time of the process, medians over the rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from hf_e2kd.alignment import slic_superpixels, superpixel_maps
from hf_e2kd.explainers import GradientShap
from hf_e2kd.models import (
    ExplanationAutoencoder,
    ExplanationAutoencoderConfig,
    VGGConfig,
    VGGForImageClassification,
    XDistillationForImageClassification,
)


def median_seconds(call: Callable[[], Any], rounds: int) -> float:
    """Median CPU time of a call, after one that isn't counted."""
    call()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times)


NETWORKS = {"VGG7": VGGConfig(depth=7), "VGG of 16, 32 and 64 channels": VGGConfig(widths=((16,), (32,), (64,)))}


def time_network(config: VGGConfig, images: torch.Tensor, samples: int, explained: int, rounds: int) -> list[float]:
    """Ratios of a network: explanations pass by pass over those in batches; the student and the autoencoder over it."""
    vgg = VGGForImageClassification(config).eval()

    def explain(count: int, together: int, times: int) -> None:
        for _ in range(times):
            for some in images[:explained].split(count):
                target = torch.zeros(len(some), dtype=torch.long)
                GradientShap(samples=together)(vgg, {"pixel_values": some}, target)

    batched = median_seconds(lambda: explain(explained, samples, 1), rounds)
    single = median_seconds(lambda: explain(1, 1, samples), rounds)
    autoencoder = ExplanationAutoencoder(ExplanationAutoencoderConfig())
    student = XDistillationForImageClassification.from_parts(vgg, autoencoder).eval()
    with torch.no_grad():
        own = median_seconds(lambda: vgg(images[:64]), rounds)
        joined = median_seconds(lambda: student(images[:64]), rounds)
        approximated = median_seconds(lambda: student.approximate_explanation(images[:64]), rounds)
    return [single / batched, joined / own, approximated / own]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help="images that are cut into superpixels")
    parser.add_argument("--explained", type=int, default=16, help="images that are explained")
    parser.add_argument("--samples", type=int, default=8, help="random choices of gradient SHAP an image")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    images = torch.nn.functional.avg_pool2d(torch.rand(options.images, 3, 36, 36), 5, stride=1)
    maps = torch.rand(options.images, 32, 32)
    seconds = median_seconds(lambda: superpixel_maps(maps, slic_superpixels(images)), options.rounds)
    print(f"Superpixels and their sums: {options.images / seconds:.0f} images a second\n")
    print("| network | SHAP pass by pass / in batches | student / network | autoencoder / network |")
    print("|---|---|---|---|")
    for name, config in NETWORKS.items():
        ratios = time_network(config, images, options.samples, options.explained, options.rounds)
        print(f"| {name} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |", flush=True)


if __name__ == "__main__":
    main()
