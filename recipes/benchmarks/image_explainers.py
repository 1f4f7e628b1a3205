# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Explainers of images beside each other, by energy in the object's box, deletion, insertion and cost.

    python recipes/import_efficientnet_lite0.py outputs/efficientnet-lite0
    python recipes/benchmarks/image_explainers.py --teacher outputs/efficientnet-lite0 --dataset tiny-imagenet \
        --images-per-class 50 --output outputs/image_explainers
    python recipes/benchmarks/image_explainers.py --smoke --output outputs/smoke

The data are Tiny ImageNet's, as the Parquet files of `hf_e2kd.data.load_tiny_imagenet_parquet`. The network with
convolutions is ImageNet's EfficientNet-Lite0 with the rows of its classifier for the 200 classes; it isn't trained. The
ViT is trained by plain distillation from it, on flipped and unflipped images and the teacher's stored logits.

What was computed stays in the output folder (the teacher's store, the ViT's last checkpoint, each explainer's figures),
and a second call goes on from there. `--smoke` takes made-up images and random networks, and needs no files.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import timm
import torch
from datasets import Dataset
from torch import nn
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from tqdm import tqdm

from hf_e2kd import ExplanationDistillArguments, ExplanationDistillTrainer, StoredReference, wrap_timm
from hf_e2kd.architectures import call_model
from hf_e2kd.data import load_tiny_imagenet_parquet
from hf_e2kd.data.first_samples import first_of_each
from hf_e2kd.data.images import label_names
from hf_e2kd.data.opening import as_rgb
from hf_e2kd.experiments import command_line, keep_classes, load_teacher, run_recipe
from hf_e2kd.explainers.registry import build_explainer
from hf_e2kd.fidelity.interpretability.faithfulness import Faithfulness
from hf_e2kd.metrics.energy_pointing_game.function import boxes_to_masks, energy_pointing_game
from hf_e2kd.trainer.preemption import last_checkpoint

BATCH = 64


@dataclass
class Network:
    """A model, the side of its images in pixels, and its explainers by the names of the table's rows."""

    name: str
    model: nn.Module
    size: int
    explainers: dict[str, tuple[str, dict[str, Any]]]

    def inputs(self, images: Sequence[PIL.Image.Image]) -> torch.Tensor:
        """Make the pixels (N, 3, size, size) that the model takes."""
        values = torch.stack([pil_to_tensor(as_rgb(image)) for image in images]).float() / 127.5 - 1
        if values.shape[-1] == self.size:
            return values
        return F.interpolate(values, (self.size, self.size), mode="bicubic", antialias=True)

    def transform(self, rows: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.inputs(rows["image"])}

    def augment(self, rows: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Make the pixels of images that are flipped or not."""
        values = self.inputs(rows["image"])
        return {"pixel_values": torch.where(torch.rand(len(values), 1, 1, 1) < 0.5, values.flip(-1), values)}


def cams(layer: str | None = None) -> dict[str, tuple[str, dict[str, Any]]]:
    options = {} if layer is None else {"target_layer": layer}
    where = "" if layer is None else f", {layer}"
    return {f"{name}{where}": (name, options) for name in ("gradcam", "hires_cam", "layer_cam")}


# Without a map of its own, each pixel's score is drawn at random on the grid of GradCAM's map.
RANDOM: dict[str, tuple[str, dict[str, Any]]] = {"random scores": ("random", {})}
OF_A_VIT: dict[str, tuple[str, dict[str, Any]]] = {
    **cams(),
    "attention_rollout": ("attention_rollout", {}),
    "attention_gradient": ("attention_gradient", {}),
    "lrp": ("lrp", {}),
    "lrp, last layer": ("lrp", {"layer": "last"}),
    "input_x_gradient": ("input_x_gradient", {}),
    **RANDOM,
}


def made_up_images(count: int, classes: int, seed: int) -> Dataset:
    """Make images with a brighter square, whose colour tells the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(count) % classes).tolist()
    pixels = torch.randint(0, 90, (count, 3, 64, 64), generator=generator, dtype=torch.uint8)
    corners = torch.randint(0, 32, (count, 2), generator=generator).tolist()
    for image, label, (x, y) in zip(pixels, labels, corners, strict=True):
        image[label % 3, y : y + 32, x : x + 32] += 150
    boxes = [[[x, y, x + 32, y + 32]] for x, y in corners]
    return Dataset.from_dict({"image": [to_pil_image(image) for image in pixels], "label": labels, "boxes": boxes})


def masks_of(rows: dict[str, Any]) -> torch.Tensor:
    """Make the masks (N, H, W) of the boxes."""
    width, height = rows["image"][0].size
    return boxes_to_masks(torch.tensor(rows["boxes"]), (height, width))


def logits_of(network: Network, images: Dataset, file: Path) -> torch.Tensor:
    """Compute a network's logits (N, classes), or read them where they were written."""
    if not file.exists():
        batches = tqdm(images.iter(BATCH), desc=f"{network.name}, logits", total=-(-len(images) // BATCH), leave=False)
        with torch.no_grad():
            parts = [call_model(network.model, network.transform(rows)) for rows in batches]
        torch.save(torch.cat(parts), file.with_suffix(".part"))
        file.with_suffix(".part").rename(file)
    return torch.load(file, weights_only=True)


def distil(network: Network, teacher: Network, images: Dataset, options: argparse.Namespace) -> None:
    """Train by the KL divergence to the teacher's stored logits, from the last checkpoint on."""
    reference = StoredReference.build(
        teacher.model, images, options.output / "store", transform=teacher.transform, batch_size=BATCH
    )
    args = ExplanationDistillArguments(
        str(options.output / "vit"),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-3,
        weight_decay=0.05,
        lr_scheduler_type="cosine",
        warmup_steps=0.2,
        temperature=2.0,
        explanation_weight=0.0,
        evaluate_explanations=False,
        remove_unused_columns=False,  # the transform makes the pixels from the images
        logging_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        report_to="none",
        seed=options.seed,
        use_cpu=True,
    )
    trainer = ExplanationDistillTrainer(
        network.model,
        args,
        train_dataset=reference.attach(images.with_transform(network.augment)),
        references={"teacher": reference},
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(args.output_dir))
    network.model.eval()


def measure(network: Network, row: str, images: Dataset, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one explainer of the images' labels, with the cost of an explanation beside the plain logits."""
    method, explainer_options = network.explainers[row]
    explainer = build_explainer("gradcam" if method == "random" else method, **explainer_options)
    generator = torch.Generator().manual_seed(options.seed)
    faithfulness = Faithfulness(steps=options.steps)
    values: dict[str, list[torch.Tensor]] = {"energy": [], "deletion": [], "insertion": []}
    ratios, seconds = [], []
    for rows in images.iter(BATCH):
        inputs, labels = network.transform(rows), torch.tensor(rows["label"])
        start = time.process_time()
        with torch.no_grad():
            call_model(network.model, inputs)
        between = time.process_time()
        maps = explainer(network.model, inputs, labels).maps
        seconds.append((time.process_time() - between) / len(labels))
        ratios.append(seconds[-1] * len(labels) / (between - start))
        if method == "random":
            maps = torch.rand(maps.shape, generator=generator)
        values["energy"].append(energy_pointing_game(maps, masks_of(rows)))
        for name, found in faithfulness(network.model, inputs, maps, labels).items():
            values[name].append(found)
    joined = {name: torch.cat(each).double() for name, each in values.items()}
    return {
        "ms": 1000 * float(np.median(seconds)),
        "ratio": None if method == "random" else float(np.median(ratios)),
        **{name: [value.mean().item(), value.std().item() / len(value) ** 0.5] for name, value in joined.items()},
    }


def networks(options: argparse.Namespace) -> tuple[Network, Network, Dataset, Dataset]:
    """Make the teacher, the ViT to train, and the images for training and test."""
    torch.manual_seed(options.seed)
    if options.smoke:
        train, test = made_up_images(96, 3, seed=0), made_up_images(64, 3, seed=1)
        classifier = timm.create_model("mobilenetv3_small_050", num_classes=3).eval()
        teacher = Network("MobileNetV3", classifier, 64, {**cams(), **RANDOM})
        width = {"embed_dim": 16, "depth": 2, "num_heads": 2}
    else:
        splits = load_tiny_imagenet_parquet(options.dataset)
        train, test = first_of_each(splits["train"], options.images_per_class), splits["validation"]
        wrapped, _ = load_teacher(options.teacher)
        keep_classes(wrapped, label_names(test))
        classifier = wrapped.timm_model.eval()
        teacher = Network("EfficientNet-Lite0", classifier, 160, {**cams(), **cams("blocks.4"), **RANDOM})
        width = {"embed_dim": 192, "depth": 4, "num_heads": 3}
    count = classifier.num_classes
    arguments = {"img_size": 64, "patch_size": 8, **width}
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=count, **arguments)
    return teacher, Network("ViT", wrap_timm(vit, model_args=arguments), 64, OF_A_VIT), train, test


def markdown(results: dict[str, Any]) -> str:
    """Write the tables of results."""
    parts = [f"# Explainers of images\n\n{results['about']}\n"]
    for name, found in results["networks"].items():
        parts.append(
            f"\n## {name}\n\n{found['about']} Measured on {found['samples']} test images that it classifies rightly; "
            f"the box covers {found['box']:.3f} of them on average.\n\n"
            "| explainer | energy in the box | deletion (low is faithful) | insertion (high) | ms an image | "
            "time to logits |\n|---|---|---|---|---|---|\n"
        )
        for row, figures in found["rows"].items():
            cells = [f"{mean:.3f} ± {error:.3f}" for mean, error in (figures[key] for key in ORDER)]
            cost = ["–", "–"] if figures["ratio"] is None else [f"{figures['ms']:.1f}", f"{figures['ratio']:.2f}"]
            parts.append(f"| {row} | {' | '.join([*cells, *cost])} |\n")
    return "".join(parts)


ORDER = ("energy", "deletion", "insertion")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", help="folder of the ImageNet classifier of timm")
    parser.add_argument("--dataset", help="folder of Tiny ImageNet's Parquet files")
    parser.add_argument("--images-per-class", type=int, help="train the ViT on the first so many of each class")
    parser.add_argument("--output", type=Path, default=Path("outputs/image_explainers"))
    parser.add_argument("--epochs", type=int, default=15, help="epochs of the ViT")
    parser.add_argument("--samples", type=int, default=150, help="images to explain")
    parser.add_argument("--steps", type=int, default=8, help="equal parts of an image's pixels to take out or put back")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="made-up images and random networks")
    parser.add_argument("--write", type=Path, help="write the tables there; by default into the output folder")
    options = parser.parse_args(command_line())
    lacking = [name for name in ("teacher", "dataset") if getattr(options, name) is None]
    if lacking and not options.smoke:
        parser.error(f"Give {', '.join(f'--{name}' for name in lacking)}, or --smoke for made-up images.")
    return options


def main() -> dict[str, Any]:
    options = parse()
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    teacher, vit, train, test = networks(options)
    file = options.output / "results.json"
    settings = {
        name: getattr(options, name) for name in ("seed", "epochs", "images_per_class", "samples", "steps", "smoke")
    }
    results: dict[str, Any] = {"recipe": "image_explainers", "settings": settings, "networks": {}}
    if file.exists():
        results = json.loads(file.read_text())
        if results["settings"] != settings:
            raise ValueError(
                f"{file} holds figures of {results['settings']}, not {settings}: give the same or another --output."
            )
    results["about"] = (
        "Made by `recipes/benchmarks/image_explainers.py`, whose docstring has the command: "
        f"seed {options.seed}, {options.steps} steps of deletion and insertion, CPU, {options.threads} thread, torch "
        f"{torch.__version__.split('+')[0]}. The label is explained. Behind ±: the standard error over the images. "
        "*Time to logits*: CPU time of an explanation beside the plain logits of the same batch. *Random scores*: "
        "drawn on the grid of GradCAM's map. What training with an explainer does isn't measured here."
    )
    for network in (teacher, vit):
        if network is vit:
            distil(vit, teacher, train, options)
        logits = logits_of(network, test, options.output / f"{network.name}.pt")
        right = (logits.argmax(1) == torch.tensor(test["label"])).nonzero().flatten()
        order = torch.randperm(len(right), generator=torch.Generator().manual_seed(options.seed))
        images = test.select(right[order[: options.samples]].tolist())
        found = results["networks"].setdefault(network.name, {"rows": {}})
        found["samples"], found["box"] = len(images), masks_of(images[:]).float().mean().item()
        share = f"It classifies {len(right) / len(logits):.3f} of {len(logits)} test images rightly."
        trained = (
            f"Trained for {options.epochs} epochs from scratch, by distillation from the network above, on "
            f"{len(train)} images of 64×64 pixels: no well-trained ViT, so that its figures tell how the "
            "explainers compare on a weak one. "
        )
        seen = (
            "Random weights. "
            if options.smoke
            else "ImageNet's weights, not trained further; images are enlarged bicubically to 160×160 pixels. "
        )
        found["about"] = (trained if network is vit else seen) + share
        for row in network.explainers:
            if row not in found["rows"]:
                found["rows"][row] = measure(network, row, images, options)
                file.write_text(json.dumps(results, indent=1))
    file.write_text(json.dumps(results, indent=1))
    (options.write or options.output / "EXPLAINERS_IMAGES.md").write_text(markdown(results), encoding="utf-8")
    return results


if __name__ == "__main__":
    run_recipe(main)
