# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Measure DiffROAR: is what a model's gradient ranks first what a new network learns from, with and without KD?

The pixels of the largest, or of the smallest, gradient are masked in all images, and new networks trained on what is
left. Self-distillation, as in the paper: teacher and students are one kind of network. Started several times with the
same options, processes share the runs; an interrupted command goes on.

    python recipes/papers/diffroar.py --data fashion_mnist --folder FASHION_MNIST --temperature 4 --num_train_epochs 10
    python recipes/papers/diffroar.py --data cifar10 --folder cifar-10-batches-bin --fractions 0.1 0.5 0.9 --repeats 3
    python recipes/papers/diffroar.py --smoke
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from _evidence import paired_table
from _interpretability import StudyOptions, as_inputs, new_network, parse_study, square_processor
from _trained_arms import TrainedArms
from datasets import Dataset
from matplotlib.figure import Figure
from torch import nn

from hf_e2kd.alignment.inputs import image_view
from hf_e2kd.data import digits_on_textures, load_cifar10, load_cifar100, load_fashion_mnist, load_mnist
from hf_e2kd.experiments import run_recipe
from hf_e2kd.experiments.diffroar import FRACTIONS, LabelledImages, accuracy, diffroar
from hf_e2kd.experiments.distillation import announce, use_one_thread
from hf_e2kd.experiments.results import collect_results, write_results
from hf_e2kd.fidelity.interpretability.loss_gradient import loss_gradient
from hf_e2kd.fidelity.interpretability.loss_gradient_figure import loss_gradient_panel

LOADERS = {
    "mnist": load_mnist,
    "fashion_mnist": load_fashion_mnist,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
}


@dataclass
class DiffRoarOptions(StudyOptions):
    """Options of the data and the masks."""

    teacher: str = field(default="timm/resnet18", metadata={"help": "Network of the teacher: timm/NAME or .json."})
    student: str = field(
        default="timm/resnet18", metadata={"help": "Network of the students and of those that are retrained."}
    )
    alpha: float = field(default=0.1, metadata={"help": "α of KD and e2KD: (1 − α)·labels + α·T²·logits (Eq. 1)."})
    data: str = field(default="cifar10", metadata={"help": "Kind of the data.", "choices": list(LOADERS)})
    folder: str | None = field(default=None, metadata={"help": "Folder of the data: idx files, or the binary version."})
    image_size: int = field(default=32, metadata={"help": "Side at which the networks are shown the images."})
    train_images: int | None = field(default=None, metadata={"help": "Train on so many images, drawn by the seed."})
    test_images: int | None = field(default=None, metadata={"help": "Test on so many images, drawn by the seed."})
    fractions: list[float] = field(
        default_factory=lambda: list(FRACTIONS), metadata={"help": "Shares of the pixels that are masked."}
    )
    repeats: int = field(default=10, metadata={"help": "Number of networks that are retrained for each."})
    seeds: int = field(
        default=1, metadata={"help": "Number of seeds of teachers and students, from --seed, on the same images."}
    )
    per_element: bool = field(
        default=False, metadata={"help": "Rank and mask each colour of a pixel by itself, as the official code does."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folder is None and not self.smoke:
            raise ValueError("Give --folder, or --smoke to try the recipe out without any data.")
        if not all(0 < each < 1 for each in self.fractions) or len(set(self.fractions)) < len(self.fractions):
            raise ValueError(f"--fractions lie between 0 and 1, each once, not {self.fractions}.")
        for name in ("repeats", "seeds", "image_size", "train_images", "test_images"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, not {getattr(self, name)}.")


def run_diffroar(description: str) -> dict[str, Any]:
    """Train the students, measure them, and write `results.json`, `table.md`, `diffroar.png`, `loss_gradients.png`.

    Args:
        description: Text of `--help`.

    Returns:
        The content of `results.json`.
    """
    # Appendix B.7: T = 1 and 60 epochs on CIFAR, T = 4 and 10 epochs on MNIST.
    training = {"num_train_epochs": 60, "learning_rate": 1e-3, "weight_decay": 1e-4}
    options, args = parse_study(DiffRoarOptions, "diffroar", description, **training)
    if options.smoke:
        use_one_thread()
        options.fractions, options.repeats = [0.5], 1
    output, start = Path(args.output_dir), time.monotonic()
    processor = square_processor(options.image_size)
    splits = load_data(options, args.seed)
    train = as_inputs(splits["train"], processor)
    images = {name: LabelledImages.of(as_inputs(split, processor)) for name, split in splits.items()}

    trained = TrainedArms(
        options,
        args,
        splits["train"],
        processor,
        output / "models",
        lambda model: {"accuracy": accuracy(model, images["test"])},
        not_of_training=("fractions", "repeats", "per_element", "seeds"),
    )
    seeds = range(args.seed, args.seed + options.seeds)
    figures = trained.run(options.arms, seeds)
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        run: dict[str, Any] = {"seed": seed}
        for arm in options.arms:
            announce(args, f"Retraining without what {arm.label} of seed {seed} ranks first, and last")
            name = trained.name(arm, seed)
            found = diffroar(
                trained.load(name),
                partial(new_network, arm.setting("student", options), train, options.smoke),
                images["train"],
                images["test"],
                processor,
                args,
                output / f"retrained-{arm.file_name}-{seed}",
                fractions=options.fractions,
                seeds=range(options.repeats),
                per_element=options.per_element,
            )
            run[arm.label] = {"test": {**figures[name], **figures_by_fraction(found)}}
        runs.append(run)
        results = collect_results(args, runs, start, recipe="diffroar", options=vars(options))
        write_results(results, output)
    table = diffroar_table(results, "test")
    (output / "table.md").write_text(f"{table}\n", encoding="utf-8")
    draw_curves(results, output / "diffroar.png")
    loaded = {arm.label: trained.load(trained.name(arm, args.seed)) for arm in options.arms}
    draw_gradients(loaded, images["test"], processor, output / "loss_gradients.png")
    print(f"\n{table}\n\nIn {output}: diffroar.png, loss_gradients.png, results.json, table.md")
    return results


def figures_by_fraction(found: Mapping[str, Any]) -> dict[str, float]:
    """Name what `diffroar` measured of a student: its mean, and the parts by fraction."""
    parts = {
        f"{part}_{fraction}": value
        for fraction, figures in found["fractions"].items()
        for part, value in figures.items()
    }
    return {"diffroar": found["diffroar"], **parts}


def load_data(options: DiffRoarOptions, seed: int) -> dict[str, Dataset]:
    """Load the splits, or as many images of them as are asked for."""
    if options.smoke:
        digits = digits_on_textures(
            {"teacher_train": 48, "student_train": 0, "validation": 0, "test_ood": 0, "test_id": 20}
        )
        return {"train": digits["teacher_train"], "test": digits["test_id"]}
    splits = LOADERS[options.data](options.folder)
    numbers = {"train": options.train_images, "test": options.test_images}
    return {
        name: split if numbers[name] is None else split.shuffle(seed=seed).select(range(min(numbers[name], len(split))))
        for name, split in splits.items()
    }


def diffroar_table(results: Mapping[str, Any], split: str) -> str:
    """Write the students' accuracy and DiffROAR in percent, with DiffROAR's paired difference from the first one's."""
    rows = [
        {"model": model, "seed": run["seed"], **{f"{name}_percent": 100 * value for name, value in own[split].items()}}
        for run in results["runs"]
        for model, own in run.items()
        if model != "seed"
    ]
    parts = {f"diffroar_{fraction:g}_percent": f"{fraction:g} masked" for fraction in results["options"]["fractions"]}
    columns = {"accuracy_percent": "accuracy", "diffroar_percent": "DiffROAR", **parts}
    return paired_table(rows, columns, rows[0]["model"], "diffroar_percent", {}, kind="model")


def draw_curves(results: Mapping[str, Any], path: Path) -> Figure:
    """Draw the accuracies after retraining over the masked fraction, and their differences, as means over the seeds.

    Differences of several seeds have bars of a standard deviation.
    """
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    accuracies, differences = figure.subplots(1, 2)
    fractions: Sequence[float] = sorted(results["options"]["fractions"])
    for number, model in enumerate(name for name in results["runs"][0] if name != "seed"):
        own = [run[model]["test"] for run in results["runs"]]
        style: dict[str, Any] = {"color": f"C{number}", "marker": "o", "markersize": 3}
        for part, line in (("bottom", "-"), ("top", ":")):
            label = f"{model}: {'smallest' if part == 'bottom' else 'largest'} masked"
            means = [statistics.fmean(each[f"{part}_{fraction:g}"] for each in own) for fraction in fractions]
            accuracies.plot(fractions, means, linestyle=line, label=label, **style)
        points = [[100 * each[f"diffroar_{fraction:g}"] for each in own] for fraction in fractions]
        spreads = [statistics.stdev(each) for each in points] if len(own) > 1 else None
        means = [statistics.fmean(each) for each in points]
        differences.errorbar(fractions, means, spreads, label=model, capsize=3, **style)
    accuracies.set(xlabel="fraction of the pixels that is masked", ylabel="accuracy after retraining")
    differences.set(xlabel="fraction of the pixels that is masked", ylabel="DiffROAR (percentage points)")
    differences.axhline(0, color="grey", linewidth=0.8)
    for axis in (accuracies, differences):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=150)
    return figure


def draw_gradients(
    models: Mapping[str, nn.Module], test: LabelledImages, processor: Any, path: Path, count: int = 6
) -> Figure:
    """Draw the models' loss gradients on the first test images; of grey images, summed over the equal colours."""
    pixels, labels = test.pixel_values[:count], test.labels[:count]
    is_grey = bool((pixels == pixels[:, :1]).all())
    gradients = {}
    for label, model in models.items():
        device = next(model.parameters()).device
        found = loss_gradient(model, pixels.to(device), labels.to(device)).gradients.cpu()
        gradients[label] = found.sum(1, keepdim=True) if is_grey else found
    shown = image_view(processor).intensities(pixels).clamp(0, 1)
    return loss_gradient_panel(shown[:, :1] if is_grey else shown, gradients, path=path)


if __name__ == "__main__":
    run_recipe(run_diffroar, __doc__)
