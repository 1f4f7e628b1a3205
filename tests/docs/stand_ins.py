"""What a page's code takes as given: tiny models and data under the names that the pages use.

A page begins with `images`. A comment that no reader sees, `<!-- with: texts -->`, puts other names in their place from
the next block on; a new set is a function of this file, named in `SETS`.
"""

from pathlib import Path
from typing import Any

from datasets import Array3D, Dataset, Features
from torch import nn
from transformers import ConvNextConfig, ConvNextForImageClassification, ViTImageProcessor

from hf_e2kd import ExplanationDistillArguments, ExplanationDistillTrainer
from hf_e2kd.data.digits import digits_on_textures
from hf_e2kd.data.voc import CLASSES as VOC_CLASSES
from recipes.papers._generated import write_broden
from recipes.papers._shapes import write_voc
from tests.models import images as random_images
from tests.tokenizers import STUDENT, TEACHER, text_model

SIDE = 32


def convnext(names: list[str]) -> nn.Module:
    config = ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], patch_size=4, image_size=SIDE)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    return ConvNextForImageClassification(config)


def image_processor() -> ViTImageProcessor:
    return ViTImageProcessor(size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def images() -> dict[str, Any]:
    """Classifiers of digits; data with the images, and with what the processor makes of them."""
    sizes = {"teacher_train": 1, "student_train": 12, "validation": 6, "test_id": 1, "test_ood": 1}
    splits = digits_on_textures(sizes, image_size=SIDE)
    processor = image_processor()
    features = Features({**splits["validation"].features, "pixel_values": Array3D((3, SIDE, SIDE), "float32")})

    def processed(row: dict[str, Any]) -> dict[str, Any]:
        return {"pixel_values": processor(row["image"], return_tensors="np")["pixel_values"][0]}

    train, evaluation = (splits[name].map(processed, features=features) for name in ("student_train", "validation"))
    for split in (train, evaluation):
        split.set_format("torch", columns=["pixel_values", "label", "image"])
    names = train.features["label"].names
    return {
        "teacher": convnext(names),
        "student": convnext(names),
        "model": convnext(names),
        "processor": processor,
        "train_dataset": train,
        "eval_dataset": evaluation,
        "pixel_values": random_images(2, SIDE),
        "args": ExplanationDistillArguments("outputs/student", remove_unused_columns=False),
    }


def texts() -> dict[str, Any]:
    """Classifiers with tokenizers of their own, and sentences."""
    data = Dataset.from_list([{"sentence": f"It was the {word} film", "label": 0} for word in ("worst", "warm")] * 2)
    model = text_model("bert")
    return {
        "teacher": text_model("roberta", 1, TEACHER),
        "student": text_model("bert"),
        "classifier": model,
        "model": model,
        "student_tokenizer": STUDENT,
        "teacher_tokenizer": TEACHER,
        "tokenizer": STUDENT,
        "train_dataset": data,
        "eval_dataset": data,
    }


def annotated() -> dict[str, Any]:
    """A classifier of VOC's classes, and the folder `VOCdevkit`."""
    write_voc(".", 2012, {"train": 6, "val": 3})
    return {"model": convnext(list(VOC_CLASSES)), "processor": image_processor()}


def training() -> dict[str, Any]:
    """A trainer that is ready to train, and a student to compare its own with."""
    given = images()
    args = ExplanationDistillArguments("outputs/student", max_steps=1)
    data = {"train_dataset": given["train_dataset"], "eval_dataset": given["eval_dataset"]}
    models = {"teacher_model": given["teacher"], "processing_class": given["processor"]}
    trainer = ExplanationDistillTrainer(given["student"], args, **data, **models)
    kd_student = given["model"]

    def run_session(pixel_values: Any) -> Any:
        return kd_student(pixel_values).logits

    return {**given, "args": args, "trainer": trainer, "kd_student": kd_student, "run_session": run_session}


def concepts() -> dict[str, Any]:
    """A classifier, and images of labelled concepts in the folder `broden1_224`."""
    write_broden(Path("broden1_224"), 20)
    return {"model": convnext(["red", "green", "blue"]), "processor": image_processor()}


SETS = {"images": images, "texts": texts, "annotated": annotated, "training": training, "concepts": concepts}
