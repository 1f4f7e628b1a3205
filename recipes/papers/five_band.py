# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Score saliency maps on shapes with known heatmaps, by five-band and binary scores, for students with and without KD.

Three regions are known of each image: the background, the object, and the part of it that tells its class. By default
the paper's setting (ResNet-34 → ResNet-18, 512 pixels), for a GPU; the second command is for a CPU.

    python recipes/papers/five_band.py --seeds 3
    python recipes/papers/five_band.py --image_size 128 --train_images 3200 --teacher teacher.json \\
        --student student.json --per_device_train_batch_size 16 --use_cpu true
    python recipes/papers/five_band.py --smoke
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _interpretability import (
    StudyOptions,
    as_inputs,
    find_teachers,
    parse_study,
    square_processor,
    teacher_label,
    teacher_of,
    train_one,
)
from matplotlib.figure import Figure
from torch import Tensor, nn

from hf_e2kd import explain
from hf_e2kd.alignment.grids import resize_maps
from hf_e2kd.alignment.inputs import image_view
from hf_e2kd.alignment.labels import class_names, data_labels
from hf_e2kd.data import synthesised_shapes
from hf_e2kd.data.shapes import CLASSES, EMPTY
from hf_e2kd.experiments import run_recipe
from hf_e2kd.experiments.distillation import replace_arguments, use_one_thread
from hf_e2kd.experiments.results import collect_results, markdown_table, write_results
from hf_e2kd.fidelity.interpretability.loss_gradient import loss_gradient
from hf_e2kd.metrics import binary_band_scores, energy_pointing_game, five_band_score

METRICS = {
    "accuracy": "accuracy",
    "pixel_accuracy": "pixel accuracy",
    "recall": "recall",
    "precision": "precision",
    "false_positive_rate": "FPR ↓",
    "object_auroc": "object AUROC",
    "object_auprc": "object AUPRC",
    "discriminative_auroc": "feature AUROC",
    "discriminative_auprc": "feature AUPRC",
    "loss_gradient_energy": "loss gradient on the feature",
}
"""Metrics of the table, with their headings."""

RADAR = ("auroc", "auprc", "precision", "recall", "f1", "max_precision", "max_f1")
"""Figures of the radar plots."""


@dataclass
class FiveBandOptions(StudyOptions):
    """Options of the images and the maps."""

    image_size: int = field(default=512, metadata={"help": "Side of the images, in pixels."})
    train_images: int = field(default=6400, metadata={"help": "Number of training images."})
    test_images: int = field(default=1600, metadata={"help": "Number of test images, which are explained."})
    pooled_images: int = field(
        default=400, metadata={"help": "The most test images whose pixels are pooled for the binary scores, in memory."}
    )
    absolute: bool = field(
        default=False, metadata={"help": "Sum magnitudes over the colours, which leaves the negative bands empty."}
    )
    seeds: int = field(default=1, metadata={"help": "Repeat with this many seeds, counted from --seed."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("train_images", 1), ("test_images", len(CLASSES)), ("pooled_images", 1), ("seeds", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} must be at least {least}, not {getattr(self, name)}.")


def run_five_band(description: str) -> dict[str, Any]:
    """Train the students, score their maps, and write `results.json`, `table.md`, `radar.png` and `saliency.png`.

    Args:
        description: Text of `--help`.

    Returns:
        The content of `results.json`.
    """
    # Appendix B.6: Adam (AdamW with a little decay here), 4 epochs, batches of 4, α = .5, T = 4.
    training = {"num_train_epochs": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "weight_decay": 5e-5}
    options, args = parse_study(FiveBandOptions, "five_band", description, temperature=4.0, **training)
    if options.smoke:
        options.image_size, options.train_images, options.test_images = 32, 40, 20
        use_one_thread()
    output, start = Path(args.output_dir), time.monotonic()
    sizes = {"train": options.train_images, "test": options.test_images}
    processor = square_processor(options.image_size)
    runs: list[dict[str, Any]] = []
    for seed in range(args.seed, args.seed + options.seeds):
        data = synthesised_shapes(
            sizes,
            image_size=options.image_size,
            seed=seed,
            num_proc=args.dataloader_num_workers or None,
            cache_dir=output / "data" if options.smoke else None,
        )
        seeded = replace_arguments(args, seed=seed)
        train, test = (as_inputs(split, processor) for split in data.values())
        truth = torch.stack([torch.from_numpy(np.array(image)) for image in data["test"]["truth"]])
        teachers = find_teachers(options, seeded, train, processor)
        run: dict[str, Any] = {"seed": seed}
        maps: dict[str, Tensor] = {}
        for source, teacher in teachers.items():
            # One that was trained elsewhere is shown images by its own processor.
            shown = as_inputs(data["test"], teacher.processor)
            run[teacher_label(source, options)] = {"test": measure(teacher.model, shown, truth, options)[0]}
        for arm in options.arms:
            model = train_one(arm, teacher_of(arm, options, teachers), options, seeded, train, processor)
            figures, maps[arm.label] = measure(model, test, truth, options)
            run[arm.label] = {"test": figures}
        runs.append(run)
        results = collect_results(args, runs, start, recipe="five_band", options=vars(options))
        if args.process_index == 0:
            write_results(results, output)
            if seed == args.seed:
                shown = torch.stack([test[row]["pixel_values"] for row in range(len(CLASSES))])
                draw_saliency(image_view(processor).intensities(shown), truth, maps, output / "saliency.png")
    if args.process_index == 0:
        table = markdown_table(results["summary"], METRICS)
        (output / "table.md").write_text(f"{table}\n", encoding="utf-8")
        draw_radar(results["summary"]["test"], output / "radar.png")
        print(f"\n{table}\n\nIn {output}: radar.png, results.json, saliency.png, table.md")
    return results


def measure(
    model: nn.Module, test: Any, truth: Tensor, options: FiveBandOptions, batch_size: int = 20
) -> tuple[dict[str, float], Tensor]:
    """Score a model's saliency of the true class.

    Args:
        model: Classifier.
        test: Test images as it takes them.
        truth: Their ground truth (N, H, W).
        options: Options of the maps.

    Returns:
        The figures, and the maps (N, H, W). Images without an object count for the accuracy and the five bands alone.
        The soft scores are those of the step that suits the model best.

    Raises:
        ValueError: the model has other classes.
    """
    match, size = data_labels(test, model), (truth.shape[1], truth.shape[2])
    if match is None:
        raise ValueError(
            f"The teacher's classes {class_names(model)} aren't those of the shapes: {', '.join(CLASSES)}."
        )
    device = next(model.parameters()).device
    model.eval()
    maps, right = [], 0
    values: dict[str, list[Tensor]] = {}
    for first in range(0, len(test), batch_size):
        batch, known = test[first : first + batch_size], truth[first : first + batch_size]
        pixels, labels = torch.stack(batch["pixel_values"]).to(device), match(torch.tensor(batch["labels"])).to(device)
        with torch.no_grad():
            explanation = explain(model, pixels, method="saliency", signed=not options.absolute, target=labels)
        maps.append(resize_maps(explanation.maps.cpu(), size))
        right += int((explanation.logits.argmax(1) == labels).sum())
        for name, found in five_band_score(maps[-1], known, soft=True).items():
            values.setdefault(name, []).append(found)
        energy = resize_maps(loss_gradient(model, pixels, labels).energy.cpu(), size)
        shares = energy_pointing_game(energy, known == 2)
        values.setdefault("loss_gradient_energy", []).append(shares[torch.tensor(batch["labels"]) != EMPTY])
    joined = {name: torch.cat(found) for name, found in values.items()}
    soft = {name: found.nanmean(0) for name, found in joined.items() if name != "loss_gradient_energy"}
    pooled = slice(options.pooled_images)
    figures = {
        "accuracy": right / len(test),
        # The first step's cuts are those of the score that isn't soft.
        **{name: steps[0].item() for name, steps in soft.items()},
        **{f"soft_{name}": soft[name].max().item() for name in ("recall", "precision")},
        **binary_band_scores(torch.cat(maps)[pooled], truth[pooled]),
        "loss_gradient_energy": joined["loss_gradient_energy"].mean().item(),
    }
    return {name: value for name, value in figures.items() if not math.isnan(value)}, torch.cat(maps)


def draw_saliency(images: Tensor, truth: Tensor, maps: Mapping[str, Tensor], path: Path) -> Figure:
    """Draw the first image of each class: the image, its ground truth, and each student's map over its maximum."""
    figure = Figure(figsize=(1.1 * len(images), 1.1 * (2 + len(maps))))
    figure.subplots_adjust(left=0.03, right=0.99, bottom=0.02, top=0.95, wspace=0.05, hspace=0.05)
    axes = figure.subplots(2 + len(maps), len(images), squeeze=False)
    rows = {"image": images.clamp(0, 1).permute(0, 2, 3, 1), "truth": truth[: len(images)], **maps}
    for (name, tiles), line in zip(rows.items(), axes, strict=True):
        for number, (tile, axis) in enumerate(zip(tiles, line, strict=False)):
            peak = float(tile.abs().max()) or 1.0
            scale = {"image": {}, "truth": {"cmap": "Reds", "vmin": 0, "vmax": 2}}.get(
                name, {"cmap": "RdBu_r", "vmin": -peak, "vmax": peak}
            )
            axis.imshow(tile.numpy(), **scale)
            axis.set(xticks=[], yticks=[])
            if name == "image":
                axis.set_title(CLASSES[number], fontsize=7)
        line[0].set_ylabel(name, fontsize=8)
    figure.savefig(path, dpi=150)
    return figure


def draw_radar(summary: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path) -> Figure:
    """Draw both binary variants as radar plots, a line a student; * marks the largest over the thresholds."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    angles = 2 * np.pi * np.arange(len(RADAR)) / len(RADAR)
    names = [name.replace("max_", "*").replace("_", " ") for name in RADAR]
    titles = {"object": "0 against 1, 2: the object", "discriminative": "0, 1 against 2: what tells the class"}
    for axis, (variant, title) in zip(
        figure.subplots(1, 2, subplot_kw={"projection": "polar"}), titles.items(), strict=True
    ):
        for student in (name for name in summary if not name.startswith("teacher")):
            values = [summary[student][f"{variant}_{name}"]["mean"] for name in RADAR]
            axis.plot([*angles, angles[0]], [*values, values[0]], marker="o", markersize=3, label=student)
        axis.set_xticks(angles, names, fontsize=8)
        axis.set_ylim(0, 1)
        axis.set_title(title, fontsize=9)
    figure.axes[0].legend(fontsize=8, loc="lower left", bbox_to_anchor=(-0.25, -0.1))
    figure.savefig(path, dpi=150)
    return figure


if __name__ == "__main__":
    run_recipe(run_five_band, __doc__)
