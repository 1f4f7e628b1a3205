"""Distillation of guided teachers: how much of their localisation students keep (e²KD, ECCV 2024)."""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _annotated import AnnotatedSplits, explainer_at, load_box_classifier, load_splits, opened
from _common import channels_last
from _guidance import (
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
from _guide import guide
from torch import nn
from transformers import set_seed

from hf_e2kd.alignment.labels import is_multi_label
from hf_e2kd.data import AnnotatedCollator
from hf_e2kd.experiments import Comparison
from hf_e2kd.experiments.distillation import LABELS_ALONE, announce, replace_arguments
from hf_e2kd.experiments.models import load_teacher
from hf_e2kd.explainers import Explainer
from hf_e2kd.references import AnnotationReference
from hf_e2kd.store.key import weights_digest
from hf_e2kd.trainer import ExplanationDistillTrainer
from hf_e2kd.trainer.arguments import ExplanationDistillArguments


@dataclass
class StudentOptions(ViewOptions):
    """Options of teacher and student."""

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
    labels: bool = field(default=False, metadata={"help": "Train a student on the labels alone, too."})
    student_weights: str | None = field(
        default=None, metadata={"help": "File of published weights of a student bcos/NAME, .pth or .safetensors."}
    )


def run_guided_distillation(setting: GuidanceSetting, name: str, description: str) -> dict[str, Any]:
    """Distil a guided teacher by KD and by e²KD, and measure how much localisation is left.

    Into `--output_dir` go the first seed's students (`student` and `student-kd`), `results.json`, `table.md` and
    `explanations.png`. With `--smoke` the teacher is guided first. An interrupted command goes on with the seed that it
    was at.

    Args:
        setting: Setting of the recipe.
        name: Its name; results go to `outputs/NAME` unless said otherwise.
        description: Text of `--help`.

    Returns:
        The content of `results.json`.
    """
    source, options, comparison, args = parse_guidance(
        setting, StudentOptions, Comparison, name, description, ("data", "teacher", "student")
    )
    output, start = Path(args.output_dir), time.monotonic()
    variants: dict[str, Mapping[str, Any]] = {
        **({"labels": LABELS_ALONE} if options.labels else {}),
        **({"KD": {"explanation_weight": 0.0}} if comparison.compare else {}),
        "e²KD": {},
    }
    results: dict[str, Any] = {}

    def guided(seed: int) -> str:
        return options.teacher.replace("{seed}", str(seed))

    def taught_by(seed: int) -> str | None:
        return None if source.smoke else weights_digest(load_teacher(guided(seed))[0])

    def run(seed: int) -> dict[str, Any]:
        set_seed(seed)
        data = load_splits(source, seed)
        if source.smoke:
            teacher, teacher_processor = _smoke_teacher(setting, args, data, output)
        else:
            teacher, teacher_processor = load_teacher(guided(seed))
            teacher = channels_last(teacher)
            if not is_multi_label(teacher):
                raise ValueError(
                    f"The teacher '{guided(seed)}' chooses one class an image, and these images show several. Give a "
                    "multi-label one, as guide_voc.py and guide_coco.py train."
                )
        student, processor = load_box_classifier(
            setting.smoke_student if source.smoke else options.student,
            options.student_init,
            data.names,
            options.image_size,
            options.student_weights,
        )
        explainers = {"Teacher": explainer_at(args, options.layer, teacher, teacher_processor)}
        data.show(*transforms(data, False, teacher_processor))
        announce(args, f"Seed {seed}: measuring the teacher")
        alone = _measuring(teacher, explainers["Teacher"], args, data, teacher_processor)
        figures: dict[str, Any] = {"seed": seed}
        figures["teacher"] = {
            "validation": measure_split(alone, data, "validation"),
            "test": measure_split(alone, data),
        }
        data.show(*transforms(data, options.augment, processor, teacher_processor))
        models: dict[str, nn.Module] = {"Teacher": teacher}
        trainers = {}
        for variant, changes in variants.items():
            announce(args, f"Seed {seed}: distilling the {variant} student")
            explainers[variant] = explainer_at(args, options.layer, student, processor)
            trainer = trainers[variant] = ExplanationDistillTrainer(
                copy.deepcopy(student),
                replace_arguments(args, seed=seed, **{**changes, "evaluate_explanations": args.evaluate_explanations}),
                train_dataset=data.train,
                eval_dataset=data.validation,
                processing_class=processor,
                data_collator=AnnotatedCollator(),
                teacher_model=teacher,
                explainer=explainers[variant],
                teacher_explainer=explainers["Teacher"],
            )
            trainer.train()
            models[variant] = trainer.student
            figures[variant] = {
                "validation": measure_split(trainer, data, "validation"),
                "test": measure_split(trainer, data),
            }
        if seed == args.seed:
            for variant, trainer in trainers.items():
                trainer.save_model(str(output / ("student" if variant == "e²KD" else f"student-{variant.lower()}")))
            if args.process_index == 0:
                data.show(*transforms(data, False, processor, teacher_processor))
                draw_examples(models, explainers, data, processor, comparison.pictures, output)
        return figures

    def write(done: list[dict[str, Any]]) -> None:
        results.update(collect_guidance(name, source, options, args, start, done))
        save_results(results, output, args)

    with opened(source):
        stated = {"source": stated_source(source), **vars(options), "compare": comparison.compare}
        each_seed(args, comparison.seeds, stated, run, write, taught_by)
    show_results(results, output, args)
    return results


def _measuring(
    model: nn.Module, explainer: Explainer, args: ExplanationDistillArguments, data: AnnotatedSplits, processor: Any
) -> ExplanationDistillTrainer:
    """Make a trainer that measures a copy of a model on its own."""
    return ExplanationDistillTrainer(
        copy.deepcopy(model),
        replace_arguments(args, logits_weight=0.0, explanation_weight=0.0, task_weight=1.0),
        eval_dataset=data.validation,
        processing_class=processor,
        data_collator=AnnotatedCollator(),
        references={"boxes": AnnotationReference(explanation_weight=0.0)},
        explainer=explainer,
    )


def _smoke_teacher(
    setting: GuidanceSetting, args: ExplanationDistillArguments, data: AnnotatedSplits, output: Path
) -> tuple[nn.Module, Any]:
    """Guide a teacher in seconds."""
    model, processor = load_box_classifier(setting.smoke_model, "random", data.names, setting.smoke_size)
    data.show(*transforms(data, False, processor))
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
        replace_arguments(args, **guiding),
        data,
        processor,
        "energy_pointing_game",
        0.02,
    )
    return guided.model, processor
