# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd[interpretability,perturbation]"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Distil students that carry the teacher's explanations inside (XDistillation), beside KD, AT, NST, AB and e²KD.

The teacher is explained by gradient SHAP of its top class's probability, summed over superpixels; an autoencoder
learns to approximate that; a student reads the frozen autoencoder's output beside its own features. All students start
from the same weights. By default the embedded digits, in minutes; the paper's data from local files. Grey images are
shown as RGB. Each result is written as it comes: an interrupted command goes on, and further students, ablations or
seeds add to what is there; table and pictures are of those that the command names.

    python recipes/papers/xdistillation.py
    python recipes/papers/xdistillation.py --students XDistillation --ablations superpixels k penalty columns
    python recipes/papers/xdistillation.py --data mnist --folder MNIST --task_loss mse --num_train_epochs 20
    python recipes/papers/xdistillation.py --data cifar10 --folder cifar-10-batches-bin --num_train_epochs 100
    python recipes/papers/xdistillation.py --data cifar10 --folder cifar-10-batches-bin --width_divisor 4
    python recipes/papers/xdistillation.py --smoke
"""

import hashlib
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from _common import parse_recipe, refuse_launcher
from _interpretability import as_inputs, square_processor
from _xdistillation import Plan, Study
from _xdistillation_figures import draw_accuracies
from transformers import PreTrainedConfig

from hf_e2kd.alignment.superpixels import FEWEST, MOST
from hf_e2kd.data import digits_on_textures, load_cifar10, load_fashion_mnist, load_mnist
from hf_e2kd.experiments.command_line import run_recipe
from hf_e2kd.experiments.distillation import replace_arguments, use_one_thread
from hf_e2kd.experiments.results import collect_results, markdown_table, write_results
from hf_e2kd.experiments.shared_runs import SETTLED
from hf_e2kd.fidelity.training import recorded_arguments
from hf_e2kd.models import LeNetConfig, VGGConfig
from hf_e2kd.trainer.arguments import ExplanationDistillArguments


@dataclass
class Setting:
    """Networks of one kind of data; the autoencoder's size is "small" or "large"."""

    teacher: PreTrainedConfig
    student: PreTrainedConfig
    autoencoder: str
    image_size: int


GREY = Setting(
    LeNetConfig(num_channels=3), LeNetConfig(num_channels=3, channels=(3, 8), hidden_sizes=(32,)), "small", 28
)
SETTINGS = {
    "digits": Setting(VGGConfig(widths=((16,), (32,), (64,))), VGGConfig(widths=((8,), (16,), (16,))), "small", 32),
    "mnist": GREY,
    "fashion_mnist": GREY,
    "cifar10": Setting(VGGConfig(depth=16), VGGConfig(depth=7), "large", 32),
}
LOADERS = {"mnist": load_mnist, "fashion_mnist": load_fashion_mnist, "cifar10": load_cifar10}

STUDENTS: dict[str, dict[str, Any]] = {
    "baseline": {"logits_weight": 0.0},
    "KD": {},
    "AT": {"terms": {"attention_transfer": {"weight": 1000.0}}},
    "NST": {"terms": {"nst": {}}},
    "AB": {"terms": {"activation_boundary": {}}},
    "e²KD": {},
    "XDistillation": {},
}
"""Students, with what their loss has beside (or in the place of) cross-entropy + (1 − α)·KD; see `plan_of`."""

ABLATIONS: dict[str, dict[str, dict[str, Any]]] = {
    "superpixels": {"without superpixels": {"superpixels": None}},
    "k": {"k = 5": {"superpixels": 5}, "k = 10": {"superpixels": 10}},
    "penalty": {"λ = 0": {"penalty": 0.0}, "λ = 0.005": {"penalty": 0.005}, "λ = 0.05": {"penalty": 0.05}},
    "columns": {"all columns": {"columns": "all"}},
}
"""Further students like XDistillation, with the options that differ: its autoencoder's superpixels, or its penalty."""

VARIANTS = {name: changes for several in ABLATIONS.values() for name, changes in several.items()}

METRICS = {
    "accuracy": "accuracy",
    "parameters": "parameters",
    "agreement": "agreement",
    "shap_error": "SHAP error ↓",
    "gradcam_error": "GradCAM error ↓",
    "lime_error": "LIME error ↓",
    "shap_overlap": "SHAP overlap",
    "gradcam_overlap": "GradCAM overlap",
    "lime_overlap": "LIME overlap",
    "occlusion_similarity": "occlusion similarity",
}
"""Metrics of the table (Tables II to V), with their headings. An error is the MSE over the teacher's mean square."""


@dataclass
class Options:
    """Options of the data, the explanations and the students."""

    data: str = field(default="digits", metadata={"help": "Kind of the data.", "choices": list(SETTINGS)})
    folder: str | None = field(default=None, metadata={"help": "Folder of the data: idx files, or the binary version."})
    teacher_depth: int | None = field(default=None, metadata={"help": "Depth of another VGG that teaches: 7, 11, 16."})
    width_divisor: int = field(
        default=1, metadata={"help": "Divide the channels of VGGs by this: networks that a CPU carries."}
    )
    train_images: int | None = field(default=None, metadata={"help": "Train on so many images, drawn by the seed."})
    test_images: int | None = field(default=None, metadata={"help": "Test on so many images, drawn by the seed."})
    students: list[str] = field(
        default_factory=lambda: list(STUDENTS), metadata={"help": f"Of {', '.join(STUDENTS)}, any number."}
    )
    ablations: list[str] = field(
        default_factory=list, metadata={"help": f"Of {', '.join(ABLATIONS)}, any number: students that differ in it."}
    )
    alpha: float = field(default=0.9, metadata={"help": "α: the loss is cross-entropy + (1 − α)·KD + … (Eq. 6)."})
    penalty: float = field(default=5e-4, metadata={"help": "λ of XDistillation's feature reduction."})
    columns: str = field(
        default="features", metadata={"help": "Columns that it penalises.", "choices": ["features", "all"]}
    )
    superpixels: int = field(default=19, metadata={"help": f"Superpixels of an image, {FEWEST} to {MOST}."})
    shap_samples: int = field(default=32, metadata={"help": "Random choices of gradient SHAP an image."})
    background: int = field(default=50, metadata={"help": "Random training images that SHAP compares with."})
    explained_images: int = field(default=100, metadata={"help": "Test images that LIME and occlusion explain."})
    teacher_epochs: float | None = field(
        default=None, metadata={"help": "Epochs of the teacher; as many as the students' unless given."}
    )
    autoencoder_epochs: float = field(default=20.0, metadata={"help": "Epochs of the autoencoder."})
    seeds: int = field(default=1, metadata={"help": "Repeat with this many seeds, counted from --seed."})
    export_code: bool = field(
        default=False, metadata={"help": "Save XDistillation's code beside its weights, for trust_remote_code."}
    )
    smoke: bool = field(default=False, metadata={"help": "Try everything out in seconds: few images, two steps."})

    def __post_init__(self) -> None:
        if self.folder is None and self.data != "digits":
            raise ValueError(f"Give --folder, where the files of {self.data} lie.")
        for kind, chosen, known in (("students", self.students, STUDENTS), ("ablations", self.ablations, ABLATIONS)):
            unknown = sorted(set(chosen) - set(known))
            if unknown:
                raise ValueError(f"Unknown {kind} {unknown}. Available: {', '.join(known)}.")
        if not self.students:
            raise ValueError(f"Give --students, of {', '.join(STUDENTS)}, one or more.")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"--alpha must lie between 0 and 1, not {self.alpha}.")
        if not FEWEST <= self.superpixels <= MOST:
            raise ValueError(f"--superpixels must lie between {FEWEST} and {MOST}, not {self.superpixels}.")
        if self.penalty < 0:
            raise ValueError(f"--penalty must be 0 or more, not {self.penalty}.")
        for name in ("teacher_epochs", "autoencoder_epochs"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"--{name} must be above 0, not {getattr(self, name)}.")
        counts = ("shap_samples", "background", "seeds", "explained_images", "train_images", "test_images")
        for name in (*counts, "width_divisor"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, not {getattr(self, name)}.")
        _ = self.setting

    @property
    def setting(self) -> Setting:
        """The networks, other ones than the data's own where that is asked for.

        Raises:
            ValueError: other ones are asked for and they are no VGGs, or they have too few channels.
        """
        setting = SETTINGS[self.data]
        if self.teacher_depth is None and self.width_divisor == 1:
            return setting
        if not isinstance(setting.teacher, VGGConfig):
            raise ValueError(
                f"--teacher_depth and --width_divisor change VGGs, and the networks of {self.data} are none. Leave "
                "them out, or change SETTINGS in the recipe."
            )
        teacher = setting.teacher if self.teacher_depth is None else VGGConfig(depth=self.teacher_depth)
        return replace(setting, teacher=self.narrowed(teacher), student=self.narrowed(setting.student))

    def narrowed(self, config: VGGConfig) -> VGGConfig:
        """Divide a network's channels."""
        fewest = min(min(widths) for widths in config.stage_widths)
        if self.width_divisor > fewest:
            raise ValueError(f"--width_divisor must be at most {fewest}, a layer's channels, not {self.width_divisor}.")
        return VGGConfig(widths=[[width // self.width_divisor for width in widths] for widths in config.stage_widths])

    @property
    def names(self) -> list[str]:
        """Students and ablations, by their names in the table."""
        return [*self.students, *(name for each in self.ablations for name in ABLATIONS[each])]


def run_xdistillation(description: str) -> dict[str, Any]:
    """Train the students, measure them, and write `results.json`, `table.md`, pictures and a blind test.

    Args:
        description: Text of `--help`.

    Returns:
        The content of `results.json`.
    """
    options, args = parse(description)
    output, start = Path(args.output_dir), time.monotonic()
    if options.data == "digits":
        use_one_thread()
    setting, plans = options.setting, {name: plan_of(name, options, args) for name in options.names}
    processor, key = square_processor(setting.image_size), settings_key(options, args)
    runs: list[dict[str, Any]] = []
    curves: dict[str, dict[str, list[float]]] = {}
    for seed in range(args.seed, args.seed + options.seeds):
        splits = {name: as_inputs(split, processor) for name, split in load_data(options, seed).items()}
        seeded = replace_arguments(args, seed=seed)
        study = Study(options, setting, plans, seeded, splits, processor, output / f"seed-{seed}", key)
        found = study.run()
        if options.export_code:
            study.export_code()
        runs.append({"seed": seed, **{name: {"test": each["test"]} for name, each in found.items()}})
        curves[str(seed)] = {name: each["accuracy_by_epoch"] for name, each in found.items() if name in plans}
        stated = {"options": vars(options), "accuracy_by_epoch": curves}
        results = collect_results(args, runs, start, recipe="xdistillation", **stated)
        write_results(results, output)
        table = markdown_table(results["summary"], METRICS)
        (output / "table.md").write_text(f"{table}\n", encoding="utf-8")
        study.draw()
        print(f"\n{table}", flush=True)
    draw_accuracies(curves, output / "accuracy.png")
    print(f"\nIn {output}: accuracy.png, results.json, table.md; models, pictures and a blind test in seed-…")
    return results


def plan_of(name: str, options: Options, args: ExplanationDistillArguments) -> Plan:
    """Plan the training of a student: cross-entropy + (1 − α)·KD + what its method adds."""
    loss: dict[str, Any] = {"task_weight": 1.0, "logits_weight": 1 - options.alpha, "explanation_weight": 0.0}
    if name in STUDENTS and name != "XDistillation":
        explained = {"explanation_weight": args.explanation_weight} if name == "e²KD" else {}
        return Plan({**loss, **explained, **STUDENTS[name]})
    chosen = {name: getattr(options, name) for name in ("penalty", "columns", "superpixels")} | VARIANTS.get(name, {})
    terms = {"feature_reduction": {"weight": chosen["penalty"], "columns": chosen["columns"]}}
    return Plan({**loss, "terms": terms}, reads=True, superpixels=chosen["superpixels"])


def parse(description: str) -> tuple[Options, ExplanationDistillArguments]:
    """Read the command line."""
    training = {"num_train_epochs": 15, "learning_rate": 3e-3, "weight_decay": 1e-4, "remove_unused_columns": False}
    options, args = parse_recipe(Options, "xdistillation", description, refuse_launcher, **training)
    if options.smoke:
        options.shap_samples, options.background, options.explained_images = 2, 4, 2
    return options, args


def settings_key(options: Options, args: ExplanationDistillArguments) -> str:
    """A digest of what all runs depend on; further students, ablations and seeds don't change them."""
    further = ("students", "ablations", "seeds", "export_code")
    chosen = {name: value for name, value in vars(options).items() if name not in further}
    text = json.dumps([chosen, recorded_arguments(args, SETTLED)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def load_data(options: Options, seed: int) -> dict[str, Any]:
    """Load the splits `train` and `test`, or as many images of them as are asked for."""
    if options.data == "digits":
        sizes = {"teacher_train": 40, "test_id": 12} if options.smoke else {"teacher_train": 2000, "test_id": 500}
        digits = digits_on_textures({"student_train": 0, "validation": 0, "test_ood": 0, **sizes}, correlation=0.0)
        splits = {"train": digits["teacher_train"], "test": digits["test_id"]}
    else:
        splits = dict(LOADERS[options.data](options.folder))
    numbers = {"train": options.train_images, "test": options.test_images}
    return {
        name: split if numbers[name] is None else split.shuffle(seed=seed).select(range(min(numbers[name], len(split))))
        for name, split in splits.items()
    }


if __name__ == "__main__":
    run_recipe(run_xdistillation, __doc__)
