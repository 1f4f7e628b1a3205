# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd[interpretability,perturbation]"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Speed of XDistillation's parts: superpixels, the teacher's explanations in batches, the student beside its CNN.

    python recipes/benchmarks/xdistillation.py --threads 1 --rounds 3

Random images of 32×32 pixels and networks of random weights; CPU time of the process, medians over the rounds. Then
gradient SHAP beside KernelSHAP, of a network trained on the embedded digits.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import ViTImageProcessor

from hf_e2kd import explain
from hf_e2kd.alignment import slic_superpixels, superpixel_maps
from hf_e2kd.data import DistillationTransform, digits_on_textures
from hf_e2kd.experiments import run_recipe
from hf_e2kd.experiments.diffroar import LabelledImages, accuracy
from hf_e2kd.explainers import GradientShap, KernelShap
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
    """Ratios of a network: explanations pass by pass over those in batches, and its gradients alone so; the speed of
    these in batches, in billions of operations a second; the student and the autoencoder over it."""
    vgg = VGGForImageClassification(config).eval()

    def explain(count: int, together: int, times: int) -> None:
        for _ in range(times):
            for some in images[:explained].split(count):
                target = torch.zeros(len(some), dtype=torch.long)
                GradientShap(samples=together)(vgg, {"pixel_values": some}, target)

    def differentiate(count: int, times: int) -> None:
        for _ in range(times):
            pixels = images[:count].clone().requires_grad_()
            torch.autograd.grad(vgg(pixels).logits[:, 0].sum(), pixels)

    # The network alone, without SHAP, in passes of the same sizes.
    alone = median_seconds(lambda: differentiate(1, explained * samples), rounds)
    together = median_seconds(lambda: differentiate(len(images), explained * samples // len(images)), rounds)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        vgg(images)
    # A convolution's gradient at its input takes as many operations as its output.
    speed = 2 * counter.get_total_flops() * (explained * samples // len(images)) / together / 1e9
    batched = median_seconds(lambda: explain(explained, samples, 1), rounds)
    single = median_seconds(lambda: explain(1, 1, samples), rounds)
    autoencoder = ExplanationAutoencoder(ExplanationAutoencoderConfig())
    student = XDistillationForImageClassification.from_parts(vgg, autoencoder).eval()
    with torch.no_grad():
        own = median_seconds(lambda: vgg(images[:64]), rounds)
        joined = median_seconds(lambda: student(images[:64]), rounds)
        approximated = median_seconds(lambda: student.approximate_explanation(images[:64]), rounds)
    return [single / batched, alone / together, speed, joined / own, approximated / own]


CELLS = 4


def compare_methods(count: int) -> None:
    """Print how far gradient SHAP is from KernelSHAP on the squares of a grid, both against the mean colour."""
    splits = digits_on_textures(
        {"student_train": 0, "validation": 0, "test_ood": 0, "teacher_train": 1000, "test_id": count}
    )
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    data = {
        n: LabelledImages.of(splits[n].with_transform(DistillationTransform(processor)))
        for n in ("teacher_train", "test_id")
    }
    torch.manual_seed(0)
    model = VGGForImageClassification(VGGConfig(widths=((16,), (32,), (64,)), num_labels=10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loader = torch.utils.data.DataLoader(data["teacher_train"], 64, shuffle=True)
    for _ in range(6):
        for batch in loader:
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
    model.eval()
    pixels, train = data["test_id"].pixel_values, data["teacher_train"].pixel_values
    print(f"\nAccuracy of the network: {accuracy(model, data['test_id']):.2f}\n")

    def squares(method: Any) -> tuple[torch.Tensor, torch.Tensor, float]:
        start = time.process_time()
        found = explain(model, pixels, method=method, output="probability")
        seconds = time.process_time() - start
        sums = found.maps
        if sums.shape[-1] != CELLS:
            sums = torch.nn.functional.avg_pool2d(sums, 32 // CELLS) * (32 // CELLS) ** 2
        return sums.flatten(1), found.logits.amax(1), 1000 * seconds / count

    reference, probability, _ = squares(KernelShap(samples=2048, cells=CELLS))
    with torch.no_grad():
        top = model(pixels).logits.argmax(1)
        empty = model(torch.zeros_like(pixels[:1])).logits.softmax(1)[0, top]
    methods = {
        "KernelSHAP, 128 coalitions": KernelShap(samples=128, cells=CELLS, seed=1),
        "KernelSHAP, 512 coalitions": KernelShap(samples=512, cells=CELLS, seed=1),
        **{f"gradient SHAP, {n} choices": GradientShap(samples=n) for n in (8, 32, 128)},
        "gradient SHAP, 32 choices, background of 50 images": GradientShap(train[:50], 32),
    }
    heads = ["method", "passes an image", "CPU ms an image", "cosine with KernelSHAP", "error of the sum"]
    print(f"| {' | '.join(heads)} |\n|---|---|---|---|---|")
    for name, method in methods.items():
        own, _, milliseconds = squares(method)
        cosine = torch.cosine_similarity(own, reference).mean()
        error = "–" if "background" in name else f"{(own.sum(1) - (probability - empty)).abs().mean():.3f}"
        print(f"| {name} | {method.samples} | {milliseconds:.0f} | {cosine:.2f} | {error} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help="images that are cut into superpixels")
    parser.add_argument("--explained", type=int, default=16, help="images that are explained")
    parser.add_argument("--samples", type=int, default=8, help="random choices of gradient SHAP an image")
    parser.add_argument("--compared", type=int, default=40, help="images on which SHAP's methods are compared")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    images = torch.nn.functional.avg_pool2d(torch.rand(options.images, 3, 36, 36), 5, stride=1)
    maps = torch.rand(options.images, 32, 32)
    seconds = median_seconds(lambda: superpixel_maps(maps, slic_superpixels(images)), options.rounds)
    print(f"Superpixels and their sums: {options.images / seconds:.0f} images a second\n")
    square = torch.rand(1024, 1024)
    speed = 2 * 1024**3 / median_seconds(lambda: square @ square, options.rounds) / 1e9
    print(f"Product of two matrices of 1,024²: {speed:.0f} billion operations a second\n")
    heads = ["network", "SHAP pass by pass / in batches", "gradients alone, so", "their operations a second, 10⁹"]
    print(f"| {' | '.join(heads)} | student / network | autoencoder / network |\n|---|---|---|---|---|---|")
    for name, config in NETWORKS.items():
        ratios = time_network(
            config, images[: options.explained * options.samples], options.samples, options.explained, options.rounds
        )
        print(f"| {name} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |", flush=True)
    compare_methods(options.compared)


if __name__ == "__main__":
    run_recipe(main)
