# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "..", editable = true }
# ///
"""Distil a ResNet into a smaller ResNet that looks where its teacher looks (GradCAM), beside plain distillation.

Without arguments: the embedded digits on textured backgrounds, in which the background predicts the class in the
student's training data and not at test. With --teacher, --student and --dataset: any image classifiers and images.
Several seeds: `hf-e2kd distill --demo resnet --seeds 3`.

    accelerate launch recipes/distill_resnet.py
    accelerate launch recipes/distill_resnet.py --explanation_weight 1 --pictures 0
    accelerate launch recipes/distill_resnet.py --teacher microsoft/resnet-50 \\
        --student microsoft/resnet-18 --dataset ILSVRC/imagenet-1k --output_dir outputs/imagenet
"""

import copy
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser, ResNetConfig, ResNetForImageClassification, ViTImageProcessor, set_seed

from hf_e2kd import ExplanationDistillArguments, ExplanationDistillTrainer
from hf_e2kd import experiments as ex
from hf_e2kd.architectures.sharding import whole
from hf_e2kd.data import DistillationTransform, digits_on_textures
from hf_e2kd.data.images import label_names, load_images
from hf_e2kd.hub.upload import create_repo
from hf_e2kd.trainer.preemption import last_checkpoint

DIGITS: dict[str, Any] = {
    **{"image_size": 36, "digit_size": 32, "wavelength": (3.0, 5.0), "contrast": 0.5, "correlation": 0.9},
    "sizes": {"teacher_train": 8000, "student_train": 2000, "validation": 0},
}
TEACHER = {"embedding_size": 16, "hidden_sizes": [16, 32]}
STUDENT = {"embedding_size": 8, "hidden_sizes": [8, 16]}
BOTH: dict[str, Any] = {"depths": [1, 1], "layer_type": "basic", "downsample_in_first_stage": False}

# Training arguments where the command line says nothing else: on the digits, and of pretrained models
ON_DIGITS = {
    **{"learning_rate": 4e-3, "num_train_epochs": 15, "per_device_train_batch_size": 32, "warmup_steps": 0.1},
    "explanation_weight": 5.0,
}
PRETRAINED = {"learning_rate": 1e-4, "num_train_epochs": 10, "per_device_train_batch_size": 64, "warmup_steps": 0.05}


@dataclass
class ScriptArguments:
    teacher: str | None = field(default=None, metadata={"help": "Hub id or folder of the teacher."})
    student: str | None = field(default=None, metadata={"help": "Hub id or folder of the student."})
    dataset: str | None = field(default=None, metadata={"help": "Hub id, folder saved by `datasets`, or of images."})
    train_split: str = field(default="train", metadata={"help": "Split to distil on."})
    eval_split: str = field(default="validation", metadata={"help": "Split to measure on; or a tenth of the other."})
    image_column: str = field(default="image", metadata={"help": "Column of the images."})
    label_column: str = field(default="label", metadata={"help": "Column of the labels; it may be missing."})
    augment: bool = field(default=False, metadata={"help": "Crop and flip the training images at random."})
    pictures: int = field(default=3, metadata={"help": "Images in the picture of the explanations; 0 draws none."})

    def __post_init__(self) -> None:
        given = [name for name in ("teacher", "student", "dataset") if getattr(self, name)]
        if 0 < len(given) < 3:
            raise ValueError(f"--teacher, --student and --dataset belong together; given: --{', --'.join(given)}.")


def main() -> dict[str, Any]:
    given = ex.command_line(ScriptArguments, ExplanationDistillArguments)
    parser = HfArgumentParser((ScriptArguments, ExplanationDistillArguments), description=__doc__, allow_abbrev=False)
    parser.set_defaults(output_dir="outputs/distill_resnet", weight_decay=0.05, per_device_eval_batch_size=64)
    parser.set_defaults(lr_scheduler_type="cosine", logging_strategy="epoch", save_strategy="no", report_to="none")
    parser.set_defaults(explainer="gradcam")
    # A transform makes the batches, from columns that no model's forward takes.
    parser.set_defaults(remove_unused_columns=False)
    parser.set_defaults(**ex.surroundings())
    parser.set_defaults(**(PRETRAINED if any(word.startswith("--dataset") for word in given) else ON_DIGITS))
    try:
        script, args = parser.parse_args_into_dataclasses(given)
    except ValueError as error:
        parser.error(str(error))
    output, start = Path(args.output_dir), time.monotonic()
    repo_id = create_repo(args) if args.push_to_hub else None
    set_seed(args.seed)

    # Data and models
    if script.dataset is None:
        ex.use_one_thread()
        splits = digits_on_textures(seed=args.seed, **DIGITS)
        train = splits["student_train"]
        evaluations = {"in_distribution": splits["test_id"], "out_of_distribution": splits["test_ood"]}
        # The stem halves twice and the second stage once more: 72 pixels leave a grid of 9×9 cells.
        processor = ViTImageProcessor(size={"height": 72, "width": 72}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
        transform = training_transform = DistillationTransform(processor)
        labels = ex.label_settings(label_names(train), 10)
        teacher = ResNetForImageClassification(ResNetConfig(**TEACHER, **BOTH, **labels))
        student = ResNetForImageClassification(ResNetConfig(**STUDENT, **BOTH, **labels))
        # The backgrounds of the teacher's own data say nothing of the class.
        splits["teacher_train"].set_transform(transform)
        teacher_args = ex.replace_arguments(args, num_train_epochs=2)
        teacher = ex.train_on_labels(teacher, teacher_args, splits["teacher_train"], processor)
        if args.process_index == 0:
            teacher.save_pretrained(output / "teacher")
            processor.save_pretrained(output / "teacher")
    else:
        train, evaluation = load_images(script.dataset, script.train_split, script.eval_split, script.image_column)
        evaluations = {"evaluation": evaluation}
        teacher, teacher_processor = ex.load_teacher(script.teacher)
        student = ex.create_student(script.student, "pretrained", label_names(train, script.label_column), teacher)
        processor = ex.load_processor(script.student, student.config)
        columns = {"image_column": script.image_column, "label_column": script.label_column}
        augmentation = ex.crop_and_flip(processor, teacher_processor) if script.augment else None
        transform = DistillationTransform(processor, teacher_processor, **columns)
        training_transform = DistillationTransform(processor, teacher_processor, augmentation, **columns)
    train.set_transform(training_transform)
    for data in evaluations.values():
        data.set_transform(transform)

    # Plain distillation and e²KD, from the same initial weights on the same batches
    run: dict[str, Any] = {"seed": args.seed, "teacher": {}}
    students = {}
    for name, weight in {"KD": 0.0, "e²KD": args.explanation_weight}.items():
        folder = output / ("student" if name == "e²KD" else "student-kd")
        own = {"explanation_weight": weight, "output_dir": str(folder), "push_to_hub": False, "hub_model_id": repo_id}
        trainer = ExplanationDistillTrainer(
            copy.deepcopy(student),
            ex.replace_arguments(args, **own),
            train_dataset=train,
            eval_dataset=evaluations,
            processing_class=processor,
            teacher_model=teacher,
        )
        # With --save_strategy epoch, --resume_from_checkpoint true goes on from each student's last checkpoint.
        trainer.train(resume_from_checkpoint=last_checkpoint(folder) if args.resume_from_checkpoint else None)
        run[name] = {}
        for split, data in evaluations.items():
            metrics = trainer.evaluate(data, metric_key_prefix=split)
            run["teacher"][split] = ex.measured_metrics(metrics, f"{split}_teacher_")
            run[name][split] = ex.measured_metrics(metrics, f"{split}_")
        trainer.save_model()
        students[name] = whole(trainer.student)

    # The e²KD student, which the last trainer holds, with its picture and its card
    picture = "explanations.png" if script.pictures else None
    if picture and trainer.is_world_process_zero():
        shown = list(evaluations.values())[-1]
        ex.draw_explanations(teacher, students, shown, transform, trainer.explainer, script.pictures, folder / picture)
    known = ("digits_on_textures", {"seed": args.seed, **DIGITS}, "cc-by-4.0")
    measured_on = None if script.dataset else ex.generated_data(*known, split="test_ood")
    record = trainer.measure_fidelity(seed=args.seed, compared={"plain KD": students["KD"]}, data=measured_on)
    if script.dataset is None:
        # Where the teacher lies, which `hf-e2kd fidelity --verify` is given by --teacher.
        training = replace(record.training, data=ex.generated_data(*known, split="student_train"))
        record = replace(record, teacher=replace(record.teacher, path="../teacher"), training=training)
    if args.push_to_hub:
        trainer.push_to_hub(fidelity=record, picture=picture)
    else:
        trainer.create_model_card(fidelity=record, picture=picture, model_name=output.name)
    results = ex.collect_results(args, [run], start, recipe="distill_resnet", sources=vars(script))
    if trainer.is_world_process_zero():
        ex.write_results(results, output)
        print(f"\n{ex.markdown_table(results['summary'])}\n\nIn {output}: student, student-kd, results.json")
    return results


if __name__ == "__main__":
    ex.run_recipe(main)
