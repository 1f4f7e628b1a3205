# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Measure what students' outputs say of similar classes: entropy over all classes, and within the true one's category.

On Tiny ImageNet, whose classes are grouped in `hf_e2kd/data/tiny_imagenet_groups.csv` (our grouping, by hand), or on
any images with a table of the classes' categories. By default the paper's pair of networks and its α = .5, T = 1. Each
model is trained once and kept: an interrupted command goes on. Or any models are measured that were trained before.

    python recipes/papers/entropy.py --dataset tiny-imagenet-200 --image_size 64
    python recipes/papers/entropy.py --dataset tiny-imagenet-200 --image_size 64 --seeds 3 \\
        --models "scratch=outputs/interpretability_table/models/scratch-{seed}" \\
        "KD=outputs/interpretability_table/models/KD-{seed}"
    python recipes/papers/entropy.py --dataset imagenet --categories categories.csv --pair n02105505 n02105641
    python recipes/papers/entropy.py --smoke
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _common import smoke_folder
from _evidence import runs_table
from _generated import WNIDS, write_imagenet
from _image_study import ImageStudyOptions, load_splits
from _interpretability import STUDENTS, as_inputs, outputs, parse_study, square_processor
from _trained_arms import TrainedArms
from datasets import Dataset
from matplotlib.figure import Figure
from torch import Tensor

from hf_e2kd.alignment.labels import class_names, name_key
from hf_e2kd.data import TINY_IMAGENET_GROUPS, read_categories
from hf_e2kd.data.imagenet import class_wnids
from hf_e2kd.data.images import label_names
from hf_e2kd.experiments import run_recipe
from hf_e2kd.experiments.distillation import use_one_thread
from hf_e2kd.experiments.models import load_teacher
from hf_e2kd.experiments.results import collect_results, markdown_table, write_results
from hf_e2kd.metrics import class_similarity_entropy

METRICS = {
    "accuracy": "accuracy",
    "entire_entropy": "entropy over all classes (bits)",
    "category_entropy": "within the category (bits)",
    "pair_entropy": "within the pair (bits)",
}
"""Metrics of the table, with their headings."""


OF_MEASUREMENT = ("dataset", "split", "seeds", "models", "categories", "pair", "samples")
"""Options that are read where no student is trained."""


@dataclass
class EntropyOptions(ImageStudyOptions):
    """Options of the categories."""

    students: list[str] = field(
        default_factory=lambda: ["scratch", "KD", "LS"],
        metadata={"help": STUDENTS},
    )
    smoothing: float = field(default=0.5, metadata={"help": "Share of each label that LS spreads over all classes."})
    models: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Measure these in the place of --students: NAME=FOLDER or a Hub id; {seed} is the run's seed."
        },
    )
    categories: str = field(
        default=str(TINY_IMAGENET_GROUPS),
        metadata={"help": "CSV with the columns class (a name, or a WordNet id) and category (other: none)."},
    )
    pair: list[str] = field(
        default_factory=list, metadata={"help": "Two or more similar classes, as the table calls them (Table 12)."}
    )
    samples: int = field(default=1000, metadata={"help": "The most samples, of those that all students get right."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1:
            raise ValueError(f"--samples must be at least 1, not {self.samples}.")
        if len(self.pair) == 1:
            raise ValueError("--pair takes two or more classes.")
        if unnamed := [each for each in self.models if not all(each.partition("="))]:
            raise ValueError(f"--models are NAME=FOLDER or NAME=HUB_ID, not {', '.join(unnamed)}.")
        if len({each.partition("=")[0] for each in self.models}) < len(self.models):
            raise ValueError("--models names a model twice.")

    @property
    def read(self) -> dict[str, Any]:
        """The options that count, with the names of the package's own categories alone."""
        own = str(TINY_IMAGENET_GROUPS)
        stated = {**vars(self), "categories": Path(own).name if self.categories == own else self.categories}
        return {name: value for name, value in stated.items() if not self.models or name in OF_MEASUREMENT}


def run_entropy(description: str) -> dict[str, Any]:
    """Train the students, measure their entropies, and write `results.json`, `table.md` and `entropy.png`.

    Args:
        description: Text of `--help`.

    Returns:
        The content of `results.json`.
    """
    # Appendix B.2 and B.3, where the rate falls to a tenth after 30, 60 and 90 epochs; here it falls by a cosine.
    sgd = {"optim": "sgd", "optim_args": "momentum=0.9", "learning_rate": 0.1, "weight_decay": 1e-4}
    options, args = parse_study(EntropyOptions, "entropy", description, num_train_epochs=100, **sgd)
    output, start = Path(args.output_dir), time.monotonic()
    if options.smoke:
        use_one_thread()
        options.dataset, options.image_size = str(write_imagenet(smoke_folder(args) / "imagenet")), 32
        options.categories, options.pair = str(smoke_categories(output)), list(WNIDS[:2])
    train, test = load_splits(options)
    names = label_names(train)
    assert names is not None
    keys = class_wnids(names)
    categories = read_categories(options.categories, keys).of_class
    if missing := [name for name in options.pair if name not in keys]:
        raise ValueError(f"--pair names {missing}, which are no classes of the data, such as {', '.join(keys[:3])}.")
    pair = [keys.index(name) for name in options.pair]
    processor = square_processor(options.image_size)
    trained = TrainedArms(
        options,
        args,
        train,
        processor,
        output / "models",
        lambda model: {},
        not_of_training=("models", "categories", "pair", "samples", "split"),
    )
    runs: list[dict[str, Any]] = []
    for seed in range(args.seed, args.seed + options.seeds):
        logits: dict[str, Tensor] = {}
        for each in options.models:
            label, _, source = each.partition("=")
            logits[label], labels = outputs_of(source.replace("{seed}", str(seed)), names, test, args)
        if not options.models:
            trained.run(options.arms, [seed])
            shown = as_inputs(test, processor)
            for arm in options.arms:
                student = trained.load(trained.name(arm, seed))
                logits[arm.label], labels = outputs(student, shown, args.per_device_eval_batch_size)
        found = measure(logits, labels, categories, pair, options.samples)
        runs.append({"seed": seed, **{student: {options.split: figures} for student, figures in found.items()}})
        results = collect_results(args, runs, start, recipe="entropy", options=options.read)
        if options.models:  # which were trained by others
            del results["arguments"]
        write_results(results, output)
    table = markdown_table(results["summary"], METRICS)
    (output / "table.md").write_text(f"{table}\n", encoding="utf-8")
    draw_entropies(results["summary"][options.split], output / "entropy.png")
    print(f"\n{table}\n\nIn {output}: entropy.png, results.json, table.md")
    return results


def outputs_of(source: str, names: Sequence[str], test: Dataset, args: Any) -> tuple[Tensor, Tensor]:
    """Compute the logits (N, classes) of a model that was trained before, and the labels (N,).

    Args:
        source: Hub id or folder of the model, which is shown images by its own processor.
        names: Names of the data's classes; the logits come in their order.
        test: Data to measure on.
        args: Training arguments, for the device and the batch size.

    Raises:
        ValueError: the model has other classes.
    """
    model, processor = load_teacher(source)
    known, wanted = [name_key(name) for name in class_names(model) or ()], [name_key(name) for name in names]
    if sorted(known) != sorted(wanted):
        raise ValueError(
            f"'{source}' has {len(known)} classes, {known[:3]} …, and the data {len(wanted)}, {wanted[:3]} …."
        )
    shown = as_inputs(test, processor)
    logits, labels = outputs(model.to(args.device), shown, args.per_device_eval_batch_size)
    return logits[:, [known.index(name) for name in wanted]], labels


def measure(
    logits: Mapping[str, Tensor], labels: Tensor, categories: Tensor, pair: Sequence[int], samples: int
) -> dict[str, dict[str, float]]:
    """Measure the entropies of all students on the samples that all of them get right.

    Args:
        logits: Logits (N, classes) by student.
        labels: Labels (N,).
        categories: Category of each class.
        pair: Similar classes; none for no such figure.
        samples: The most samples of which the means are taken, the first ones.

    Returns:
        The figures by student; those that are undefined are left out.
    """
    right = torch.stack([own.argmax(1) == labels for own in logits.values()]).all(0)
    # Of classes without a category nothing is measured.
    kept = (right & (categories[labels] >= 0)).nonzero().flatten()[:samples]
    found: dict[str, dict[str, float]] = {}
    for student, own in logits.items():
        entropies = class_similarity_entropy(own[kept], labels[kept], categories)
        figures = {"entire_entropy": entropies["entire"], "category_entropy": entropies["category"]}
        if pair:
            figures["pair_entropy"] = class_similarity_entropy(own[right], labels[right], classes=pair)["category"]
        means = {name: values.nanmean().item() for name, values in figures.items() if not values.isnan().all()}
        accuracy = (own.argmax(1) == labels).double().mean().item()
        found[student] = {"accuracy": accuracy, **means, "samples": len(kept)}
    return found


def entropy_table(results: Mapping[str, Any], split: str) -> str:
    """Write the models' entropies with their spreads, and the paired difference from those of training from scratch."""
    return runs_table(results, split, METRICS, "scratch", "entire_entropy")


def draw_entropies(summary: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path) -> Figure:
    """Draw a panel an entropy, a bar a student, with the standard deviation over the seeds, from top to bottom."""
    shown = [name for name in METRICS if name != "accuracy" and any(name in found for found in summary.values())]
    size = (2.8 * max(1, len(shown)) + 0.06 * max(map(len, summary)), 1 + 0.3 * len(summary))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, max(1, len(shown)), squeeze=False, sharey=True)[0]
    for axis, name in zip(panels, shown, strict=False):
        found = {student: figures[name] for student, figures in summary.items() if name in figures}
        axis.barh(
            list(found),
            [each["mean"] for each in found.values()],
            xerr=[each["std"] for each in found.values()],
            color=[f"C{number}" for number in range(len(found))],
            capsize=3,
        )
        axis.set_title(METRICS[name], fontsize=9)
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=150)
    return figure


def smoke_categories(output: Path) -> Path:
    """Write the categories of a trial run's classes: two fish and a shark."""
    path = output / "categories.csv"
    lines = [f"{wnid},{category}" for wnid, category in zip(WNIDS, ("fish", "fish", "other"), strict=True)]
    path.write_text("\n".join(["class,category", *lines]) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    run_recipe(run_entropy, __doc__)
