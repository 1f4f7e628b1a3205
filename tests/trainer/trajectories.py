"""Short trainings of every kind of setting, whose logged losses must not change.

python -m tests.trainer.trajectories    # writes them anew
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hf_e2kd import AnnotationReference, StoredReference, TeacherReference, TextCollator
from hf_e2kd.explainers import InputXGradient, IntegratedGradients
from tests.bcos.networks import network, pixels
from tests.models import CLASSES, build
from tests.tokenizers import STUDENT, TEACHER, data, text_model, without_dropout
from tests.trainer.test_guidance import several_labels
from tests.training import distiller, samples

EXPECTED = Path(__file__).with_name("trajectories.json")
# The recorded values are of maps on their own grids.
STEPS = {
    **{"max_steps": 3, "task_weight": 0.3, "explanation_weight": 2.0, "temperature": 2.0},
    "comparison_grid": "native",
}


def _images(student: str = "resnet", teacher: str = "vit", **settings: Any) -> Callable[[str], Any]:
    return lambda folder: distiller(build(student), build(teacher, seed=1), folder, {**STEPS, **settings})


def _attention(folder: str) -> Any:
    models = build("vit"), build("vit", seed=1)
    for model in models:
        model.set_attn_implementation("eager")
    return distiller(*models, folder, {**STEPS, "explainer": "attention_gradient"})


def _texts(explainer: Any = "integrated_gradients", **settings: Any) -> Callable[[str], Any]:
    def make(folder: str) -> Any:
        return distiller(
            without_dropout(text_model("bert")),
            text_model("roberta", 1, TEACHER),
            folder,
            {**STEPS, **settings},
            data_collator=TextCollator(STUDENT, TEACHER),
            train_dataset=data(16),
            eval_dataset=data(9, seed=7),
            explainer=explainer,
        )

    return make


def _bcos(folder: str) -> Any:
    rows = [{"pixel_values": image, "labels": number % CLASSES} for number, image in enumerate(pixels(8))]
    return distiller(
        network("densenet", 1),
        network("resnet"),
        folder,
        {**STEPS, "explainer": "bcos"},
        train_dataset=rows,
        eval_dataset=rows,
    )


def _annotated(loss: str) -> Callable[[str], Any]:
    def make(folder: str) -> Any:
        return distiller(
            build("convnext"),
            None,
            folder,
            {**STEPS, "logits_weight": 0.0, "task_weight": 1.0},
            references={"boxes": AnnotationReference(loss, dilation=0.1)},
            train_dataset=samples(16, boxes=True),
            eval_dataset=samples(13, boxes=True, seed=7),
        )

    return make


def _several_references(folder: str) -> Any:
    references = {
        "teacher": TeacherReference(build("vit", seed=1)),
        "second": TeacherReference(build("resnet", seed=2), explanation_loss="l1", logits_weight=0.2),
        "boxes": AnnotationReference("energy", explanation_weight=0.5),
    }
    return distiller(
        build("convnext"),
        None,
        folder,
        STEPS,
        references=references,
        train_dataset=samples(16, mask=True),
        eval_dataset=samples(13, mask=True, seed=7),
    )


def _several_labels(folder: str) -> Any:
    student, teacher = build("convnext"), build("resnet", seed=1)
    for model in (student, teacher):
        model.config.problem_type = "multi_label_classification"
    return distiller(
        student,
        None,
        folder,
        {**STEPS, "explanation_target": "label"},
        references={"teacher": TeacherReference(teacher, target="label"), "boxes": AnnotationReference("ppce")},
        train_dataset=several_labels(16),
        eval_dataset=several_labels(13, seed=7),
    )


def _stored(folder: str) -> Any:
    store = Path(folder) / "store"
    StoredReference.build(build("vit", seed=1), samples(16), store, dtype="float32", batch_size=4)
    reference = StoredReference(store)
    return distiller(
        build("resnet"),
        None,
        folder,
        STEPS,
        references={"teacher": reference},
        train_dataset=reference.attach(samples(16)),
        eval_dataset=reference.attach(samples(16)),
    )


SETTINGS: dict[str, Callable[[str], Any]] = {
    "plain distillation": _images(explanation_weight=0.0),
    "task alone": _images(explanation_weight=0.0, logits_weight=0.0),
    **{f"images, {loss}": _images(explanation_loss=loss) for loss in ("cosine", "kl", "l1", "mse", "pearson")},
    "vit from resnet": _images("vit", "resnet"),
    "timm": _images("wrapped_convnext", "timm_vit_average"),
    "two micro-batches": _images(per_device_train_batch_size=2, gradient_accumulation_steps=2),
    "label target": _images(explanation_target="label"),
    "every second step": _images(explanation_interval=2),
    "half of each batch": _images(explanation_fraction=0.5),
    "warm-up": _images(explanation_warmup_ratio=1.0),
    "label smoothing": _images(label_smoothing_factor=0.1),
    "attention": _attention,
    "images, input_x_gradient": _images(explainer="input_x_gradient"),
    "texts, integrated_gradients": _texts(),
    "texts, two points": _texts(IntegratedGradients(n_steps=4, baselines="pad", random_points=2)),
    "texts, saliency": _texts("saliency"),
    "texts, input_x_gradient": _texts(InputXGradient()),
    "b-cos": _bcos,
    **{f"guidance, {loss}": _annotated(loss) for loss in ("energy", "l1", "ppce", "rrr")},
    "several references": _several_references,
    "several labels": _several_labels,
    "stored": _stored,
}
"""What makes a trainer, by the setting's name."""


def trajectory(name: str) -> dict[str, Any]:
    """The logged losses of a setting's steps, and those of its evaluation."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SETTINGS[name](folder)
        trainer.train()
        steps = [
            {key: value for key, value in entry.items() if key == "loss" or key.startswith("loss_")}
            for entry in trainer.state.log_history
            if "loss" in entry
        ]
        evaluation = {key: value for key, value in trainer.evaluate().items() if "loss" in key}
    return {"steps": steps, "evaluation": evaluation}


if __name__ == "__main__":
    torch.set_num_threads(1)
    EXPECTED.write_text(json.dumps({name: trajectory(name) for name in SETTINGS}, indent=1) + "\n")
