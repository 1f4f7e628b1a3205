"""Shared parts of the recipes of annotated images: command line, measures, results."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _annotated import AnnotatedSource, AnnotatedSplits, draw_boxes, flip
from _evidence import paired_table, refuse_other, settings_digest, write_evidence
from torch import nn
from transformers import HfArgumentParser, PreTrainedConfig
from transformers.hf_argparser import string_to_bool

from hf_e2kd.alignment.inputs import image_view
from hf_e2kd.data import DistillationTransform
from hf_e2kd.experiments.command_line import command_line
from hf_e2kd.experiments.experiment import COMMON_TRAINING, Comparison
from hf_e2kd.experiments.results import collect_results, markdown_table, measured_metrics, write_results
from hf_e2kd.explainers import Explainer
from hf_e2kd.trainer import ExplanationDistillTrainer
from hf_e2kd.trainer.arguments import ExplanationDistillArguments

METRICS = {
    "accuracy": "accuracy",
    "f1": "F1",
    "map": "mAP",
    "agreement": "agreement",
    "explanation_similarity": "similarity",
    "energy_pointing_game": "EPG",
    "localization_iou": "IoU",
}
"""Reported measures with their headings, as far as they were measured."""

UNGUIDED = "unguided"
"""Name of a model without guidance in the tables of several."""

TRAINING = {
    **COMMON_TRAINING,
    "remove_unused_columns": False,
    "optim": "adamw_torch",
    "learning_rate": 1e-4,
    "save_only_model": True,
}


@dataclass
class ViewOptions:
    """Options of the trained model's view, and of the layer that is explained."""

    image_size: int | None = field(default=None, metadata={"help": "Side of the input in pixels; the model's own."})
    augment: bool = field(default=False, metadata={"help": "Flip the training images at random."})
    layer: str | None = field(
        default=None, metadata={"help": "Depth of the maps: input, mid, final, or a layer's path; the explainer's own."}
    )

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"--image_size must be at least 1, not {self.image_size}.")


@dataclass
class GuidanceSetting:
    """Setting of a recipe of annotated images.

    Args:
        source: Data class of the images' options.
        training: Training arguments; the command line may change them.
        smoke_model: Model that `--smoke` trains.
        smoke_training: Training arguments that differ then.
        smoke_student: Student into which `--smoke` distils the trained model.
        smoke_size: Side of their input in pixels.
    """

    source: type[AnnotatedSource]
    training: Mapping[str, Any]
    smoke_model: PreTrainedConfig
    smoke_training: Mapping[str, Any]
    smoke_student: PreTrainedConfig | None = None
    smoke_size: int = 64


def parse_guidance(
    setting: GuidanceSetting,
    options: type,
    comparison: type[Comparison],
    name: str,
    description: str,
    required: tuple[str, ...],
) -> tuple[Any, Any, Any, ExplanationDistillArguments]:
    """Read the command line. What it leaves open comes from the setting.

    Args:
        setting: Setting of the recipe.
        options, comparison: Data classes of the options beside the source and the training arguments.
        name: Name of the recipe; results go to `outputs/NAME` unless said otherwise.
        description: Text of `--help`.
        required: Options that must be given, unless it is a smoke test.
    """
    given = command_line(setting.source, options, comparison, ExplanationDistillArguments)
    parser = HfArgumentParser(
        (setting.source, options, comparison, ExplanationDistillArguments),
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--smoke", type=string_to_bool, nargs="?", const=True, default=False)
    smoke = first.parse_known_args(given)[0].smoke
    parser.set_defaults(output_dir=f"outputs/{name}", **{**TRAINING, **setting.training})
    if smoke:
        parser.set_defaults(image_size=setting.smoke_size, **setting.smoke_training)
    try:
        source, asked, compared, args = parser.parse_args_into_dataclasses(given)
    except ValueError as error:
        parser.error(str(error))
    missing = [each for each in required if getattr(source, each, None) is None and getattr(asked, each, None) is None]
    if missing and not source.smoke:
        parser.error(f"Give {', '.join(f'--{each}' for each in missing)}, or --smoke to try the recipe.")
    if compared.seeds < 1:
        parser.error(f"--seeds must be at least 1, not {compared.seeds}.")
    if hasattr(asked, "guidance_loss") and args.explanation_loss != ExplanationDistillArguments.explanation_loss:
        parser.error("maps are held in boxes by --guidance_loss; --explanation_loss compares maps of two models.")
    if args.resume_from_checkpoint is not None:
        parser.error("several models are trained one after the other, and none of them is resumed: start anew.")
    for option, weights in (("model", "model_weights"), ("student", "student_weights")):
        if getattr(asked, weights, None) is not None and not (getattr(asked, option) or "").startswith("bcos/"):
            parser.error(f"--{weights} are published weights of a B-cos network: give --{option} bcos/NAME too.")
    return source, asked, compared, args


def transforms(
    data: AnnotatedSplits, augment: bool, processor: Any, teacher_processor: Any = None
) -> tuple[DistillationTransform, DistillationTransform]:
    """Make the transforms for measuring and for training."""
    plain, training = (
        DistillationTransform(
            processor,
            teacher_processor,
            augmentation=flip(flipped),
            classes=len(data.names),
            label_column=data.label_column,
        )
        for flipped in (False, augment)
    )
    return plain, training


def measure_split(trainer: ExplanationDistillTrainer, data: AnnotatedSplits, split: str = "test") -> dict[str, float]:
    """Measure a trainer's student on a split."""
    return measured_metrics(trainer.evaluate(getattr(data, split), metric_key_prefix=split), f"{split}_", METRICS)


def draw_examples(
    models: Mapping[str, nn.Module],
    explainers: Mapping[str, Explainer],
    data: AnnotatedSplits,
    processor: Any,
    count: int,
    output: Path,
) -> None:
    """Draw where the models look in `count` test images, into `explanations.png`."""
    if count:
        view = image_view(processor)
        draw_boxes(models, explainers, data.test, view, data.names, count, output / "explanations.png")


def each_seed(
    args: ExplanationDistillArguments,
    seeds: int,
    deciding: Mapping[str, Any],
    run: Callable[[int], dict[str, Any]],
    write: Callable[[list[dict[str, Any]]], None],
    taught_by: Callable[[int], str | None] = lambda seed: None,
) -> None:
    """Do the seeds' runs that aren't done yet, so that an interrupted command goes on with the next seed.

    Args:
        args: Training arguments, with the first seed.
        seeds: Number of seeds.
        deciding: Options on which figures depend.
        run: Does one seed's run; its figures are kept in `runs` in the output folder.
        write: Writes the results of the seeds so far.
        taught_by: Gives a digest of the weights of a seed's teacher, whose folder may hold another one by now.

    Raises:
        ValueError: the folder holds runs of other options or of another teacher, which aren't mixed.
    """
    # The Pareto front is of the models that are evaluated.
    evaluations = {"eval_strategy": args.eval_strategy, "eval_steps": args.eval_steps}
    done = []
    for seed in range(args.seed, args.seed + seeds):
        digest = settings_digest({**deciding, **evaluations, "taught_by": taught_by(seed)}, args)
        path = Path(args.output_dir) / "runs" / f"seed-{seed}.json"
        if path.exists():
            done.append(refuse_other(path, digest)["run"])
        else:
            done.append(run(seed))
            if args.process_index == 0:
                write_evidence({"digest": digest, "run": done[-1]}, path)
        write(done)


def stated_source(source: Any) -> Any:
    """State the options of the images."""
    return "drawn shapes" if source.smoke else dict(vars(source))


def collect_guidance(
    name: str, source: Any, options: Any, args: ExplanationDistillArguments, start: float, runs: list[dict[str, Any]]
) -> dict[str, Any]:
    """Put together the content of `results.json`.

    Args:
        name: Name of the recipe.
        source, options: Options of the images and of the recipe.
        args: Training arguments.
        start: `time.monotonic()` at the start of the recipe.
        runs: Every seed's figures so far: `seed`, and model → split → measures.
    """
    return collect_results(args, runs, start, recipe=name, source=stated_source(source), options=vars(options))


def save_results(results: Mapping[str, Any], output: Path, args: ExplanationDistillArguments) -> None:
    """Write `results.json` and `table.md`."""
    if args.process_index == 0:
        write_results(results, output)
        (output / "table.md").write_text(f"{markdown_table(results['summary'], METRICS)}\n", encoding="utf-8")


def variants_table(files: Sequence[Mapping[str, Any]], split: str) -> str:
    """Write guided models that several commands trained, with the paired difference of EPG from the unguided ones."""
    rows = [
        {"model": variant_name(results) if model == "guided" else UNGUIDED, "seed": run["seed"], **splits[split]}
        for results in files
        for run in results["runs"]
        for model, splits in run.items()
        if model != "seed"
    ]
    return paired_table(rows, METRICS, UNGUIDED, "energy_pointing_game", {}, kind="model")


def variant_name(results: Mapping[str, Any]) -> str:
    """Name a guided model by the options that it was trained by, as far as they aren't the defaults."""
    options, weight = results["options"], results["arguments"]["explanation_weight"]
    parts = [f"{options['guidance_loss']}, λ = {weight:g}" if weight else UNGUIDED]
    if options["layer"]:
        parts.append(f"{options['layer']} layer")
    if options["annotated"] < 1:
        parts.append(f"{100 * options['annotated']:g} % of the boxes")
    if options["dilation"]:
        parts.append(f"boxes larger by {options['dilation']:g}")
    return ", ".join(parts)


def show_results(results: Mapping[str, Any], output: Path, args: ExplanationDistillArguments) -> None:
    """Print the table, and where everything is."""
    if args.process_index == 0:
        print(f"\n{markdown_table(results['summary'], METRICS)}\n")
        print(f"In {output}: {', '.join(sorted(path.name for path in output.iterdir()))}")
