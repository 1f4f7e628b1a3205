# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Count concept detectors by network dissection, over layers, quantiles and thresholds of the IoU.

Any number of trained classifiers side by side: scratch and KD students, other temperatures and α, teachers. Runs of the
same name are seeds of one model, of which the mean is shown (Han et al., ICML 2023: three runs, Figures 9 and 10).

    python recipes/papers/dissection_sweeps.py --dataset broden1_224 --models scratch=outputs/scratch-0 \\
        scratch=outputs/scratch-1 KD=outputs/kd-0 KD=outputs/kd-1
    python recipes/papers/dissection_sweeps.py --dataset broden1_224 --models teacher=outputs/resnet34 --layers -1 -2 -3
    python recipes/papers/dissection_sweeps.py --smoke
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from _common import SMOKE_SIDE, smoke_processor
from _concepts import find_concepts
from _generated import write_broden
from matplotlib.figure import Figure
from torch import nn
from transformers import HfArgumentParser, ResNetConfig, ResNetForImageClassification, set_seed

from hf_e2kd.architectures.taps import default_taps
from hf_e2kd.experiments.command_line import command_line
from hf_e2kd.experiments.results import describe_machine, write_results
from hf_e2kd.experiments.sources import load_classifier
from hf_e2kd.fidelity import Dissection, detector_figure, network_dissection


@dataclass
class DissectionArguments:
    """Options of the models, the concepts and the sweeps."""

    models: list[str] = field(
        default_factory=list,
        metadata={"help": "Any number of models, as NAME=PATH: Hub ids or folders, with their processors."},
    )
    dataset: str | None = field(
        default=None, metadata={"help": "Concepts: Broden's folder, or one of COCO's form with masks in 'semantic'."}
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
    quantile: float = field(default=0.995, metadata={"help": "The quantile of the table and of the thresholds' sweep."})
    iou_threshold: float = field(default=0.05, metadata={"help": "The IoU of the table and of the quantiles' sweep."})
    tally: str = field(
        default="official",
        metadata={"help": "official: as the paper's numbers were counted; category: the definition of the IoU."},
    )
    pictures: int = field(default=6, metadata={"help": "Units in each picture of the best detectors, 0 for none."})
    batch_size: int = field(default=32, metadata={"help": "Images at once."})
    workers: int = field(default=0, metadata={"help": "Processes that read images and masks."})
    seed: int = field(default=42, metadata={"help": "Draws the models of a trial run."})
    use_cpu: bool = field(default=False, metadata={"help": "Leave an accelerator unused."})
    output_dir: str = field(default="outputs/dissection_sweeps", metadata={"help": "Where the results go."})
    smoke: bool = field(
        default=False, metadata={"help": "Try everything out in seconds, by tiny models on images made for it."}
    )

    def __post_init__(self) -> None:
        if not self.smoke and not (self.models and self.dataset):
            raise ValueError("Give --models and --dataset, or --smoke to try the recipe out without any data.")
        unnamed = [model for model in self.models if not all(model.partition("="))]
        if unnamed:
            raise ValueError(f"--models {unnamed[0]} has no name. Give NAME=PATH, such as KD=outputs/student.")


def run_sweeps(description: str) -> dict[str, Any]:
    """Dissect the models, and write `dissection_sweeps.json`, `sweeps.png` and each run's file and picture.

    Args:
        description: Text of `--help`.

    Returns:
        The content of `dissection_sweeps.json`.
    """
    parser = HfArgumentParser(DissectionArguments, description=description)
    try:
        (args,) = parser.parse_args_into_dataclasses(command_line(DissectionArguments))
    except ValueError as error:
        parser.error(str(error))
    set_seed(args.seed)
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    if args.smoke:
        _prepare_smoke(args, output)
    images = find_concepts(args.dataset)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.use_cpu else "cpu")
    quantiles = sorted({*args.quantiles, args.quantile})
    thresholds = sorted({*args.iou_thresholds, args.iou_threshold})
    rows: list[dict[str, Any]] = []
    runs: Counter[str] = Counter()
    for entry in args.models:
        name, _, path = entry.partition("=")
        folder = output / f"{name}-{runs[name]}"
        folder.mkdir(exist_ok=True)
        print(f"\nDissecting {name}, run {runs[name]}", flush=True)
        loaded = load_classifier(path)
        model, processor = loaded.model.to(device).eval(), loaded.processing_class
        layers = dict(zip(find_layers(model, args.layers), args.layers, strict=True))
        found = network_dissection(
            model,
            list(layers),
            images,
            processing_class=processor,
            quantile=quantiles,
            iou_threshold=args.iou_threshold,
            tally=args.tally,
            batch_size=args.batch_size,
            workers=args.workers,
            state_folder=folder,
        )
        found.save(folder)
        stated = {"model": name, "run": runs[name], "source": path}
        rows += [stated | row | {"asked": layers[row["layer"]]} for row in count_all(found, thresholds)]
        for place, layer in enumerate(layers):
            best = found.of(layer, args.quantile)
            if best.best(args.pictures):
                options = {"processing_class": processor, "units": args.pictures}
                detector_figure(model, images, best, **options, path=folder / f"detectors-{place}.png")
        runs[name] += 1
    results = {
        "recipe": "dissection_sweeps",
        **{key: getattr(args, key) for key in ("dataset", "tally", "quantile", "iou_threshold", "seed")},
        **describe_machine(device),
        "images": found.images,
        "unseen_concepts": found.unseen,
        "rows": rows,
    }
    write_results(results, output, "dissection_sweeps.json")
    sweep_figure(rows, args.quantile, args.iou_threshold, output / "sweeps.png")
    print(f"\n{detector_table(rows, args.quantile, args.iou_threshold)}")
    print(f"\nIn {output}: dissection_sweeps.json, sweeps.png")
    return results


def find_layers(model: nn.Module, asked: Sequence[str]) -> list[str]:
    """Turn numbers among a model's stages or blocks into their paths; paths stay.

    Raises:
        ValueError: the model has no such stage.
    """
    paths = []
    for layer in asked:
        if layer.lstrip("-").isdigit():
            stages = default_taps(model)
            if not -len(stages) <= int(layer) < len(stages):
                raise ValueError(f"--layers {layer}: {type(model).__name__} has the stages {', '.join(stages)}.")
            layer = stages[int(layer)]
        paths.append(layer)
    return paths


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
    lines = [
        f"| model | layer | runs | {' | '.join(categories)} | unique | one concept | total |",
        f"|---|---|---|{'---|' * (len(categories) + 3)}",
    ]
    for model, layer in dict.fromkeys((row["model"], row["asked"]) for row in chosen):
        own = [row for row in chosen if (row["model"], row["asked"]) == (model, layer)]
        values = [fmean(row["categories"][category] for row in own) for category in categories]
        values += [fmean(row[name] for row in own) for name in ("unique", "single", "total")]
        lines.append(f"| {model} | {layer} | {len(own)} | {' | '.join(f'{value:.1f}' for value in values)} |")
    return "\n".join(lines)


def sweep_figure(
    rows: Sequence[Mapping[str, Any]], quantile: float, iou_threshold: float, path: Path | None = None
) -> Figure:
    """Draw all detectors and the unique ones over the quantile and over the threshold, one row of plots a layer."""
    layers = list(dict.fromkeys(row["asked"] for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure = Figure(figsize=(8, 0.6 + 2.6 * len(layers)), layout="constrained")
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
                    label = f"{model}, {count}" if axis is axes[0, 0] else None
                    axis.plot(points, means, style, color=f"C{place}", marker="o", markersize=3, label=label)
            axis.set(xlabel=names[swept], title=f"{names[fixed]} {value}")
            axis.set_ylabel(f"detectors, layer {layer}")
            axis.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=4, fontsize=8)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _prepare_smoke(args: DissectionArguments, output: Path) -> None:
    """Write images, and two tiny ResNets, one of them twice, with quantiles that few images have."""
    folder = output / "generated"
    args.dataset = str(write_broden(folder / "broden"))
    args.quantiles, args.quantile, args.layers = [0.9, 0.95, 0.98], 0.95, ["-1", "-2"]
    args.models = []
    for number, name in enumerate(("narrow", "narrow", "wide")):
        widths = [8, 16] if name == "narrow" else [16, 24]
        config = ResNetConfig(embedding_size=8, hidden_sizes=widths, depths=[1, 1], layer_type="basic", num_labels=3)
        ResNetForImageClassification(config).save_pretrained(folder / str(number))
        smoke_processor(is_bcos=False).save_pretrained(folder / str(number))
        args.models.append(f"{name}={folder / str(number)}")
    print(f"Images of {SMOKE_SIDE} pixels in {args.dataset}")


if __name__ == "__main__":
    run_sweeps(__doc__)
