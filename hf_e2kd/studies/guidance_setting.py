"""What recipes of annotated images share: their command line, what they measure, and what they write."""

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from transformers import HfArgumentParser, PreTrainedConfig

from ..alignment.inputs import image_view
from ..data import DistillationTransform
from ..explainers import Explainer
from ..trainer import ExplanationDistillTrainer
from ..trainer.arguments import ExplanationDistillArguments
from .annotated import AnnotatedSource, AnnotatedSplits, draw, flip
from .results import describe_machine, markdown_table, recorded_arguments, summarise, write_results
from .side_by_side import COMMON_TRAINING, Comparison

METRICS = {
    "f1": "F1",
    "map": "mAP",
    "agreement": "agreement",
    "explanation_similarity": "similarity",
    "energy_pointing_game": "EPG",
    "localization_iou": "IoU",
}
"""What is reported, as far as it was measured."""

TRAINING = {
    **COMMON_TRAINING,
    "remove_unused_columns": False,
    "optim": "adamw_torch",
    "learning_rate": 1e-4,
    "save_only_model": True,
}


@dataclass
class ViewOptions:
    """How the trained model sees an image, and where it is explained."""

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
    """A recipe.

    Args:
        source: The options that say which images are read.
        training: Training arguments; the command line may change them.
        smoke_model: What `--smoke` trains.
        smoke_training: What differs in the training arguments then.
        smoke_student: What `--smoke` distils the trained model into.
        smoke_size: Side of its input in pixels.
    """

    source: type[AnnotatedSource]
    training: Mapping[str, Any]
    smoke_model: PreTrainedConfig
    smoke_training: Mapping[str, Any]
    smoke_student: PreTrainedConfig | None = None
    smoke_size: int = 64


def parse(
    setting: GuidanceSetting,
    options: type,
    comparison: type[Comparison],
    name: str,
    description: str,
    required: tuple[str, ...],
) -> tuple[Any, Any, Any, ExplanationDistillArguments]:
    """The command line. What it leaves open comes from the setting.

    Args:
        options, comparison: What is asked for beside the source and the training arguments.
        required: The options that must be given, unless it is a smoke test.
    """
    parser = HfArgumentParser(
        (setting.source, options, comparison, ExplanationDistillArguments),
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--smoke", action="store_true")
    smoke = first.parse_known_args()[0].smoke
    parser.set_defaults(output_dir=f"outputs/{name}", **{**TRAINING, **setting.training})
    if smoke:
        parser.set_defaults(image_size=setting.smoke_size, **setting.smoke_training)
    try:
        source, asked, compared, args = parser.parse_args_into_dataclasses()
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
    """For measuring and for training."""
    plain, training = (
        DistillationTransform(
            processor,
            teacher_processor,
            augmentation=flip(flipped),
            classes=len(data.names),
            label_column="labels",
        )
        for flipped in (False, augment)
    )
    return plain, training


def measure(trainer: ExplanationDistillTrainer, data: AnnotatedSplits, split: str = "test") -> dict[str, float]:
    """What is reported of a trainer's student on a split."""
    measured = trainer.evaluate(getattr(data, split), metric_key_prefix=split)
    return {name: measured[f"{split}_{name}"] for name in METRICS if f"{split}_{name}" in measured}


def draw_examples(
    models: Mapping[str, nn.Module],
    explainers: Mapping[str, Explainer],
    data: AnnotatedSplits,
    processor: Any,
    count: int,
    output: Path,
) -> None:
    """Draws what the models look at in `count` test images, into `explanations.png`."""
    if count:
        view = image_view(processor)
        draw(models, explainers, data.test, view, data.names, count, output / "explanations.png")


def collect_results(
    name: str, source: Any, options: Any, args: ExplanationDistillArguments, start: float, runs: list[dict[str, Any]]
) -> dict[str, Any]:
    """What `results.json` holds.

    Args:
        start: `time.monotonic()` at the start of the recipe.
        runs: Every seed's figures so far: `seed`, and side → split → measures.
    """
    return {
        "recipe": name,
        "source": "drawn shapes" if source.smoke else vars(source),
        "options": vars(options),
        "arguments": recorded_arguments(args),
        **describe_machine(args.device),
        "seconds": round(time.monotonic() - start),
        "summary": summarise(runs),
        "runs": runs,
    }


def save_results(results: Mapping[str, Any], output: Path, args: ExplanationDistillArguments) -> None:
    """Writes `results.json` and `table.md`."""
    if args.process_index == 0:
        write_results(results, output)
        (output / "table.md").write_text(f"{markdown_table(results['summary'], METRICS)}\n", encoding="utf-8")


def show_results(results: Mapping[str, Any], output: Path, args: ExplanationDistillArguments) -> None:
    """Prints the table, and where everything is."""
    if args.process_index == 0:
        print(f"\n{markdown_table(results['summary'], METRICS)}\n")
        print(f"In {output}: {', '.join(sorted(path.name for path in output.iterdir()))}")
