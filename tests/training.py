"""What tests that train have in common: a few samples, a trainer with quiet arguments, and ways to look inside it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_e2kd import ExplanationDistillArguments, ExplanationDistillTrainer
from tests.models import CLASSES, IMAGE_SIZE, images

QUIET = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_steps": 1}
# transformers 5.23 renamed the argument.
CHECKPOINTING = next(
    name for name in ("activation_checkpointing", "gradient_checkpointing") if hasattr(TrainingArguments, name)
)
# Plain gradient descent without clipping: a step shows the gradient as it was.
PLAIN_STEPS = {"optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}


def samples(count: int, labels: bool = True, mask: bool = False, boxes: bool = False, seed: int = 0) -> list[dict]:
    """A data set of `count` random images; their object is a rectangle that differs from sample to sample."""
    pixels = images(count, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    classes = torch.randint(CLASSES, (count,), generator=generator)
    made = []
    for index in range(count):
        left, top = (3 * index) % 16, (5 * index) % 16
        sample: dict[str, Any] = {"pixel_values": pixels[index]}
        if labels:
            sample["labels"] = int(classes[index])
        if mask:
            sample["mask"] = torch.zeros(IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
            sample["mask"][top : top + 12, left : left + 16] = 1
        if boxes:
            sample["boxes"] = torch.tensor([[left, top, left + 16, top + 12], [-1, -1, -1, -1]])
        made.append(sample)
    return made


def arguments(folder: Path, **settings: Any) -> ExplanationDistillArguments:
    batches = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "max_steps": 2}
    return ExplanationDistillArguments(str(folder), **{**QUIET, **PLAIN_STEPS, **batches, **settings})


def stock_arguments(folder: Path, **settings: Any) -> TrainingArguments:
    batches = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "max_steps": 2}
    return TrainingArguments(str(folder), **{**QUIET, **PLAIN_STEPS, **batches, **settings})


def distiller(
    student: nn.Module | None,
    teacher: nn.Module | None,
    folder: Path,
    settings: Mapping[str, Any] | None = None,
    **keywords: Any,
) -> ExplanationDistillTrainer:
    """A trainer on 16 samples, evaluated on 13, unless `keywords` say otherwise.

    Args:
        settings: Arguments that differ from the quiet ones.
        keywords: Of the trainer.
    """
    data = {"train_dataset": samples(16), "eval_dataset": samples(13, seed=7)}
    return ExplanationDistillTrainer(
        student, arguments(folder, **(settings or {})), teacher_model=teacher, **{**data, **keywords}
    )


class Gradients(TrainerCallback):
    """Keeps the whole gradient before each optimizer step."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.steps.append(flat(p.grad for p in model.parameters() if p.grad is not None))


def flat(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def weights(model: nn.Module) -> torch.Tensor:
    return flat(model.parameters())


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The difference over the total norm; a parameter's own norm may be next to nothing."""
    return ((found - expected).norm() / expected.norm()).item()


def logged(trainer: Trainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


class Unregistered(nn.Module):
    """A classifier of the user's own, about which nothing is known; its maps are read by a hook."""

    main_input_name = "pixel_values"

    def __init__(self, resnet: nn.Module):
        super().__init__()
        self.config = resnet.config
        self.features = resnet.resnet
        self.classifier = resnet.classifier

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return {"logits": self.classifier(self.features(pixel_values).pooler_output)}
