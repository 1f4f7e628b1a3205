# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "..", editable = true }
# ///
"""Distil from a teacher that is asked once: its logits and maps are stored, and follow the augmentation of the images.

Without arguments: ResNets on the embedded digits on textured backgrounds, in which the background predicts the class in
the student's training data and not at test. With --teacher, --student and --dataset: any image classifiers and images.
A store that is there already is used again.

    accelerate launch recipes/distill_stored.py
    accelerate launch recipes/distill_stored.py --teacher microsoft/resnet-50 --student microsoft/resnet-18 \\
        --dataset ILSVRC/imagenet-1k --output_dir outputs/imagenet
"""

import copy
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchvision.transforms import v2
from transformers import HfArgumentParser, ResNetConfig, ResNetForImageClassification, ViTImageProcessor, set_seed

from hf_e2kd import ExplanationDistillArguments, ExplanationDistillTrainer, StoredReference
from hf_e2kd import experiments as ex
from hf_e2kd.alignment.inputs import image_view
from hf_e2kd.architectures.sharding import whole
from hf_e2kd.data import DistillationTransform, JointAugment, digits_on_textures
from hf_e2kd.data.images import label_names, load_images
from hf_e2kd.hub.upload import create_repo

DIGITS: dict[str, Any] = {
    **{"image_size": 36, "digit_size": 32, "wavelength": (3.0, 5.0), "contrast": 0.5, "correlation": 0.9},
    "sizes": {"teacher_train": 8000, "student_train": 2000, "validation": 0},
}
TEACHER = {"embedding_size": 16, "hidden_sizes": [16, 32]}
STUDENT = {"embedding_size": 8, "hidden_sizes": [8, 16]}
BOTH: dict[str, Any] = {"depths": [1, 1], "layer_type": "basic", "downsample_in_first_stage": False}

# Training arguments where the command line says nothing else: on the digits, and of pretrained models
ON_DIGITS = {"learning_rate": 4e-3, "num_train_epochs": 15, "per_device_train_batch_size": 32, "warmup_steps": 0.1}
PRETRAINED = {"learning_rate": 1e-4, "num_train_epochs": 10, "per_device_train_batch_size": 64, "warmup_steps": 0.05}


@dataclass
class ScriptArguments:
    teacher: str | None = field(default=None, metadata={"help": "Hub id or folder of the teacher."})
    student: str | None = field(default=None, metadata={"help": "Hub id or folder of the student."})
    dataset: str | None = field(default=None, metadata={"help": "Hub id, folder saved by `datasets`, or of images."})
    student_init: str = field(
        default="pretrained",
        metadata={"help": "random: new weights, also of timm/NAME or .json.", "choices": ["pretrained", "random"]},
    )
    train_split: str = field(default="train", metadata={"help": "Split to distil on."})
    eval_split: str = field(default="validation", metadata={"help": "Split to measure on; or a tenth of the other."})
    augment: bool = field(default=True, metadata={"help": "Crop, flip and colour the training images at random."})
    store: str | None = field(default=None, metadata={"help": "Folder of the stores; OUTPUT_DIR/store."})
    pictures: int = field(default=3, metadata={"help": "0 draws no picture of the explanations on the card."})

    def __post_init__(self) -> None:
        given = [name for name in ("teacher", "student", "dataset") if getattr(self, name)]
        if 0 < len(given) < 3:
            raise ValueError(f"--teacher, --student and --dataset belong together; given: --{', --'.join(given)}.")


def main() -> dict[str, Any]:
    given = ex.command_line(ScriptArguments, ExplanationDistillArguments)
    parser = HfArgumentParser((ScriptArguments, ExplanationDistillArguments), description=__doc__, allow_abbrev=False)
    parser.set_defaults(output_dir="outputs/distill_stored", explanation_weight=5.0, weight_decay=0.05)
    parser.set_defaults(lr_scheduler_type="cosine", logging_strategy="epoch", save_strategy="no", report_to="none")
    parser.set_defaults(explainer="gradcam")
    # A transform makes the batches, from columns that no model's forward takes.
    parser.set_defaults(remove_unused_columns=False, per_device_eval_batch_size=64)
    parser.set_defaults(**ex.surroundings())
    parser.set_defaults(**(PRETRAINED if any(word.startswith("--dataset") for word in given) else ON_DIGITS))
    try:
        script, args = parser.parse_args_into_dataclasses(given)
    except ValueError as error:
        parser.error(str(error))
    output, start = Path(args.output_dir), time.monotonic()
    repo_id = create_repo(args) if args.push_to_hub else None
    if args.resume_from_checkpoint:
        parser.error("two models are trained one after the other, and neither of them is resumed: start anew.")
    set_seed(args.seed)

    # Data and models
    if script.dataset is None:
        ex.use_one_thread()
        splits = digits_on_textures(seed=args.seed, **DIGITS)
        train = splits["student_train"]
        evaluations = {"in_distribution": splits["test_id"], "out_of_distribution": splits["test_ood"]}
        # The stem halves twice and the second stage once more: 72 pixels leave a grid of 9×9 cells.
        processor = ViTImageProcessor(size={"height": 72, "width": 72}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
        teacher_processor = processor
        labels = ex.label_settings(label_names(train), 10)
        teacher = ResNetForImageClassification(ResNetConfig(**TEACHER, **BOTH, **labels))
        student = ResNetForImageClassification(ResNetConfig(**STUDENT, **BOTH, **labels))
        # The backgrounds of the teacher's own data say nothing of the class.
        teacher_data = splits["teacher_train"].with_transform(DistillationTransform(processor))
        teacher = ex.train_on_labels(teacher, ex.replace_arguments(args, num_train_epochs=2), teacher_data, processor)
        # No flips: a digit's mirror image is another one or none.
        crop: list[v2.Transform] = [v2.RandomResizedCrop(72, scale=(0.7, 1.0), ratio=(0.9, 1.1))]
    else:
        train, evaluation = load_images(script.dataset, script.train_split, script.eval_split)
        evaluations = {"evaluation": evaluation}
        teacher, teacher_processor = ex.load_teacher(script.teacher)
        student = ex.create_student(script.student, script.student_init, label_names(train), teacher)
        # A student that starts anew has no processor of its own: it sees what the teacher sees.
        processor = (
            ex.processor_like(image_view(teacher_processor), student)
            if script.student_init == "random"
            else ex.load_processor(script.student, student.config)
        )
        crop = [ex.crop_and_flip(processor, teacher_processor), JointAugment(v2.RandAugment())]

    # The teacher, asked once about each image as it is
    stores = Path(script.store or output / "store")
    for name, data in {"train": train, **evaluations}.items():
        StoredReference.build(
            teacher,
            data,
            stores / name,
            explainer=ex.explainer_of(args),
            target=args.explanation_target,
            processing_class=teacher_processor,
            batch_size=args.per_device_eval_batch_size,
        )
    reference = StoredReference(stores / "train")
    # Crops and flips move the stored maps with the images, and a change of colours leaves them where they are.
    augmentation = v2.Compose([*crop, v2.ColorJitter(brightness=0.3)]) if script.augment else None
    augmented = DistillationTransform(processor, augmentation=augmentation, record_view=True)
    plain = DistillationTransform(processor)
    train = reference.attach(train.with_transform(augmented))
    evaluations = {
        name: reference.attach(data.with_transform(plain), folder=stores / name) for name, data in evaluations.items()
    }

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
            references={"teacher": reference},
        )
        trainer.train()
        run[name] = {}
        for split, data in evaluations.items():
            metrics = trainer.evaluate(data, metric_key_prefix=split)
            run["teacher"][split] = ex.measured_metrics(metrics, f"{split}_teacher_")
            run[name][split] = ex.measured_metrics(metrics, f"{split}_")
        trainer.save_model()
        students[name] = whole(trainer.student)

    # The e²KD student, which the last trainer holds, with its card
    record = trainer.measure_fidelity(seed=args.seed, compared={"plain KD": students["KD"]})
    # A picture is drawn where the record isn't given.
    card = {} if script.pictures else {"fidelity": record}
    if args.push_to_hub:
        trainer.push_to_hub(**card)
    else:
        trainer.create_model_card(model_name=output.name, **card)
    results = ex.collect_results(args, [run], start, recipe="distill_stored", sources=vars(script))
    if trainer.is_world_process_zero():
        ex.write_results(results, output)
        print(f"\n{ex.markdown_table(results['summary'])}\n\nIn {output}: store, student, student-kd, results.json")
    return results


if __name__ == "__main__":
    ex.run_recipe(main)
