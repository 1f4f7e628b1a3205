# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Guide classifiers of Tiny ImageNet by its boxes (model guidance, Rao et al., ICCV 2023), beside unguided ones.

All models start from the same --model and see the same batches. Of each training's Pareto front over accuracy, energy
pointing game (EPG) and IoU on validation, the model with the best EPG is measured on the test images, among those whose
accuracy is near the best. --studies chooses what is compared:

    losses    the four guidance losses
    boxes     boxes of all, of 10 % and of 1 % of the images
    dilation  boxes larger by .1, .25 and .5 on each side
    mid       GradCAM on a grid twice as fine
    input     Input×Gradient at the pixels
    weight    λ of each loss; its table is of the validation images

Each model's figures are written as they come; started again, the same command goes on, and started twice it does half
of the work in each process.

    python recipes/papers/guide_tiny_imagenet.py --data TINY --studies weight --seeds 0 1
    python recipes/papers/guide_tiny_imagenet.py --data TINY --studies losses boxes dilation mid input
    python recipes/papers/guide_tiny_imagenet.py --data TINY --model outputs/efficientnet-lite0 --model_init own-head \\
        --image_size 160 --num_train_epochs 5 --learning_rate 1e-4
    python recipes/papers/guide_tiny_imagenet.py --smoke
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from _annotated import AnnotatedSplits, draw_boxes, explainer_at, load_box_classifier
from _common import find_tiny_imagenet, parse_recipe, refuse_launcher
from _evidence import paired_table, results_head, run_name, settings_digest, write_evidence
from _guide import guide
from _guided_arms import ARMS, STUDIES, GuidedArm
from _limited_data import SPLIT_SEED
from _shapes import SHAPES, draw_shapes
from _splits import choose_per_class, hold_out
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from torch import nn
from torchvision.transforms import v2
from transformers import AutoModelForImageClassification, PreTrainedConfig, ResNetConfig, set_seed

from hf_e2kd.alignment.inputs import image_view
from hf_e2kd.choices import unknown_choice
from hf_e2kd.data import DistillationTransform, keep_annotations
from hf_e2kd.data.image_files import png_cell
from hf_e2kd.experiments.command_line import run_recipe
from hf_e2kd.experiments.distillation import replace_arguments, use_one_thread
from hf_e2kd.experiments.models import load_weights
from hf_e2kd.experiments.shared_runs import share_runs
from hf_e2kd.models import SmallResNetConfig
from hf_e2kd.references import AnnotationReference
from hf_e2kd.trainer.arguments import ExplanationDistillArguments

DECIDING = ("model", "model_init", "image_size", "shots", "held_out", "tolerance", "smoke")
"""Options on which figures depend, beside the training arguments."""

TABLE = {
    "accuracy": "accuracy",
    "energy_pointing_game": "EPG",
    "localization_iou": "IoU",
    "training_cpu_seconds": "training and choice, CPU s",
}
"""Columns of the tables."""

NETWORK = SmallResNetConfig(depths=(1, 1, 1, 1), embedding_size=32, stem_stride=2)
"""Network of random weights, where no other is named."""

SMOKE_NETWORK = ResNetConfig(
    embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", downsample_in_first_stage=False
)

TRAINING: Mapping[str, Any] = {
    **{"num_train_epochs": 30, "learning_rate": 3e-3, "weight_decay": 1e-4, "warmup_steps": 0.1},
    **{"task_weight": 1.0, "logits_weight": 0.0, "remove_unused_columns": False, "save_only_model": True},
    **{"per_device_eval_batch_size": 250, "logging_strategy": "no"},
}
"""Training arguments where the command line says nothing else."""


@dataclass
class Options:
    """Options of the images and of the models."""

    data: str | None = field(default=None, metadata={"help": "Folder of Tiny ImageNet, its own or of Parquet files."})
    model: str | None = field(
        default=None, metadata={"help": "Hub id, folder, timm/NAME or .json; a small ResNet of random weights."}
    )
    model_init: str = field(
        default="pretrained",
        metadata={
            "help": "Of --model, keep its weights, also those of its head for the data's classes, or start anew.",
            "choices": ["pretrained", "own-head", "random"],
        },
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Side of the input in pixels; that of --model, or 64 without."}
    )
    studies: list[str] = field(
        default_factory=lambda: ["losses"], metadata={"help": f"Of {', '.join(STUDIES)}, any number."}
    )
    arms: list[str] = field(default_factory=list, metadata={"help": "Only these of the studies' trainings."})
    shots: int = field(default=50, metadata={"help": "Images a class to train on and to hold out; 0 takes all."})
    held_out: int = field(default=5, metadata={"help": "Images a class of these by which models are chosen."})
    seeds: list[int] = field(default_factory=lambda: [42, 43, 44], metadata={"help": "Seeds of the trainings."})
    tolerance: float = field(default=0.02, metadata={"help": "Accuracy that the chosen model may lack to the best."})
    pictures: int = field(default=6, metadata={"help": "Images in the picture of the first study; 0 draws none."})
    smoke: bool = field(default=False, metadata={"help": "Try everything out in seconds: drawn shapes, few steps."})

    def __post_init__(self) -> None:
        for kind, chosen, known in (("study", self.studies, STUDIES), ("training", self.arms, ARMS)):
            for name in chosen:
                if name not in known:
                    raise ValueError(unknown_choice(kind, name, known))
        if self.data is None and not self.smoke:
            raise ValueError("Give --data, the folder of Tiny ImageNet, or --smoke to try the recipe out.")
        if not self.trainings or not self.seeds:
            raise ValueError("Give --studies whose --arms there are, and --seeds.")
        for name, least in (("shots", 0), ("held_out", 1), ("tolerance", 0), ("pictures", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"--{name} must be at least {least}, not {getattr(self, name)}.")

    @property
    def trainings(self) -> dict[str, GuidedArm]:
        """The trainings by name."""
        chosen = {name: arm for study in self.studies for name, arm in STUDIES[study].items()}
        return {name: arm for name, arm in chosen.items() if not self.arms or name in self.arms}


class BoxStudy:
    """Classifiers with and without guidance.

    Args:
        options: Options of the recipe.
        args: Training arguments; the seed comes with each model.
    """

    def __init__(self, options: Options, args: ExplanationDistillArguments):
        self.options, self.args, self.folder = options, args, Path(args.output_dir)
        splits = smoke_splits() if options.smoke else find_tiny_imagenet(str(options.data))
        self.splits = divide(splits, options.shots, options.held_out)

    @property
    def names(self) -> list[str]:
        """Names of the classes."""
        return self.splits["train"].features["label"].names

    def start(self) -> tuple[nn.Module, Any]:
        """The model before the training, and its image processor."""
        network: str | PreTrainedConfig | None = self.options.model
        size = self.options.image_size
        if network is None:
            network, size = (SMOKE_NETWORK if self.options.smoke else NETWORK), size or 64
        problem = "single_label_classification"
        return load_box_classifier(network, self.options.model_init, self.names, size, problem=problem)

    def data(self, annotated: float, seed: int, processor: Any) -> AnnotatedSplits:
        """The images as the model takes them, of which a share keeps its boxes for the training."""
        # Copies, as the transforms are set in place.
        data = AnnotatedSplits(*(self.splits[name].with_format(None) for name in ("train", "validation", "test")))
        if annotated < 1:
            data.train = keep_annotations(data.train, annotated, seed)
        side = data.test[0]["image"].width
        moved = v2.Compose([v2.RandomCrop(side, padding=side // 8), v2.RandomHorizontalFlip()])
        data.show(DistillationTransform(processor), DistillationTransform(processor, augmentation=moved))
        return data

    def run(self, arm: GuidedArm, seed: int, name: str) -> dict[str, Any]:
        """Train a model, save the chosen one, and measure it on the test images."""
        start, fronts = time.process_time(), self.folder / "fronts" / name
        set_seed(seed)
        model, processor = self.start()
        changes = {"explainer": arm.explainer, "eval_strategy": "epoch", "output_dir": str(fronts)}
        args = replace_arguments(self.args, seed=seed, **changes)
        guided = guide(
            model,
            explainer_at(args, arm.layer, model, processor),
            AnnotationReference(arm.loss, arm.dilation, arm.weight),
            args,
            self.data(arm.annotated, seed, processor),
            processor,
            "energy_pointing_game",
            self.options.tolerance,
            score="accuracy",
            test_all=False,
        )
        guided.trainer.save_model(str(self.folder / "models" / name))
        shutil.rmtree(fronts)
        figures = {key: value for key, value in guided.chosen.items() if key != "test"}
        return {
            **guided.chosen["test"],
            "validation": figures,
            "training_cpu_seconds": round(time.process_time() - start, 1),
        }

    def draw(self, names: Mapping[str, str], arm: GuidedArm, path: Path) -> None:
        """Draw where saved models look in some test images.

        Args:
            names: Names of the models' folders by heading.
            arm: A training with their explainer and depth.
            path: File of the picture.
        """
        processor = self.start()[1]
        args = replace_arguments(self.args, explainer=arm.explainer)
        models = {
            heading: load_weights(AutoModelForImageClassification, str(self.folder / "models" / name))
            for heading, name in names.items()
        }
        explainers = {heading: explainer_at(args, arm.layer, model, processor) for heading, model in models.items()}
        shown = self.data(1.0, SPLIT_SEED, processor).test.shuffle(seed=SPLIT_SEED)
        draw_boxes(models, explainers, shown, image_view(processor), self.names, self.options.pictures, path)


def run_guide_tiny_imagenet(description: str) -> dict[str, Any]:
    """Train the models that aren't there yet, measure them, and write `results.json`, `table.md` and a picture.

    Args:
        description: Text of `--help`.

    Returns:
        The content of `results.json`.
    """
    options, args = parse_recipe(Options, "guide_tiny_imagenet", description, refuse_launcher, **TRAINING)
    if args.device.type == "cpu":
        use_one_thread()
    start, output = time.monotonic(), Path(args.output_dir)
    deciding = {name: value for name, value in asdict(options).items() if name in DECIDING}
    deciding["model"] = options.model and Path(options.model).name  # wherever its folder lies
    digest, study = settings_digest(deciding, args), BoxStudy(options, args)
    runs = {
        f"{run_name(name, ARMS[name])}-{seed}": (name, seed) for seed in options.seeds for name in options.trainings
    }

    def train(file: str) -> dict[str, Any]:
        name, seed = runs[file]
        print(f"Seed {seed}: {name}", flush=True)
        return {"model": name, "seed": seed, "arm": asdict(ARMS[name]), **study.run(ARMS[name], seed, file)}

    rows = list(share_runs(output / "runs", list(runs), digest, train).values())
    results = {**results_head("guide_tiny_imagenet", digest, deciding, args), "rows": rows}
    write_evidence(results, output / "results.json")
    tables = [f"## {name}\n\n{study_table(results, name)}\n" for name in options.studies]
    (output / "table.md").write_text("\n".join(tables), encoding="utf-8")
    if options.pictures:
        first = STUDIES[options.studies[0]]
        drawn = {name: file for file, (name, seed) in runs.items() if name in first and seed == options.seeds[0]}
        study.draw(drawn, ARMS[next(iter(drawn))], output / "explanations.png")
    print("\n".join(tables), f"In {output}: {round(time.monotonic() - start)} s.", sep="\n")
    return results


def study_table(results: Mapping[str, Any], study: str) -> str:
    """Write a study's models as a table: means, spreads, and the paired difference of EPG from the unguided one's.

    Args:
        results: Content of `results.json`.
        study: Name of the study; `weight` is of the validation images, all others are of the test images.
    """
    names = list(STUDIES[study])
    rows = [row for row in results["rows"] if row["model"] in names]
    if study == "weight":
        rows = [{**row, **row["validation"]} for row in rows]
    rows.sort(key=lambda row: names.index(row["model"]))
    return paired_table(rows, TABLE, names[0], "energy_pointing_game", {}, kind="model")


def divide(splits: DatasetDict, shots: int, held_out: int) -> DatasetDict:
    """Divide the training images by class, always alike; the validation images are the test.

    Args:
        splits: Splits `train` and `validation`.
        shots: Images a class to train on and to hold out; 0 takes all.
        held_out: Images a class of these to hold out.
    """
    train = splits["train"]
    if shots:
        train = train.select(choose_per_class(train["label"][:], shots, SPLIT_SEED))
    kept, held = hold_out(np.asarray(train["label"][:]), held_out, SPLIT_SEED)
    return DatasetDict(train=train.select(kept), validation=train.select(held), test=splits["validation"])


def smoke_splits() -> DatasetDict:
    """Make images of a trial run, each of its topmost shape's class."""
    label = ClassLabel(names=list(SHAPES))
    boxes = {"boxes": List(List(Value("float32"), length=4)), "box_labels": List(label)}
    features = Features({"image": Image(), "label": label, **boxes})

    def split(count: int, seed: int) -> Dataset:
        drawn = draw_shapes(count, seed=seed)
        kinds, corners = zip(*(each.boxes[-1] for each in drawn), strict=True)
        images = [png_cell(each.pixels) for each in drawn]
        own = {"boxes": [[box] for box in corners], "box_labels": [[kind] for kind in kinds]}
        return Dataset.from_dict({"image": images, "label": kinds, **own}, features=features)

    return DatasetDict(train=split(60, 0), validation=split(12, 1))


if __name__ == "__main__":
    run_recipe(run_guide_tiny_imagenet, __doc__)
