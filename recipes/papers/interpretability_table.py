# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd[interpretability]"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Train students by the classic methods and count their concept detectors: does distillation make them object-centred?

Accuracy, and detectors by category, unique and in all, by network dissection, for scratch, LS, KD, AT, FT, CRD, SSKD,
self-KD and e²KD (Han et al., ICML 2023, Tables 1 and 6 to 9), on Broden's concepts or COCO's. Each model is trained
once and kept: an interrupted command goes on, and the same command started several times at once shares the work.

    python recipes/papers/interpretability_table.py --dataset imagenet --concepts broden1_224 --augment --seeds 3
    python recipes/papers/interpretability_table.py --dataset tiny-imagenet-200 --image_size 64 --images_per_class 50 \\
        --teacher teacher.json --student student.json --concepts COCO --augment --use_cpu true
    python recipes/papers/interpretability_table.py --smoke
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _arms import METHODS
from _common import smoke_folder
from _concepts import find_concepts
from _dissected import (
    OF_CONCEPTS,
    ConceptOptions,
    Dissected,
    detector_bars,
    detector_headings,
    detector_metrics,
    dissect,
    find_layers,
    side_by_side,
)
from _evidence import runs_table
from _generated import write_broden, write_imagenet
from _image_study import ImageStudyOptions, load_splits
from _interpretability import STUDENTS, as_inputs, outputs, parse_study, square_processor, teacher_label
from _trained_arms import TrainedArms
from datasets import Dataset
from torch import nn

from hf_e2kd.alignment.inputs import image_view
from hf_e2kd.alignment.labels import align_labels
from hf_e2kd.experiments import run_recipe
from hf_e2kd.experiments.distillation import announce, use_one_thread
from hf_e2kd.experiments.results import collect_results, markdown_table, write_results
from hf_e2kd.fidelity.interpretability.loss_gradient import loss_gradient
from hf_e2kd.fidelity.interpretability.loss_gradient_figure import loss_gradient_panel

# Appendix B.2, where the rate falls to a tenth after 30, 60 and 90 of 100 epochs; here it falls by a cosine.
SGD = {"optim": "sgd", "optim_args": "momentum=0.9", "learning_rate": 0.1, "weight_decay": 1e-4}
TRAINING = {**SGD, "num_train_epochs": 100, "per_device_train_batch_size": 256, "temperature": 4.0}

TABLE = [name for name in METHODS if "+" not in name and name != "SSKD-KD"]
"""The arms of Table 1, and e²KD."""


@dataclass
class TableOptions(ImageStudyOptions, ConceptOptions):
    """Options of the data, the trainings and the concepts."""

    students: list[str] = field(default_factory=lambda: list(TABLE), metadata={"help": STUDENTS})

    def __post_init__(self) -> None:
        super().__post_init__()
        ConceptOptions.__post_init__(self)
        if self.concepts is None and not self.smoke:
            raise ValueError("Give --concepts, or --smoke to try the recipe out without any data.")


def run_interpretability_table(description: str) -> dict[str, Any]:
    """Train and dissect, and write `results.json`, `table.md`, `detectors.png`, `concept.png` and `loss_gradients.png`.

    Args:
        description: Text of `--help`.

    Returns:
        The content of `results.json`.
    """
    options, args = parse_study(TableOptions, "interpretability_table", description, **TRAINING)
    output, start = Path(args.output_dir), time.monotonic()
    if options.smoke:
        prepare_smoke(options, smoke_folder(args))
    study = DissectedStudy(options, args)
    runs, models = study.run()
    results = collect_results(args, runs, start, recipe="interpretability_table", options=vars(options))
    write_results(results, output)
    metrics = {"accuracy": "accuracy", **study.headings}
    table = markdown_table(results["summary"], metrics)
    (output / "table.md").write_text(f"{table}\n", encoding="utf-8")
    detector_bars(results["summary"][options.split], study.headings, output / "detectors.png")
    if options.pictures:
        side_by_side(models, study.images, options.pictures, output / "concept.png")
        draw_gradients(models, study.test, study.processor, options.pictures, output / "loss_gradients.png")
    print(f"\n{table}\n\nIn {output}: detectors.png, concept.png, loss_gradients.png, results.json, table.md")
    return results


def prepare_smoke(options: TableOptions, folder: Path) -> None:
    """Write a trial run's images and concepts, with quantiles that few images have."""
    use_one_thread()
    options.dataset, options.image_size = str(write_imagenet(folder / "imagenet")), 32
    options.concepts, options.quantile, options.detector_iou = str(write_broden(folder / "broden")), 0.95, 0.01


class DissectedStudy:
    """Students of several seeds with their accuracy and detectors.

    Args:
        options: A `TableOptions`.
        args: Training arguments.
        not_of_training: Further options without an influence on the models.
    """

    def __init__(self, options: TableOptions, args: Any, not_of_training: Sequence[str] = ()):
        self.options, self.args = options, args
        self.images = find_concepts(str(options.concepts))
        train, test = load_splits(options)
        self.headings = detector_headings(self.images)
        self.processor = square_processor(options.image_size)
        self.test = as_inputs(test, self.processor)
        self.output = Path(args.output_dir)
        self.trained = TrainedArms(
            options,
            args,
            train,
            self.processor,
            self.output / "models",
            lambda model: {"accuracy": self.accuracy(model, self.test)},
            not_of_training=(*OF_CONCEPTS, "split", *not_of_training),
        )

    def run(self) -> tuple[list[dict[str, Any]], dict[str, Dissected]]:
        """Train and dissect; give each seed's figures, and the models of the first seed by label, without teachers."""
        options, args = self.options, self.args
        seeds = range(args.seed, args.seed + options.seeds)
        figures = self.trained.run(options.arms, seeds)
        runs: list[dict[str, Any]] = []
        models: dict[str, Dissected] = {}
        for seed in seeds:
            run: dict[str, Any] = {"seed": seed}
            for source in options.teachers:
                label, name = teacher_label(source, options), self.trained.teacher_name(source, seed)
                teacher = self.trained.teacher(source, seed)
                # One that was trained elsewhere is the same with every seed, and may know further classes.
                known = figures.get(name) or {"accuracy": self.aligned_accuracy(teacher.model, teacher.processor, seed)}
                if not self.trained.is_trained(source):
                    name = self.trained.teacher_name(source, args.seed)
                run[label] = self.measure(name, label, teacher.model, teacher.processor, known)[1]
            for arm in options.arms:
                name = self.trained.name(arm, seed)
                found = self.measure(name, arm.label, self.trained.load(name), self.processor, figures[name])
                run[arm.label] = found[1]
                if seed == args.seed:
                    models[arm.label] = found[0]
            runs.append(run)
        return runs, models

    def measure(
        self, name: str, label: str, model: nn.Module, processor: Any, known: Mapping[str, float]
    ) -> tuple[Dissected, dict[str, Any]]:
        """Dissect a model and join what is known of it."""
        announce(self.args, f"Dissecting {label}")
        model = model.to(self.args.device).eval()
        layers = find_layers(model, [self.options.layer])
        batch, folder = self.args.per_device_eval_batch_size, self.output / "dissected"
        dissection = dissect(
            name, model, processor, self.images, self.options, folder, batch, layers, [self.options.quantile]
        )
        found = Dissected(model, processor, dissection.of())
        return found, {self.options.split: {**known, **detector_metrics(found.layer)}}

    def accuracy(self, model: nn.Module, data: Dataset) -> float:
        """Measure the accuracy on data as the model takes it."""
        logits, labels = outputs(model, data, self.args.per_device_eval_batch_size)
        return (logits.argmax(1) == labels).double().mean().item()

    def aligned_accuracy(self, model: nn.Module, processor: Any, seed: int) -> float:
        """Measure the accuracy of a model that was trained elsewhere, among the classes shared with the students."""
        student = self.trained.load(self.trained.name(self.options.arms[-1], seed)).cpu()
        aligned = align_labels(model, student)
        logits, labels = outputs(
            model.to(self.args.device), as_inputs(self.test, processor), self.args.per_device_eval_batch_size
        )
        found = aligned.student[aligned.teacher_logits(logits).argmax(1)]
        return (found == labels).double().mean().item()


def method_table(results: Mapping[str, Any], split: str) -> str:
    """Write the models' detectors with their spreads, and the paired difference from those of training from scratch."""
    columns = {"accuracy": "accuracy", "unique": "unique", "single": "one concept", "total": "detectors"}
    return runs_table(results, split, columns, "scratch", "total")


def draw_gradients(models: Mapping[str, Dissected], test: Dataset, processor: Any, count: int, path: Path) -> Any:
    """Draw the models' loss gradients on evenly spaced test images (Fig. 8)."""
    rows: Sequence[int] = torch.linspace(0, len(test) - 1, min(count, len(test))).long().tolist()
    samples = [test[row] for row in rows]
    pixels, labels = (
        torch.stack([each["pixel_values"] for each in samples]),
        torch.tensor([s["labels"] for s in samples]),
    )
    gradients = {}
    for label, dissected in models.items():
        device = next(dissected.model.parameters()).device
        gradients[label] = loss_gradient(dissected.model, pixels.to(device), labels.to(device)).gradients.cpu()
    return loss_gradient_panel(image_view(processor).intensities(pixels).clamp(0, 1), gradients, path=path)


if __name__ == "__main__":
    run_recipe(run_interpretability_table, __doc__)
