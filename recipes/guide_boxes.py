# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "..", editable = true }
# ///
"""Guide a classifier to look into boxes that annotate its training images (model guidance), beside an unguided one.

Without arguments: a ResNet on the embedded digits on textured backgrounds, with boxes around the digits; the background
predicts the class in the training data and not at test. With --model and --dataset: any image classifier, and images
with a column `boxes` of lists of x0, y0, x1, y1 in pixels. For several labels an image see papers/guide_voc.py.

    accelerate launch recipes/guide_boxes.py
    accelerate launch recipes/guide_boxes.py --guidance_loss l1 --explanation_weight 0.5
    accelerate launch recipes/guide_boxes.py --model microsoft/resnet-18 --dataset MY_BOXES --output_dir outputs/guided
"""

import copy
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torchvision.ops import masks_to_boxes
from torchvision.transforms.functional import pil_to_tensor
from transformers import HfArgumentParser, ResNetConfig, ResNetForImageClassification, ViTImageProcessor, set_seed

from hf_e2kd import (
    AnnotationReference,
    ExplanationDistillArguments,
    ExplanationDistillTrainer,
    available_guidance_losses,
)
from hf_e2kd import experiments as ex
from hf_e2kd.data import AnnotatedCollator, DistillationTransform, digits_on_textures
from hf_e2kd.data.images import label_names, load_images
from hf_e2kd.hub.upload import create_repo

DIGITS: dict[str, Any] = {
    **{"image_size": 36, "digit_size": 20, "wavelength": (3.0, 5.0), "contrast": 0.5, "correlation": 0.9},
    "sizes": {"teacher_train": 0, "student_train": 2000, "validation": 0},
}
MODEL: dict[str, Any] = {
    **{"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]},
    **{"layer_type": "basic", "downsample_in_first_stage": False},
}
METRICS = {"accuracy": "accuracy", "energy_pointing_game": "energy in the boxes", "localization_iou": "IoU with them"}

# Training arguments where the command line says nothing else: on the digits, and of a pretrained model
ON_DIGITS = {"learning_rate": 4e-3, "num_train_epochs": 8, "per_device_train_batch_size": 32, "warmup_steps": 0.1}
PRETRAINED = {"learning_rate": 1e-4, "num_train_epochs": 10, "per_device_train_batch_size": 64, "warmup_steps": 0.05}


@dataclass
class ScriptArguments:
    model: str | None = field(default=None, metadata={"help": "Hub id or folder of the classifier."})
    dataset: str | None = field(default=None, metadata={"help": "Hub id, or folder saved by `datasets`."})
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split: str = field(default="validation", metadata={"help": "Split to measure on; or a tenth of the other."})
    guidance_loss: str = field(
        default="energy", metadata={"help": "Loss between maps and boxes.", "choices": available_guidance_losses()}
    )
    dilation: float = field(default=0.0, metadata={"help": "Fraction by which boxes are larger on each side."})
    pictures: int = field(default=3, metadata={"help": "0 draws no picture of the explanations on the card."})

    def __post_init__(self) -> None:
        if (self.model is None) != (self.dataset is None):
            raise ValueError("--model and --dataset belong together.")


def boxes_of_masks(batch: dict[str, Any]) -> dict[str, Any]:
    """Give each image the box of its mask, whose right and lower edges lie behind the last pixel."""
    masks = torch.stack([pil_to_tensor(mask)[0] > 127 for mask in batch["mask"]])
    boxes = masks_to_boxes(masks) + torch.tensor([0.0, 0.0, 1.0, 1.0])
    return {"boxes": boxes[:, None].tolist()}


def main() -> dict[str, Any]:
    given = ex.command_line(ScriptArguments, ExplanationDistillArguments)
    parser = HfArgumentParser((ScriptArguments, ExplanationDistillArguments), description=__doc__, allow_abbrev=False)
    # The labels and the boxes are learnt from, and no teacher.
    parser.set_defaults(output_dir="outputs/guide_boxes", task_weight=1.0, logits_weight=0.0, explanation_weight=1.0)
    parser.set_defaults(lr_scheduler_type="cosine", logging_strategy="epoch", save_strategy="no", report_to="none")
    parser.set_defaults(explainer="gradcam")
    # A transform makes the batches, from columns that no model's forward takes.
    parser.set_defaults(remove_unused_columns=False, per_device_eval_batch_size=64, weight_decay=0.05)
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

    # Data and model
    if script.dataset is None:
        ex.use_one_thread()
        splits = digits_on_textures(seed=args.seed, **DIGITS).map(boxes_of_masks, batched=True, remove_columns="mask")
        train = splits["student_train"]
        evaluations = {"in_distribution": splits["test_id"], "out_of_distribution": splits["test_ood"]}
        # The stem halves twice and the second stage once more: 72 pixels leave a grid of 9×9 cells.
        processor = ViTImageProcessor(size={"height": 72, "width": 72}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
        model = ResNetForImageClassification(ResNetConfig(**MODEL, **ex.label_settings(label_names(train), 10)))
    else:
        train, evaluation = load_images(script.dataset, script.train_split, script.eval_split)
        evaluations = {"evaluation": evaluation}
        if label_names(train) is None or "boxes" not in train.column_names:
            raise ValueError(
                f"'{script.dataset}' needs columns `label`, of named classes, and `boxes`: {train.features}"
            )
        model = ex.create_student(script.model, "pretrained", label_names(train))
        processor = ex.load_processor(script.model, model.config)
    for data in (train, *evaluations.values()):
        data.set_transform(DistillationTransform(processor))

    # An unguided model and a guided one, from the same initial weights on the same batches
    run: dict[str, Any] = {"seed": args.seed}
    models = {}
    for name, weight in {"unguided": 0.0, "guided": args.explanation_weight}.items():
        trainer = ExplanationDistillTrainer(
            copy.deepcopy(model),
            ex.replace_arguments(args, output_dir=str(output / name), push_to_hub=False, hub_model_id=repo_id),
            train_dataset=train,
            eval_dataset=evaluations,
            processing_class=processor,
            data_collator=AnnotatedCollator(),
            references={"boxes": AnnotationReference(script.guidance_loss, script.dilation, weight)},
        )
        trainer.train()
        run[name] = {
            split: ex.measured_metrics(trainer.evaluate(data, metric_key_prefix=split), f"{split}_", METRICS)
            for split, data in evaluations.items()
        }
        trainer.save_model()
        models[name] = trainer.student

    # The guided model, which the last trainer holds, with its card
    record = trainer.measure_fidelity(seed=args.seed, compared={"unguided": models["unguided"]})
    # A picture is drawn where the record isn't given.
    card = {} if script.pictures else {"fidelity": record}
    if args.push_to_hub:
        trainer.push_to_hub(**card)
    else:
        trainer.create_model_card(model_name=output.name, **card)
    results = ex.collect_results(args, [run], start, recipe="guide_boxes", sources=vars(script))
    if trainer.is_world_process_zero():
        ex.write_results(results, output)
        print(f"\n{ex.markdown_table(results['summary'], METRICS)}\n\nIn {output}: guided, unguided, results.json")
    return results


if __name__ == "__main__":
    ex.run_recipe(main)
