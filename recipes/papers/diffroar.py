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

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

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
from hf_e2kd.experiments.results import RECORDED, describe_machine, write_results
from hf_e2kd.fidelity.interpretability.loss_gradient import loss_gradient
from hf_e2kd.fidelity.interpretability.loss_gradient_figure import loss_gradient_panel
from hf_e2kd.fidelity.training import recorded_arguments

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
    repeats: int = field(default=10, metadata={"help": "Number of seeds of the retrained networks."})
    per_element: bool = field(
        default=False, metadata={"help": "Rank and mask each colour of a pixel by itself, as the official code does."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folder is None and not self.smoke:
            raise ValueError("Give --folder, or --smoke to try the recipe out without any data.")
        if not all(0 < each < 1 for each in self.fractions) or len(set(self.fractions)) < len(self.fractions):
            raise ValueError(f"--fractions lie between 0 and 1, each once, not {self.fractions}.")
        for name in ("repeats", "image_size", "train_images", "test_images"):
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
        not_of_training=("fractions", "repeats", "per_element"),
    )
    figures = trained.run(options.arms, [args.seed])
    names = {arm.label: trained.name(arm, args.seed) for arm in options.arms}
    models: dict[str, dict[str, Any]] = {}
    for arm in options.arms:
        announce(args, f"Retraining without what {arm.label} ranks first, and last")
        found = diffroar(
            trained.load(names[arm.label]),
            partial(new_network, arm.setting("student", options), train, options.smoke),
            images["train"],
            images["test"],
            processor,
            args,
            output / f"retrained-{arm.file_name}",
            fractions=options.fractions,
            seeds=range(options.repeats),
            per_element=options.per_element,
        )
        models[arm.label] = {**figures[names[arm.label]], **found}
    results = {
        "recipe": "diffroar",
        "options": vars(options),
        "arguments": recorded_arguments(args, RECORDED),
        **describe_machine(args.device),
        "seconds": round(time.monotonic() - start),
        "models": models,
    }
    write_results(results, output)
    table = as_table(models)
    (output / "table.md").write_text(f"{table}\n", encoding="utf-8")
    draw_curves(models, output / "diffroar.png")
    loaded = {label: trained.load(name) for label, name in names.items()}
    draw_gradients(loaded, images["test"], processor, output / "loss_gradients.png")
    print(f"\n{table}\n\nIn {output}: diffroar.png, loss_gradients.png, results.json, table.md")
    return results


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


def as_table(models: Mapping[str, Mapping[str, Any]]) -> str:
    """Write one row a student, in percent; DiffROAR in percentage points."""
    fractions = list(next(iter(models.values()))["fractions"])
    heads = " | ".join(f"{fraction} masked" for fraction in fractions)
    lines = [f"| model | accuracy | DiffROAR | {heads} |", f"|---|---|---|{'---|' * len(fractions)}"]
    for name, found in models.items():
        spread = f" ± {100 * found['std']:.2f}" if found["std"] else ""
        cells = " | ".join(f"{100 * found['fractions'][fraction]['diffroar']:.2f}" for fraction in fractions)
        lines.append(f"| {name} | {100 * found['accuracy']:.2f} | {100 * found['diffroar']:.2f}{spread} | {cells} |")
    return "\n".join(lines)


def draw_curves(models: Mapping[str, Mapping[str, Any]], path: Path) -> Figure:
    """Draw the accuracies after retraining over the masked fraction, and their differences."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    accuracies, differences = figure.subplots(1, 2)
    for number, (name, found) in enumerate(models.items()):
        fractions = [float(fraction) for fraction in found["fractions"]]
        rows = list(found["fractions"].values())
        style: dict[str, Any] = {"color": f"C{number}", "marker": "o", "markersize": 3}
        for part, line in (("bottom", "-"), ("top", ":")):
            label = f"{name}: {'smallest' if part == 'bottom' else 'largest'} masked"
            accuracies.plot(fractions, [row[part] for row in rows], linestyle=line, label=label, **style)
        differences.plot(fractions, [100 * row["diffroar"] for row in rows], label=name, **style)
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
