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
shown as RGB.

    python recipes/papers/xdistillation.py
    python recipes/papers/xdistillation.py --data mnist --folder MNIST --task_loss mse --num_train_epochs 20
    python recipes/papers/xdistillation.py --data cifar10 --folder cifar-10-batches-bin --num_train_epochs 100
    python recipes/papers/xdistillation.py --smoke
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _common import SMOKE_TRAINING, chosen_first
from _interpretability import as_inputs, square_processor
from matplotlib.figure import Figure
from torch import Tensor, nn
from transformers import HfArgumentParser, PreTrainedConfig, Trainer, TrainingArguments, set_seed

from hf_e2kd import explain
from hf_e2kd.alignment import explanation_scale, slic_superpixels, superpixel_maps, superpixel_sums
from hf_e2kd.alignment.inputs import image_view
from hf_e2kd.architectures import call_model
from hf_e2kd.data import digits_on_textures, load_cifar10, load_fashion_mnist, load_mnist
from hf_e2kd.data.images import label_names
from hf_e2kd.experiments.command_line import command_line
from hf_e2kd.experiments.diffroar import LabelledImages
from hf_e2kd.experiments.distillation import (
    NOTHING_SAVED,
    announce,
    replace_arguments,
    train_on_labels,
    use_one_thread,
)
from hf_e2kd.experiments.experiment import COMMON_TRAINING
from hf_e2kd.experiments.images import classifier_of
from hf_e2kd.experiments.results import collect_results, markdown_table, write_results
from hf_e2kd.explainers import GradCAM, GradientShap
from hf_e2kd.metrics import explanation_mse, superpixel_overlap
from hf_e2kd.models import (
    ExplanationAutoencoder,
    ExplanationAutoencoderConfig,
    LeNetConfig,
    VGGConfig,
    XDistillationForImageClassification,
)
from hf_e2kd.trainer import ExplanationDistillTrainer
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
    "e²KD": {"explained": True},
    "XDistillation": {"terms": {"feature_reduction": {}}},
}
"""Students, with what their loss has beside (or in the place of) cross-entropy + (1 − α)·KD."""

METRICS = {
    "accuracy": "accuracy",
    "parameters": "parameters",
    "agreement": "agreement",
    "shap_error": "SHAP error ↓",
    "gradcam_error": "GradCAM error ↓",
    "shap_overlap": "SHAP overlap",
    "gradcam_overlap": "GradCAM overlap",
}
"""Metrics of the table (Tables II to V), with their headings. An error is the MSE over the teacher's mean square."""


@dataclass
class Options:
    """Options of the data, the explanations and the students."""

    data: str = field(default="digits", metadata={"help": "Kind of the data.", "choices": list(SETTINGS)})
    folder: str | None = field(default=None, metadata={"help": "Folder of the data: idx files, or the binary version."})
    students: list[str] = field(
        default_factory=lambda: list(STUDENTS), metadata={"help": f"Of {', '.join(STUDENTS)}, any number."}
    )
    alpha: float = field(default=0.9, metadata={"help": "α: the loss is cross-entropy + (1 − α)·KD + … (Eq. 6)."})
    penalty: float = field(default=5e-4, metadata={"help": "λ of XDistillation's feature reduction."})
    columns: str = field(default="features", metadata={"help": "Columns that it penalises: features or all."})
    superpixels: int = field(default=19, metadata={"help": "Superpixels of an image, 3 to 20."})
    shap_samples: int = field(default=32, metadata={"help": "Random choices of gradient SHAP an image."})
    background: int = field(default=50, metadata={"help": "Random training images that SHAP compares with."})
    autoencoder_epochs: float = field(default=20.0, metadata={"help": "Epochs of the autoencoder."})
    seeds: int = field(default=1, metadata={"help": "Repeat with this many seeds, counted from --seed."})
    smoke: bool = field(default=False, metadata={"help": "Try everything out in seconds: few images, two steps."})

    def __post_init__(self) -> None:
        if self.folder is None and self.data != "digits":
            raise ValueError(f"Give --folder, where the files of {self.data} lie.")
        unknown = sorted(set(self.students) - set(STUDENTS))
        if unknown or not self.students:
            raise ValueError(f"Unknown students {unknown}. Available: {', '.join(STUDENTS)}.")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"--alpha must lie between 0 and 1, not {self.alpha}.")
        for name in ("shap_samples", "background", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, not {getattr(self, name)}.")


@dataclass
class Explained:
    """A model's decisions on some images, and its superpixel maps of the teacher's top class, by explainer."""

    logits: Tensor
    maps: dict[str, Tensor]
    sums: dict[str, Tensor]


def run_xdistillation(description: str) -> dict[str, Any]:
    """Train the students, measure them, and write `results.json`, `table.md` and `explanations.png`.

    Args:
        description: Text of `--help`.

    Returns:
        The content of `results.json`.
    """
    parser = HfArgumentParser((Options, ExplanationDistillArguments), description=description)
    smoke = chosen_first(smoke=False).smoke
    training = {"num_train_epochs": 15, "learning_rate": 3e-3, "weight_decay": 1e-4, "remove_unused_columns": False}
    training |= SMOKE_TRAINING if smoke else {}
    parser.set_defaults(output_dir="outputs/xdistillation", **{**COMMON_TRAINING, **training})
    try:
        options, args = parser.parse_args_into_dataclasses(command_line(Options, ExplanationDistillArguments))
    except ValueError as error:
        parser.error(str(error))
    args = replace_arguments(args, **NOTHING_SAVED)
    if options.data == "digits":
        use_one_thread()
    if smoke:
        options.shap_samples, options.background = 2, 4
    output, start = Path(args.output_dir), time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    setting = SETTINGS[options.data]
    processor = square_processor(setting.image_size)
    splits = load_data(options)
    names = label_names(splits["train"]) or []
    train = as_inputs(splits["train"], processor)
    images = {name: LabelledImages.of(as_inputs(split, processor)) for name, split in splits.items()}
    superpixels = {
        name: slic_superpixels(image_view(processor).intensities(each.pixel_values).clamp(0, 1), options.superpixels)
        for name, each in images.items()
    }
    runs: list[dict[str, Any]] = []
    for seed in range(args.seed, args.seed + options.seeds):
        seeded = replace_arguments(args, seed=seed)
        announce(seeded, f"Seed {seed}: training the teacher")
        set_seed(seed + 1000)
        teacher = train_on_labels(classifier_of(setting.teacher, names), seeded, train, processor).eval()
        announce(seeded, f"Seed {seed}: explaining the teacher on {len(train)} images")
        drawn = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[: options.background]
        shap = GradientShap(images["train"].pixel_values[drawn], options.shap_samples)
        wanted = explain_all(teacher, teacher, images["train"], superpixels["train"], {"shap": shap}).maps["shap"]
        announce(seeded, f"Seed {seed}: training the autoencoder")
        autoencoder = train_autoencoder(options, seeded, teacher, images["train"].pixel_values, wanted)
        explainers = {"shap": shap, "gradcam": GradCAM()}
        taught = explain_all(teacher, teacher, images["test"], superpixels["test"], explainers)
        own = autoencoder.approximate_explanation(images["test"].pixel_values.to(autoencoder.device)).detach().cpu()
        run: dict[str, Any] = {"seed": seed, "teacher": {"test": measure(taught, taught, images["test"], teacher)}}
        # Against the mean squared map itself, the error of an autoencoder that gives zeros.
        run["teacher"]["test"] |= {
            "autoencoder_mse": explanation_mse(own, taught.maps["shap"]).mean().item(),
            "zero_mse": taught.maps["shap"].square().mean().item(),
        }
        for name in options.students:
            announce(seeded, f"Seed {seed}: training the student {name}")
            set_seed(seed)
            student: nn.Module = classifier_of(setting.student, names)
            if name == "XDistillation":
                student = XDistillationForImageClassification.from_parts(student, autoencoder)
            trained = train_student(name, student, teacher, options, seeded, train, processor).eval()
            found = explain_all(trained, teacher, images["test"], superpixels["test"], explainers)
            run[name] = {"test": measure(found, taught, images["test"], trained)}
            if name == "XDistillation" and seed == args.seed and args.process_index == 0:
                trained.save_pretrained(output / "student")
        runs.append(run)
        if seed == args.seed and args.process_index == 0:
            shown = image_view(processor).intensities(images["test"].pixel_values[:8])
            rows = {"teacher": taught.maps["shap"], "autoencoder": own}
            draw(shown, rows, output / "explanations.png")
    results = collect_results(args, runs, start, recipe="xdistillation", options=vars(options))
    if args.process_index == 0:
        write_results(results, output)
        table = markdown_table(results["summary"], METRICS)
        (output / "table.md").write_text(f"{table}\n", encoding="utf-8")
        print(f"\n{table}\n\nIn {output}: explanations.png, results.json, student, table.md")
    return results


def load_data(options: Options) -> dict[str, Any]:
    """Load the splits `train` and `test`."""
    if options.data != "digits":
        return dict(LOADERS[options.data](options.folder))
    sizes = {"teacher_train": 40, "test_id": 12} if options.smoke else {"teacher_train": 2000, "test_id": 500}
    digits = digits_on_textures({"student_train": 0, "validation": 0, "test_ood": 0, **sizes}, correlation=0.0)
    return {"train": digits["teacher_train"], "test": digits["test_id"]}


def explain_all(
    model: nn.Module,
    teacher: nn.Module,
    images: LabelledImages,
    superpixels: Tensor,
    explainers: Mapping[str, Any],
    batch_size: int = 256,
) -> Explained:
    """Explain a model's probability of the teacher's top class, on superpixels of all images."""
    device = next(model.parameters()).device
    logits: list[Tensor] = []
    maps: dict[str, list[Tensor]] = {name: [] for name in explainers}
    for pixels in images.pixel_values.split(batch_size):
        pixels = pixels.to(device)
        with torch.no_grad():
            target = call_model(teacher, {"pixel_values": pixels}).argmax(1)
            logits.append(call_model(model, {"pixel_values": pixels}).cpu())
        for name, explainer in explainers.items():
            found = explain(model, pixels, method=explainer, target=target, output="probability")
            maps[name].append(found.maps.cpu())
    joined = {name: torch.cat(parts) for name, parts in maps.items()}
    return Explained(
        torch.cat(logits),
        {name: superpixel_maps(each, superpixels) for name, each in joined.items()},
        {name: superpixel_sums(each, superpixels) for name, each in joined.items()},
    )


def train_autoencoder(
    options: Options, args: ExplanationDistillArguments, teacher: nn.Module, pixels: Tensor, maps: Tensor
) -> ExplanationAutoencoder:
    """Train an autoencoder from images to the teacher's maps: mean absolute error, Adam with a rate of 1e-3."""
    scale = explanation_scale(maps)
    set_seed(args.seed)
    config = ExplanationAutoencoderConfig(
        size=SETTINGS[options.data].autoencoder,
        image_size=pixels.shape[-1],
        scale=scale,
        id2label=teacher.config.id2label,
    )
    training = TrainingArguments(
        str(Path(args.output_dir) / "autoencoder"),
        num_train_epochs=options.autoencoder_epochs,
        max_steps=2 if options.smoke else -1,
        per_device_train_batch_size=args.per_device_train_batch_size,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        logging_strategy="epoch",
        save_strategy="no",
        report_to="none",
        use_cpu=args.use_cpu,
        disable_tqdm=args.disable_tqdm,
        seed=args.seed,
    )
    model = ExplanationAutoencoder(config)
    Trainer(model, training, train_dataset=LabelledImages(pixels, maps / scale)).train()
    return model.eval()


def train_student(
    name: str,
    student: nn.Module,
    teacher: nn.Module,
    options: Options,
    args: ExplanationDistillArguments,
    train: Any,
    processor: Any,
) -> nn.Module:
    """Train one of `STUDENTS`."""
    chosen = {"logits_weight": 1 - options.alpha, **STUDENTS[name]}
    weights = {"task_weight": 1.0, "explanation_weight": args.explanation_weight if chosen.pop("explained", 0) else 0.0}
    if name == "XDistillation":
        chosen["terms"] = {"feature_reduction": {"weight": options.penalty, "columns": options.columns}}
    # The mean squared error is the teacher's loss alone.
    trainer = ExplanationDistillTrainer(
        student,
        replace_arguments(args, **weights, **chosen, task_loss="auto"),
        train_dataset=train,
        processing_class=processor,
        teacher_model=teacher,
    )
    trainer.train()
    return trainer.student


def measure(found: Explained, taught: Explained, images: LabelledImages, model: nn.Module) -> dict[str, float]:
    """Compare a model with the teacher: the MSE where both classify alike, the overlap where both are right."""
    own, theirs = found.logits.argmax(1), taught.logits.argmax(1)
    right = (own == images.labels) & (theirs == images.labels)
    figures = {
        "accuracy": (own == images.labels).double().mean().item(),
        "parameters": float(sum(parameter.numel() for parameter in model.parameters())),
    }
    if found is taught:
        return figures
    figures["agreement"] = (own == theirs).double().mean().item()
    for name in found.maps:
        errors = explanation_mse(found.maps[name], taught.maps[name], own == theirs).nanmean().item()
        size = taught.maps[name][own == theirs].square().mean().item()
        overlaps = superpixel_overlap(found.sums[name], taught.sums[name], counted=right)
        figures |= {f"{name}_mse": errors, f"{name}_overlap": overlaps.nanmean().item()}
        figures |= {f"{name}_error": errors / size} if size > 0 else {}
    # Undefined where no sample counts.
    return {name: value for name, value in figures.items() if value == value}


def draw(images: Tensor, rows: Mapping[str, Tensor], path: Path) -> Figure:
    """Draw images over the superpixel maps of teacher and autoencoder (Figs. 4 and 6), each row on one scale."""
    figure = Figure(figsize=(1.2 * len(images), 1.2 * (1 + len(rows))), layout="constrained")
    axes = figure.subplots(1 + len(rows), len(images), squeeze=False)
    for axis, image in zip(axes[0], images, strict=True):
        axis.imshow(image.clamp(0, 1).permute(1, 2, 0).numpy())
    for line, (name, maps) in zip(axes[1:], rows.items(), strict=True):
        peak = float(maps[: len(images)].abs().max()) or 1.0
        for axis, own in zip(line, maps, strict=False):
            axis.imshow(own.numpy(), cmap="RdBu_r", vmin=-peak, vmax=peak)
        line[0].set_ylabel(name, fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=150)
    return figure


if __name__ == "__main__":
    run_xdistillation(__doc__)
