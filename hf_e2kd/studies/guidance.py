"""Model guidance (Rao et al., ICCV 2023) and what a student keeps of it (e²KD, Parchami-Araghi et al., ECCV 2024)."""

import argparse
import copy
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    HfArgumentParser,
    PreTrainedConfig,
    set_seed,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..alignment.inputs import image_view
from ..arguments import ExplanationDistillArguments
from ..callbacks import ParetoCheckpoints
from ..cards.fronts import pareto_figure
from ..checkpoints import load_weights
from ..data import AnnotatedCollator, DistillationTransform, keep_annotations
from ..explainers import Explainer
from ..losses import available_guidance_losses
from ..references import AnnotationReference
from ..trainer import ExplanationDistillTrainer
from .annotated import (
    AnnotatedSource,
    AnnotatedSplits,
    draw,
    explainer_at,
    flip,
    load_classifier,
    load_splits,
    opened,
)
from .results import markdown_table, summarise
from .side_by_side import COMMON_TRAINING, Comparison
from .tasks import announce, training_arguments

METRICS = {
    "f1": "F1",
    "map": "mAP",
    "agreement": "agreement",
    "explanation_similarity": "similarity",
    "energy_pointing_game": "EPG",
    "localization_iou": "IoU",
}
"""What is reported, as far as it was measured."""

SELECTED_BY = ["f1", "energy_pointing_game", "localization_iou"]

TRAINING = {
    **COMMON_TRAINING,
    "remove_unused_columns": False,
    "optim": "adamw_torch",
    "learning_rate": 1e-4,
    "save_only_model": True,
}


@dataclass
class GuidanceOptions:
    """How a model is guided; λ is `--explanation_weight`, the paper's times its batch size."""

    model: str | None = field(
        default=None, metadata={"help": "Hub id or folder; for a random start also timm/NAME or .json."}
    )
    model_init: str = field(
        default="pretrained", metadata={"help": "Keep its weights, or not.", "choices": ["pretrained", "random"]}
    )
    image_size: int | None = field(default=None, metadata={"help": "Side of the input in pixels; the model's own."})
    augment: bool = field(default=False, metadata={"help": "Flip the training images at random."})
    guidance_loss: str = field(
        default="energy", metadata={"help": "How maps are held in boxes.", "choices": available_guidance_losses()}
    )
    layer: str | None = field(
        default=None, metadata={"help": "Depth of the maps: input, mid, final, or a layer's path; the explainer's own."}
    )
    annotated: float = field(default=1.0, metadata={"help": "Share of the training images whose boxes are used."})
    dilation: float = field(default=0.0, metadata={"help": "Boxes are larger by this share on each side in training."})
    select: str = field(
        default="energy_pointing_game",
        metadata={"help": "What decides among the models of the front.", "choices": SELECTED_BY},
    )
    tolerance: float = field(default=0.02, metadata={"help": "F1 that the chosen model may lack to the front's best."})


@dataclass
class GuidanceComparison(Comparison):
    """What is trained beside the guided model."""

    compare: bool = field(default=True, metadata={"help": "Train an unguided model beside the guided one."})


@dataclass
class StudentOptions:
    """What is distilled from a guided teacher."""

    teacher: str | None = field(
        default=None,
        metadata={"help": "Folder of a guided model, or Hub id; {seed} in it stands for the seed, as guided-{seed}."},
    )
    student: str | None = field(
        default=None, metadata={"help": "Hub id or folder; for a random start also timm/NAME or .json."}
    )
    student_init: str = field(
        default="pretrained", metadata={"help": "Keep its weights, or not.", "choices": ["pretrained", "random"]}
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Side of the student's input in pixels; the model's own."}
    )
    augment: bool = field(default=False, metadata={"help": "Flip the training images at random."})
    layer: str | None = field(
        default=None, metadata={"help": "Depth of the maps: input, mid, final, or a layer's path; the explainer's own."}
    )


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


@dataclass
class GuidedModel:
    """A trained model of the front.

    Args:
        model: The one that was chosen.
        trainer: Holds it.
        evaluations: The measures on validation after each epoch, with the `step`.
        front: The evaluations on the front, each with its `test` figures.
        chosen: The one of them.
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
) -> GuidedModel:
    """Trains a copy of a model, keeps the front over F1, EPG and IoU on validation, and tests all of its models.

    Args:
        reference: With `explanation_weight=0` the boxes are measured by and not learnt from.
        select, tolerance: See `choose`.
    """
    pareto = ParetoCheckpoints(SELECTED_BY)
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

    front: list[dict[str, Any]] = []
    for point in pareto.front:
        load(point)
        front.append({**point, "test": _measures(trainer, data)})
    chosen = choose(front, select, tolerance)
    load(chosen)
    return GuidedModel(trainer.student, trainer, pareto.points, front, chosen)


def choose(front: Sequence[Mapping[str, Any]], select: str, tolerance: float) -> Any:
    """The model of a front that is best in one measure, among those whose F1 is near the front's best.

    Example:
        >>> front = [{"f1": 0.70, "epg": 0.50}, {"f1": 0.69, "epg": 0.55}, {"f1": 0.40, "epg": 0.90}]
        >>> choose(front, "epg", tolerance=0.02)
        {'f1': 0.69, 'epg': 0.55}
    """
    best = max(point["f1"] for point in front)
    return max((point for point in front if point["f1"] >= best - tolerance), key=lambda point: point[select])


def run_guidance(setting: GuidanceSetting, name: str, description: str) -> dict[str, Any]:
    """A whole recipe: trains an unguided and a guided model, selects on validation, measures on the test split.

    Into `--output_dir` go each seed's models (`baseline-SEED`, `guided-SEED`), their fronts with their checkpoints,
    `results.json`, `table.md`, and of the first seed `front.png` (on validation) and `explanations.png`.

    Args:
        setting: The recipe.
        name: Its name; results go to `outputs/NAME` unless said otherwise.
        description: Shown by `--help`.

    Returns:
        What `results.json` holds.
    """
    source, options, comparison, args = parse(
        setting, GuidanceOptions, GuidanceComparison, name, description, ("data", "model")
    )
    output, start = Path(args.output_dir), time.monotonic()
    runs: list[dict[str, Any]] = []
    fronts: list[dict[str, Any]] = []
    with opened(source):
        for seed in range(args.seed, args.seed + comparison.seeds):
            set_seed(seed)
            data = load_splits(source, seed)
            model, processor = load_classifier(
                setting.smoke_model if source.smoke else options.model,
                options.model_init,
                data.names,
                options.image_size,
            )
            data.train = keep_annotations(data.train, options.annotated, seed)
            data.show(*_transforms(data, options.augment, processor))
            explainer = explainer_at(args, options.layer, model, processor)
            weights = {"baseline": 0.0, "guided": None} if comparison.compare else {"guided": None}
            trained = {}
            for arm, weight in weights.items():
                announce(args, f"Seed {seed}: training the {arm} model")
                trained[arm] = guide(
                    model,
                    explainer,
                    AnnotationReference(options.guidance_loss, options.dilation, weight),
                    training_arguments(args, seed=seed, output_dir=str(output / "fronts" / f"{arm}-{seed}")),
                    data,
                    processor,
                    options.select,
                    options.tolerance,
                )
            runs.append({"seed": seed, **{arm: {"test": each.chosen["test"]} for arm, each in trained.items()}})
            fronts += [
                {"seed": seed, "side": arm, "chosen": each.chosen["step"], "front": each.front}
                for arm, each in trained.items()
            ]
            for arm, each in trained.items():
                each.trainer.save_model(str(output / f"{arm}-{seed}"))
            if seed == args.seed and args.process_index == 0:
                _plot_fronts(trained, output / "front.png")
                models = {arm.capitalize(): each.model for arm, each in trained.items()}
                _picture(models, dict.fromkeys(models, explainer), data, processor, comparison.pictures, output)
            results = _results(name, source, options, args, start, runs) | {"fronts": fronts}
            _write(results, output, args)
    _tell(results, output, args)
    return results


def run_guided_distillation(setting: GuidanceSetting, name: str, description: str) -> dict[str, Any]:
    """A whole recipe: distils a guided teacher by KD and by e²KD, and measures what localisation is left.

    Into `--output_dir` go the first seed's students (`student` and `student-kd`), `results.json`, `table.md` and
    `explanations.png`. With `--smoke` the teacher is guided first.

    Args:
        setting: The recipe.
        name: Its name; results go to `outputs/NAME` unless said otherwise.
        description: Shown by `--help`.

    Returns:
        What `results.json` holds.
    """
    source, options, comparison, args = parse(
        setting, StudentOptions, Comparison, name, description, ("data", "teacher", "student")
    )
    output, start = Path(args.output_dir), time.monotonic()
    arms: dict[str, Mapping[str, Any]] = {
        **({"KD": {"explanation_weight": 0.0}} if comparison.compare else {}),
        "e²KD": {},
    }
    runs: list[dict[str, Any]] = []
    with opened(source):
        for seed in range(args.seed, args.seed + comparison.seeds):
            set_seed(seed)
            data = load_splits(source, seed)
            if source.smoke:
                teacher, teacher_processor = _smoke_teacher(setting, args, data, output)
            else:
                guided = options.teacher.replace("{seed}", str(seed))
                teacher = AutoModelForImageClassification.from_pretrained(guided)
                teacher_processor = AutoImageProcessor.from_pretrained(guided)
            student, processor = load_classifier(
                setting.smoke_student if source.smoke else options.student,
                options.student_init,
                data.names,
                options.image_size,
            )
            data.show(*_transforms(data, options.augment, processor, teacher_processor))
            explainers = {"Teacher": explainer_at(args, options.layer, teacher, teacher_processor)}
            run: dict[str, Any] = {"seed": seed}
            models: dict[str, nn.Module] = {"Teacher": teacher}
            trainers = {}
            for arm, changes in arms.items():
                announce(args, f"Seed {seed}: distilling the {arm} student")
                explainers[arm] = explainer_at(args, options.layer, student, processor)
                trainer = trainers[arm] = ExplanationDistillTrainer(
                    copy.deepcopy(student),
                    training_arguments(args, seed=seed, **changes),
                    train_dataset=data.train,
                    eval_dataset=data.validation,
                    processing_class=processor,
                    data_collator=AnnotatedCollator(),
                    teacher_model=teacher,
                    explainer=explainers[arm],
                    teacher_explainer=explainers["Teacher"],
                )
                trainer.train()
                models[arm] = trainer.student
                run[arm] = {"validation": _measures(trainer, data, "validation"), "test": _measures(trainer, data)}
            data.show(*_transforms(data, False, teacher_processor))
            alone = _evaluator(teacher, explainers["Teacher"], args, data, teacher_processor)
            run["teacher"] = {"validation": _measures(alone, data, "validation"), "test": _measures(alone, data)}
            runs.append(run)
            if seed == args.seed:
                for arm, trainer in trainers.items():
                    trainer.save_model(str(output / ("student" if arm == "e²KD" else f"student-{arm.lower()}")))
                if args.process_index == 0:
                    data.show(*_transforms(data, False, processor, teacher_processor))
                    _picture(models, explainers, data, processor, comparison.pictures, output)
            results = _results(name, source, options, args, start, runs)
            _write(results, output, args)
    _tell(results, output, args)
    return results


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
    return source, asked, compared, args


def _transforms(
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


def _evaluator(
    model: nn.Module, explainer: Explainer, args: ExplanationDistillArguments, data: AnnotatedSplits, processor: Any
) -> ExplanationDistillTrainer:
    """A trainer that measures a copy of a model on its own."""
    return ExplanationDistillTrainer(
        copy.deepcopy(model),
        training_arguments(args, logits_weight=0.0, explanation_weight=0.0, task_weight=1.0),
        eval_dataset=data.validation,
        processing_class=processor,
        data_collator=AnnotatedCollator(),
        references={"boxes": AnnotationReference(explanation_weight=0.0)},
        explainer=explainer,
    )


def _measures(trainer: ExplanationDistillTrainer, data: AnnotatedSplits, split: str = "test") -> dict[str, float]:
    measured = trainer.evaluate(getattr(data, split), metric_key_prefix=split)
    return {name: measured[f"{split}_{name}"] for name in METRICS if f"{split}_{name}" in measured}


def _smoke_teacher(
    setting: GuidanceSetting, args: ExplanationDistillArguments, data: AnnotatedSplits, output: Path
) -> tuple[nn.Module, Any]:
    """A guided teacher of seconds."""
    model, processor = load_classifier(setting.smoke_model, "random", data.names, setting.smoke_size)
    data.show(*_transforms(data, False, processor))
    guiding = {
        "task_weight": 1.0,
        "logits_weight": 0.0,
        "eval_strategy": "epoch",
        "output_dir": str(output / "teacher"),
    }
    announce(args, "Guiding the teacher")
    guided = guide(
        model,
        explainer_at(args, None, model, processor),
        AnnotationReference(),
        training_arguments(args, **guiding),
        data,
        processor,
        "energy_pointing_game",
        0.02,
    )
    return guided.model, processor


def _picture(
    models: Mapping[str, nn.Module],
    explainers: Mapping[str, Explainer],
    data: AnnotatedSplits,
    processor: Any,
    count: int,
    output: Path,
) -> None:
    if count:
        view = image_view(processor)
        draw(models, explainers, data.test, view, data.names, count, output / "explanations.png")


def _plot_fronts(trained: Mapping[str, GuidedModel], path: Path) -> None:
    """Every evaluation on validation, those of each model's front solid."""
    points: list[dict[str, Any]] = []
    front, groups = [], []
    for arm, each in trained.items():
        kept = {point["step"] for point in each.front}
        front += [len(points) + row for row, point in enumerate(each.evaluations) if point["step"] in kept]
        groups += [arm] * len(each.evaluations)
        points += each.evaluations
    pareto_figure(points, front, SELECTED_BY[0], SELECTED_BY[1:], groups=groups, names=METRICS, path=path)


_RECORDED = (
    *("explainer", "explainer_options", "explanation_weight", "explanation_loss", "explanation_target"),
    *("task_weight", "logits_weight", "temperature", "num_train_epochs", "max_steps", "learning_rate", "weight_decay"),
    *("seed", "per_device_train_batch_size", "gradient_accumulation_steps", "max_grad_norm", "bf16", "fp16"),
)


def _results(
    name: str, source: Any, options: Any, args: ExplanationDistillArguments, start: float, runs: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "recipe": name,
        "source": "drawn shapes" if source.smoke else vars(source),
        "options": vars(options),
        "arguments": {key: getattr(args, key) for key in _RECORDED},
        "device": torch.cuda.get_device_name() if args.device.type == "cuda" else args.device.type,
        "torch": torch.__version__,
        "seconds": round(time.monotonic() - start),
        "summary": summarise(runs),
        "runs": runs,
    }


def _write(results: Mapping[str, Any], output: Path, args: ExplanationDistillArguments) -> None:
    if args.process_index == 0:
        (output / "results.json").write_text(json.dumps(results, indent=2, ensure_ascii=False), encoding="utf-8")
        (output / "table.md").write_text(f"{markdown_table(results['summary'], METRICS)}\n", encoding="utf-8")


def _tell(results: Mapping[str, Any], output: Path, args: ExplanationDistillArguments) -> None:
    if args.process_index == 0:
        print(f"\n{markdown_table(results['summary'], METRICS)}\n")
        print(f"In {output}: {', '.join(sorted(path.name for path in output.iterdir()))}")
