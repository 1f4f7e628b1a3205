# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Count concept detectors by network dissection, over layers, quantiles and thresholds of the IoU.

Any number of trained classifiers side by side: scratch and KD students, other temperatures and α, teachers. Runs of the
same name are seeds of one model, of which the mean is shown (Han et al., ICML 2023: three runs, Figures 9 and 10). Or
the paper's sweeps of trainings, whose students are trained first and kept, as by `interpretability_table.py`: α × T
(Tables 6 to 8), LS's α (Table 9), feature methods with and without logits (Fig. 5), teacher/student pairs (Table 11).

    python recipes/papers/dissection_sweeps.py --concepts broden1_224 --models scratch=outputs/scratch-0 \\
        scratch=outputs/scratch-1 KD=outputs/kd-0 KD=outputs/kd-1
    python recipes/papers/dissection_sweeps.py --concepts broden1_224 --models KD=outputs/kd-0 --layers -1 -2 -3
    python recipes/papers/dissection_sweeps.py --concepts broden1_224 --dataset imagenet --sweeps features --seeds 3
    python recipes/papers/dissection_sweeps.py --smoke
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from _arms import as_file_name
from _common import SMOKE_SIDE, smoke_processor
from _concepts import find_concepts
from _dissected import ConceptOptions, dissect, find_layers
from _generated import write_broden, write_imagenet
from _interpretability import STUDENTS, parse_study
from interpretability_table import TRAINING, DissectedStudy, TableOptions
from matplotlib import colormaps
from matplotlib.figure import Figure
from transformers import ResNetConfig, ResNetForImageClassification, set_seed

from hf_e2kd.choices import unknown_choice
from hf_e2kd.experiments import run_recipe
from hf_e2kd.experiments.results import RECORDED, describe_machine, write_results
from hf_e2kd.experiments.sources import load_classifier
from hf_e2kd.fidelity import Dissection, detector_figure
from hf_e2kd.fidelity.training import recorded_arguments
from hf_e2kd.trainer.arguments import ExplanationDistillArguments

OF_SWEEPS = ("sweeps", "models", "layers", "quantiles", "iou_thresholds")
"""Options that change no model."""

SWEEPS: dict[str, list[str]] = {
    "alpha_temperature": ["scratch"]
    + [f"KD:alpha={alpha},temperature={temperature}" for alpha in (0.1, 0.5, 0.9) for temperature in (1, 4, 8, 16)],
    "smoothing": ["scratch", "LS:smoothing=0.1", "LS:smoothing=0.5"],
    "features": ["AT", "AT+KD", "FT", "FT+KD", "CRD", "CRD+KD", "SSKD-KD", "SSKD"],
    # Table 11's, by timm's names; MobileNetV2 has timm's width of 1.
    "pairs": [
        "scratch:student=timm/resnet34",
        "KD:teacher=timm/resnet50,student=timm/resnet34",
        "scratch:student=timm/resnet50",
        "KD:teacher=timm/resnet50,student=timm/resnet50",
        "scratch:student=timm/mobilenetv2_100",
        "KD:teacher=timm/resnet34,student=timm/mobilenetv2_100",
        "KD:teacher=timm/mobilenetv2_100,student=timm/mobilenetv2_100",
        "scratch:student=timm/efficientnet_b2",
        "KD:teacher=timm/efficientnet_b2,student=timm/efficientnet_b2",
    ],
}
"""Students of each sweep of trainings."""


@dataclass
class DissectionArguments(TableOptions):
    """Options of the models, the concepts and the sweeps."""

    students: list[str] = field(default_factory=list, metadata={"help": f"Students to train: {STUDENTS}"})
    sweeps: list[str] = field(
        default_factory=list, metadata={"help": f"Students to train, by sweep: {', '.join(SWEEPS)}."}
    )
    models: list[str] = field(
        default_factory=list,
        metadata={"help": "Any number of models, as NAME=PATH: Hub ids or folders, with their processors."},
    )
    layers: list[str] = field(
        default_factory=lambda: ["-1"],
        metadata={"help": "Paths of layers, or numbers among the model's stages or blocks, -1 for the last."},
    )
    quantiles: list[float] = field(
        default_factory=lambda: [round(0.99 + step / 1000, 3) for step in range(10)],
        metadata={"help": "Quantiles of a unit's activations above which it is active."},
    )
    iou_thresholds: list[float] = field(
        default_factory=lambda: [0.01, 0.02, 0.03, 0.04, 0.05], metadata={"help": "IoUs that make a unit a detector."}
    )

    def __post_init__(self) -> None:
        if unknown := [name for name in self.sweeps if name not in SWEEPS]:
            raise ValueError(unknown_choice("sweep", unknown[0], SWEEPS))
        swept = (student for name in self.sweeps for student in SWEEPS[name])
        self.students = list(dict.fromkeys([*self.students, *swept]))
        if not self.smoke and not (self.concepts and (self.models or self.students)):
            raise ValueError(
                "Give --concepts, and --models, --students or --sweeps; or --smoke to try the recipe out without any "
                "data."
            )
        unnamed = [model for model in self.models if not all(model.partition("="))]
        if unnamed:
            raise ValueError(f"--models {unnamed[0]} has no name. Give NAME=PATH, such as KD=outputs/student.")
        ConceptOptions.__post_init__(self)
        if self.students:
            super().__post_init__()


def run_sweeps(description: str) -> dict[str, Any]:
    """Dissect the models, and write `dissection_sweeps.json`, `sweeps.png` and each run's file and picture.

    Args:
        description: Text of `--help`.

    Returns:
        The content of `dissection_sweeps.json`.
    """
    options, args = parse_study(DissectionArguments, "dissection_sweeps", description, **TRAINING)
    set_seed(args.seed)
    output = Path(args.output_dir)
    if options.smoke:
        _prepare_smoke(options, output)
    models = [tuple(entry.split("=", maxsplit=1)) for entry in options.models]
    accuracies: dict[str, float] = {}
    if options.students:
        trained, accuracies = train_students(options, args)
        models += trained
    device = args.device
    images = find_concepts(str(options.concepts))
    quantiles = sorted({*options.quantiles, options.quantile})
    thresholds = sorted({*options.iou_thresholds, options.detector_iou})
    rows: list[dict[str, Any]] = []
    runs: Counter[str] = Counter()
    for name, path in models:
        run = f"{as_file_name(name)}-{runs[name]}"
        print(f"\nDissecting {name}, run {runs[name]}", flush=True)
        loaded = load_classifier(path)
        model, processor = loaded.model.to(device).eval(), loaded.processing_class
        layers = dict(zip(find_layers(model, options.layers), options.layers, strict=True))
        batch = args.per_device_eval_batch_size
        found = dissect(run, model, processor, images, options, output / "dissected", batch, list(layers), quantiles)
        stated = {"model": name, "run": runs[name], "source": path}
        stated |= {"accuracy": accuracies[path]} if path in accuracies else {}
        rows += [stated | row | {"asked": layers[row["layer"]]} for row in count_all(found, thresholds)]
        for place, layer in enumerate(layers):
            best = found.of(layer, options.quantile)
            if best.best(options.pictures):
                drawn = {"processing_class": processor, "units": options.pictures}
                detector_figure(
                    model, images, best, **drawn, path=output / "dissected" / run / f"detectors-{place}.png"
                )
        runs[name] += 1
    results = {
        "recipe": "dissection_sweeps",
        "options": vars(options),
        "arguments": recorded_arguments(args, RECORDED),
        **describe_machine(device),
        "images": found.images,
        "unseen_concepts": found.unseen,
        "rows": rows,
    }
    write_results(results, output, "dissection_sweeps.json")
    sweep_figure(rows, options.quantile, options.detector_iou, output / "sweeps.png")
    print(f"\n{detector_table(rows, options.quantile, options.detector_iou)}")
    print(f"\nIn {output}: dissection_sweeps.json, sweeps.png")
    return results


def train_students(
    options: DissectionArguments, args: ExplanationDistillArguments
) -> tuple[list[tuple[str, str]], dict[str, float]]:
    """Train the students of all seeds; give each run's name and folder, and accuracies by folder."""
    study = DissectedStudy(options, args, OF_SWEEPS)
    seeds = range(args.seed, args.seed + options.seeds)
    figures = study.trained.run(options.arms, seeds)
    found = {study.trained.name(arm, seed): arm.label for arm in options.arms for seed in seeds}
    folders = {name: str(study.trained.folder / name) for name in found}
    runs = [(label, folders[name]) for name, label in found.items()]
    return runs, {folder: figures[name]["accuracy"] for name, folder in folders.items()}


def count_all(found: Dissection, thresholds: Sequence[float]) -> list[dict[str, Any]]:
    """Count the detectors of each layer and quantile at each threshold of the IoU."""
    return [
        {
            "layer": layer.layer,
            "units": len(layer.units),
            "quantile": layer.quantile,
            "quantile_error": layer.quantile_error,
            "iou_threshold": threshold,
            **asdict(layer.counts(threshold)),
        }
        for layer in found.layers
        for threshold in thresholds
    ]


def detector_table(rows: Sequence[Mapping[str, Any]], quantile: float, iou_threshold: float) -> str:
    """Write the mean numbers of detectors over the runs, one row a model and layer."""
    chosen = [row for row in rows if (row["quantile"], row["iou_threshold"]) == (quantile, iou_threshold)]
    categories = list(chosen[0]["categories"])
    has_accuracy = all("accuracy" in row for row in chosen)
    heads = [*categories, "unique", "one concept", "total", *(["accuracy"] if has_accuracy else [])]
    lines = [f"| model | layer | runs | {' | '.join(heads)} |", f"|---|---|---|{'---|' * len(heads)}"]
    for model, layer in dict.fromkeys((row["model"], row["asked"]) for row in chosen):
        own = [row for row in chosen if (row["model"], row["asked"]) == (model, layer)]
        values = [fmean(row["categories"][category] for row in own) for category in categories]
        values += [fmean(row[name] for row in own) for name in ("unique", "single", "total")]
        cells = [f"{value:.1f}" for value in values]
        cells += [f"{fmean(row['accuracy'] for row in own):.4f}"] if has_accuracy else []
        lines.append(f"| {model} | {layer} | {len(own)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sweep_figure(
    rows: Sequence[Mapping[str, Any]], quantile: float, iou_threshold: float, path: Path | None = None
) -> Figure:
    """Draw all detectors and the unique ones over the quantile and over the threshold, one row of plots a layer."""
    layers = list(dict.fromkeys(row["asked"] for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    # The legend, a model's name a line, gets room beside the plots.
    size = (8 + 0.075 * max(map(len, models)), max(0.6 + 2.6 * len(layers), 0.18 * len(models) + 0.4))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(layers), 2, squeeze=False)
    names = {"quantile": "quantile", "iou_threshold": "IoU threshold"}
    sweeps = (("quantile", "iou_threshold", iou_threshold), ("iou_threshold", "quantile", quantile))
    for line, layer in zip(axes, layers, strict=True):
        for axis, (swept, fixed, value) in zip(line, sweeps, strict=True):
            for place, model in enumerate(models):
                own = [r for r in rows if (r["model"], r["asked"], r[fixed]) == (model, layer, value)]
                points = sorted({row[swept] for row in own})
                for count, style in (("total", "-"), ("unique", "--")):
                    means = [fmean(row[count] for row in own if row[swept] == point) for point in points]
                    label = model if axis is axes[0, 0] and count == "total" else None
                    colour = colormaps["tab20"](place % 20)
                    axis.plot(points, means, style, color=colour, marker="o", markersize=3, label=label)
            axis.set(xlabel=names[swept], title=f"{names[fixed]} {value}")
            axis.set_ylabel(f"detectors, layer {layer}\nsolid: all; dashed: unique", fontsize=8)
            axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _prepare_smoke(options: DissectionArguments, output: Path) -> None:
    """Write images, and two tiny ResNets, one of them twice, with quantiles that few images have."""
    folder = output / "generated"
    options.concepts = str(write_broden(folder / "broden"))
    options.dataset, options.image_size = str(write_imagenet(folder / "imagenet")), SMOKE_SIDE
    options.quantiles, options.quantile, options.layers = [0.9, 0.95, 0.98], 0.95, ["-1", "-2"]
    options.models = []
    for number, name in enumerate(("narrow", "narrow", "wide")):
        widths = [8, 16] if name == "narrow" else [16, 24]
        config = ResNetConfig(embedding_size=8, hidden_sizes=widths, depths=[1, 1], layer_type="basic", num_labels=3)
        ResNetForImageClassification(config).save_pretrained(folder / str(number))
        smoke_processor(is_bcos=False).save_pretrained(folder / str(number))
        options.models.append(f"{name}={folder / str(number)}")
    print(f"Images of {SMOKE_SIDE} pixels in {options.concepts}")


if __name__ == "__main__":
    run_recipe(run_sweeps, __doc__)
