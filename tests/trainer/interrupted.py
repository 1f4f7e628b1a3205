"""Two trainings, each interrupted in the middle of an epoch, within a step.

`train_both` says when it is within that step and waits there for what may happen to its process; `trainer_of` makes the
same trainings in the process that calls it.
"""

from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from hf_e2kd import ExplanationDistillTrainer
from hf_e2kd.store import StoredReference
from tests.models import build
from tests.training import arguments, samples

# Two epochs of six steps, of two batches each.
SETTINGS = {
    "num_train_epochs": 2,
    "max_steps": -1,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "optim": "adamw_torch",
    "learning_rate": 1e-2,
    "lr_scheduler_type": "linear",
    "explanation_fraction": 0.5,
    "explanation_warmup_ratio": 0.8,
    "save_strategy": "steps",
    "save_steps": 4,
    "enable_jit_checkpoint": True,
}
# By the kind of reference, in which step.
PAUSES = {"stored": 8, "live": 6}


class Pause(TrainerCallback):
    """Between backward pass and optimizer step: the random state is no longer that of the step before."""

    def __init__(self, step: int, connection: Connection):
        self.step, self.connection = step, connection

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            self.connection.send("within a step")
            self.connection.recv()


def trainer_of(kind: str, folder: Path, output: str, **keywords: Any) -> ExplanationDistillTrainer:
    """A ViT with dropout, and its reference.

    Args:
        kind: One of `PAUSES`.
        folder: Where the store is, or will be.
        output: The output folder's name.
    """
    student, teacher, data = build("vit"), build("vit", seed=1), samples(24)
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    if kind == "live":
        keywords |= {"teacher_model": teacher, "train_dataset": data}
    else:
        reference = StoredReference.build(teacher, data, folder / "store", progress=False)
        keywords |= {"references": {"teacher": reference}, "train_dataset": reference.attach(data)}
    return ExplanationDistillTrainer(student, arguments(folder / output, **SETTINGS), **keywords)


def train_both(folder: Path, connection: Connection) -> None:
    """Trains from either kind of reference, and says over the connection what happens."""
    torch.set_num_threads(1)
    for kind, step in PAUSES.items():
        trainer = trainer_of(kind, folder, kind, callbacks=[Pause(step, connection)])
        trainer.train()
        connection.send(f"stopped at {trainer.state.global_step}")
