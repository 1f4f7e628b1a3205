"""What a student keeps of its guided teacher's localisation (e²KD, Parchami-Araghi et al., ECCV 2024)."""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from transformers import set_seed

from ..alignment.labels import is_multi_label
from ..data import AnnotatedCollator
from ..explainers import Explainer
from ..references import AnnotationReference
from ..trainer import ExplanationDistillTrainer
from ..trainer.arguments import ExplanationDistillArguments
from .annotated import AnnotatedSplits, explainer_at, load_classifier, load_splits, opened
from .guidance import guide
from .guidance_setting import (
    GuidanceSetting,
    ViewOptions,
    collect_results,
    draw_examples,
    measure,
    parse,
    save_results,
    show_results,
    transforms,
)
from .models import load_teacher
from .side_by_side import Comparison
from .tasks import announce, training_arguments


@dataclass
class StudentOptions(ViewOptions):
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
    student_weights: str | None = field(
        default=None, metadata={"help": "File of published weights of a student bcos/NAME, .pth or .safetensors."}
    )


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
                teacher, teacher_processor = load_teacher(guided)
                if not is_multi_label(teacher):
                    raise ValueError(
                        f"The teacher '{guided}' chooses one class an image, and these images show several. Give a "
                        "multi-label one, as guide_voc.py and guide_coco.py train."
                    )
            student, processor = load_classifier(
                setting.smoke_student if source.smoke else options.student,
                options.student_init,
                data.names,
                options.image_size,
                options.student_weights,
            )
            explainers = {"Teacher": explainer_at(args, options.layer, teacher, teacher_processor)}
            data.show(*transforms(data, False, teacher_processor))
            announce(args, f"Seed {seed}: measuring the teacher")
            alone = _evaluator(teacher, explainers["Teacher"], args, data, teacher_processor)
            run: dict[str, Any] = {"seed": seed}
            run["teacher"] = {"validation": measure(alone, data, "validation"), "test": measure(alone, data)}
            data.show(*transforms(data, options.augment, processor, teacher_processor))
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
                run[arm] = {"validation": measure(trainer, data, "validation"), "test": measure(trainer, data)}
            runs.append(run)
            if seed == args.seed:
                for arm, trainer in trainers.items():
                    trainer.save_model(str(output / ("student" if arm == "e²KD" else f"student-{arm.lower()}")))
                if args.process_index == 0:
                    data.show(*transforms(data, False, processor, teacher_processor))
                    draw_examples(models, explainers, data, processor, comparison.pictures, output)
            results = collect_results(name, source, options, args, start, runs)
            save_results(results, output, args)
    show_results(results, output, args)
    return results


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


def _smoke_teacher(
    setting: GuidanceSetting, args: ExplanationDistillArguments, data: AnnotatedSplits, output: Path
) -> tuple[nn.Module, Any]:
    """A guided teacher of seconds."""
    model, processor = load_classifier(setting.smoke_model, "random", data.names, setting.smoke_size)
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
        training_arguments(args, **guiding),
        data,
        processor,
        "energy_pointing_game",
        0.02,
    )
    return guided.model, processor
