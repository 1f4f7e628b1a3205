"""Model guidance: a classifier learns to look into the annotations (Rao et al., ICCV 2023)."""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _annotated import AnnotatedSplits, explainer_at, load_box_classifier, load_splits, opened
from _guidance import (
    METRICS,
    GuidanceSetting,
    ViewOptions,
    collect_guidance,
    draw_examples,
    each_seed,
    measure_split,
    parse_guidance,
    save_results,
    show_results,
    stated_source,
    transforms,
)
from torch import nn
from transformers import set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_e2kd.callbacks import ParetoCheckpoints
from hf_e2kd.cards.pareto_plot import pareto_plot
from hf_e2kd.data import AnnotatedCollator, keep_annotations
from hf_e2kd.experiments import Comparison
from hf_e2kd.experiments.distillation import announce, replace_arguments
from hf_e2kd.explainers import Explainer
from hf_e2kd.references import AnnotationReference
from hf_e2kd.terms import available_guidance_losses
from hf_e2kd.trainer import ExplanationDistillTrainer
from hf_e2kd.trainer.arguments import ExplanationDistillArguments
from hf_e2kd.trainer.checkpoints import load_weights

LOCALISATION = ["energy_pointing_game", "localization_iou"]
SELECTED_BY = ["f1", *LOCALISATION]


@dataclass
class GuidanceOptions(ViewOptions):
    """Options of guidance; λ is `--explanation_weight`, the paper's times its batch size."""

    model: str | None = field(
        default=None, metadata={"help": "Hub id or folder; for a random start also timm/NAME or .json."}
    )
    model_init: str = field(
        default="pretrained", metadata={"help": "Keep its weights, or not.", "choices": ["pretrained", "random"]}
    )
    model_weights: str | None = field(
        default=None, metadata={"help": "File of published weights of a model bcos/NAME, .pth or .safetensors."}
    )
    guidance_loss: str = field(
        default="energy", metadata={"help": "How maps are held in boxes.", "choices": available_guidance_losses()}
    )
    annotated: float = field(default=1.0, metadata={"help": "Share of the training images whose boxes are used."})
    dilation: float = field(default=0.0, metadata={"help": "Boxes are larger by this share on each side in training."})
    select: str = field(
        default="energy_pointing_game",
        metadata={"help": "What decides among the models of the front.", "choices": SELECTED_BY},
    )
    tolerance: float = field(default=0.02, metadata={"help": "F1 that the chosen model may lack to the front's best."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.annotated <= 1:
            raise ValueError(f"--annotated must lie in (0, 1], not {self.annotated}.")
        for name in ("dilation", "tolerance"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"--{name} must be at least 0, not {getattr(self, name)}.")


@dataclass
class GuidanceComparison(Comparison):
    """Which models are trained, and how often."""

    compare: bool = field(default=True, metadata={"help": "Train an unguided model beside the guided one."})


@dataclass
class GuidedModel:
    """A trained model of the front.

    Args:
        model: Chosen model.
        trainer: Trainer that holds it.
        evaluations: Measures on validation after each epoch, with the `step`.
        front: Evaluations on the front, each that was tested with its `test` figures.
        chosen: Evaluation of the chosen model.
    """

    model: nn.Module
    trainer: ExplanationDistillTrainer
    evaluations: list[dict[str, Any]]
    front: list[dict[str, Any]]
    chosen: dict[str, Any]


def guide(
    model: nn.Module,
    explainer: Explainer,
    reference: AnnotationReference,
    args: ExplanationDistillArguments,
    data: AnnotatedSplits,
    processor: Any,
    select: str,
    tolerance: float,
    score: str = "f1",
    test_all: bool = True,
) -> GuidedModel:
    """Train a copy of a model, keep the front over F1, EPG and IoU on validation, and test its models.

    Args:
        model: Classifier with its first weights.
        explainer: Its explainer.
        reference: Annotations; with `explanation_weight=0` the boxes are measured by and not learnt from.
        args: Training arguments.
        data: Annotated images.
        processor: Image processor.
        select, tolerance, score: Arguments of `choose`; the score takes the place of F1.
        test_all: Test all models of the front, not the chosen one alone.
    """
    pareto = ParetoCheckpoints([score, *LOCALISATION])
    trainer = ExplanationDistillTrainer(
        copy.deepcopy(model),
        args,
        train_dataset=data.train,
        eval_dataset=data.validation,
        processing_class=processor,
        data_collator=AnnotatedCollator(),
        references={"boxes": reference},
        explainer=explainer,
        callbacks=[pareto],
    )
    trainer.train()
    trainer.accelerator.wait_for_everyone()

    def load(point: Mapping[str, Any]) -> None:
        load_weights(trainer.student, f"{args.output_dir}/{PREFIX_CHECKPOINT_DIR}-{point['step']}")

    front: list[dict[str, Any]] = [dict(point) for point in pareto.front]
    chosen = choose(front, select, tolerance, score)
    for point in front if test_all else [chosen]:
        load(point)
        point["test"] = measure_split(trainer, data)
    load(chosen)
    return GuidedModel(trainer.student, trainer, pareto.points, front, chosen)


def choose(front: Sequence[Mapping[str, Any]], select: str, tolerance: float, score: str = "f1") -> Any:
    """Choose the model of a front that is best in one measure, among those whose score is near the front's best.

    Example:
        >>> front = [{"f1": 0.70, "epg": 0.50}, {"f1": 0.69, "epg": 0.55}, {"f1": 0.40, "epg": 0.90}]
        >>> choose(front, "epg", tolerance=0.02)
        {'f1': 0.69, 'epg': 0.55}
    """
    best = max(point[score] for point in front)
    return max((point for point in front if point[score] >= best - tolerance), key=lambda point: point[select])


def run_guidance(setting: GuidanceSetting, name: str, description: str) -> dict[str, Any]:
    """Train an unguided and a guided model, select on validation, measure on the test split.

    Into `--output_dir` go each seed's models (`baseline-SEED`, `guided-SEED`), their fronts with their checkpoints,
    `results.json`, `table.md`, and of the first seed `front.png` (on validation) and `explanations.png`. An interrupted
    command goes on with the seed that it was at.

    Args:
        setting: Setting of the recipe.
        name: Its name; results go to `outputs/NAME` unless said otherwise.
        description: Text of `--help`.

    Returns:
        The content of `results.json`.
    """
    source, options, comparison, args = parse_guidance(
        setting, GuidanceOptions, GuidanceComparison, name, description, ("data", "model")
    )
    output, start = Path(args.output_dir), time.monotonic()
    results: dict[str, Any] = {}

    def run(seed: int) -> dict[str, Any]:
        set_seed(seed)
        data = load_splits(source, seed)
        model, processor = load_box_classifier(
            setting.smoke_model if source.smoke else options.model,
            options.model_init,
            data.names,
            options.image_size,
            options.model_weights,
        )
        data.train = keep_annotations(data.train, options.annotated, seed)
        data.show(*transforms(data, options.augment, processor))
        explainer = explainer_at(args, options.layer, model, processor)
        weights = {"baseline": 0.0, "guided": None} if comparison.compare else {"guided": None}
        trained = {}
        for variant, weight in weights.items():
            announce(args, f"Seed {seed}: training the {variant} model")
            trained[variant] = guide(
                model,
                explainer,
                AnnotationReference(options.guidance_loss, options.dilation, weight),
                replace_arguments(args, seed=seed, output_dir=str(output / "fronts" / f"{variant}-{seed}")),
                data,
                processor,
                options.select,
                options.tolerance,
            )
        fronts = [
            {"seed": seed, "side": variant, "chosen": each.chosen["step"], "front": each.front}
            for variant, each in trained.items()
        ]
        for variant, each in trained.items():
            each.trainer.save_model(str(output / f"{variant}-{seed}"))
        if seed == args.seed and args.process_index == 0:
            _plot_fronts(trained, output / "front.png")
            models = {variant.capitalize(): each.model for variant, each in trained.items()}
            draw_examples(models, dict.fromkeys(models, explainer), data, processor, comparison.pictures, output)
        figures = {variant: {"test": each.chosen["test"]} for variant, each in trained.items()}
        return {"figures": {"seed": seed, **figures}, "fronts": fronts}

    def write(done: list[dict[str, Any]]) -> None:
        results.update(collect_guidance(name, source, options, args, start, [each["figures"] for each in done]))
        results["fronts"] = [front for each in done for front in each["fronts"]]
        # What compares two models' maps says nothing here.
        for argument in ("explanation_loss", "explanation_target"):
            del results["arguments"][argument]
        save_results(results, output, args)

    with opened(source):
        stated = {"source": stated_source(source), **vars(options), "compare": comparison.compare}
        each_seed(args, comparison.seeds, stated, run, write)
    show_results(results, output, args)
    return results


def _plot_fronts(trained: Mapping[str, GuidedModel], path: Path) -> None:
    """Draw every evaluation on validation, those of each model's front solid."""
    points: list[dict[str, Any]] = []
    front, groups = [], []
    for variant, each in trained.items():
        kept = {point["step"] for point in each.front}
        front += [len(points) + row for row, point in enumerate(each.evaluations) if point["step"] in kept]
        groups += [variant] * len(each.evaluations)
        points += each.evaluations
    pareto_plot(points, front, SELECTED_BY[0], SELECTED_BY[1:], groups=groups, names=METRICS, path=path)
