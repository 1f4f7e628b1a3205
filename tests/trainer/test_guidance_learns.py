"""Guidance moves where a model looks on data that it has not seen, and e²KD hands that on to a student."""

import pytest
import torch
from transformers import AutoModelForImageClassification, ResNetConfig, ViTImageProcessor, set_seed

from hf_e2kd import ExplanationDistillTrainer
from hf_e2kd.data import DistillationTransform, digits_on_textures
from hf_e2kd.references import AnnotationReference
from tests.training import arguments

CLASSES, SIDE = 4, 32
TRAINING = {
    "optim": "adamw_torch",
    "learning_rate": 4e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "max_grad_norm": 1.0,
    "max_steps": -1,
    "logging_steps": 500,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 100,
}
LABELS = {"task_weight": 1.0, "logits_weight": 0.0, "num_train_epochs": 6}


@pytest.fixture(scope="module")
def digits():
    """Training and held-out images with masks, all on backgrounds that say nothing of the class."""
    sizes = {"teacher_train": 1000, "student_train": 0, "validation": 0, "test_id": 0, "test_ood": 300}
    processor = ViTImageProcessor(size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    transform = DistillationTransform(processor)
    splits = digits_on_textures(sizes, num_classes=CLASSES, image_size=SIDE)
    shown = {name: transform(split[:]) for name, split in splits.items()}
    return {
        name: [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]
        for name, batch in shown.items()
    }


def network(widths, seed):
    set_seed(seed)
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=widths,
        depths=[1, 1],
        layer_type="basic",
        downsample_in_first_stage=False,
        num_labels=CLASSES,
    )
    return AutoModelForImageClassification.from_config(config)


def trained(model, digits, folder, settings, seed=0, **keywords):
    """The trained model, and what is measured of it on the held-out images."""
    trainer = ExplanationDistillTrainer(
        model,
        arguments(folder, **TRAINING | settings, seed=seed),
        train_dataset=digits["teacher_train"],
        eval_dataset=digits["test_ood"],
        **keywords,
    )
    trainer.train()
    return trainer.student, trainer.evaluate()


@pytest.fixture(scope="module")
def sides(digits, tmp_path_factory):
    """An unguided and a guided model from the same weights on the same batches, with their figures."""
    return {
        name: trained(
            network([16, 32], seed=0),
            digits,
            tmp_path_factory.mktemp(name),
            {**LABELS, "explanation_weight": weight},
            references={"masks": AnnotationReference("energy")},
        )
        for name, weight in {"unguided": 0.0, "guided": 1.0}.items()
    }


def test_guidance_moves_the_energy_into_the_object(sides):
    """Prevents: a guidance loss that falls in training without the model looking elsewhere, or that costs accuracy."""
    (_, unguided), (_, guided) = sides["unguided"], sides["guided"]
    assert guided["eval_energy_pointing_game"] >= unguided["eval_energy_pointing_game"] + 0.15
    assert guided["eval_accuracy"] >= unguided["eval_accuracy"] - 0.02


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.filterwarnings("ignore:No label names")
def test_a_student_by_e2kd_keeps_its_guided_teachers_localisation(sides, digits, tmp_path, seed):
    """Prevents: a student that is as accurate as its teacher for reasons of its own."""
    teacher, _ = sides["guided"]
    energies = {}
    for weight in (0.0, 1.0):
        settings = {"explanation_weight": weight, "num_train_epochs": 4, "learning_rate": 8e-3}
        _, found = trained(network([16, 32], seed + 1), digits, tmp_path, settings, seed, teacher_model=teacher)
        energies[weight] = found["eval_energy_pointing_game"]
        taught = found["eval_teacher_energy_pointing_game"]
    assert abs(energies[1.0] - taught) < 0.5 * abs(energies[0.0] - taught)
    assert found["eval_accuracy"] > 0.85


def test_a_dilated_box_is_for_training_alone(tmp_path):
    """Prevents: a model that is measured by the larger boxes that it was guided by."""
    model = network([8, 16], seed=0)
    images = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    data = [{"pixel_values": each, "labels": 1, "boxes": torch.tensor([[8.0, 8, 20, 20]])} for each in images]
    shares = [
        ExplanationDistillTrainer(
            model,
            arguments(tmp_path, **LABELS),
            train_dataset=data,
            eval_dataset=data,
            references={"boxes": AnnotationReference(dilation=dilation)},
        ).evaluate()["eval_energy_pointing_game"]
        for dilation in (0.0, 0.5)
    ]
    assert shares[0] == pytest.approx(shares[1])
