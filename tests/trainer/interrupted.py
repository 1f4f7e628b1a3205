"""Two trainings, each interrupted in the middle of an epoch, within a step.

Started with the path of a folder, it says when it is within that step and waits there for what may happen to it;
`trainer_of` makes the same trainings in the process that calls it.
"""

import sys
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

    def __init__(self, step: int):
        self.step = step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            print("within a step", flush=True)
            sys.stdin.readline()


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


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, step in PAUSES.items():
        trainer = trainer_of(name, Path(sys.argv[1]), name, callbacks=[Pause(step)])
        trainer.train()
        print(f"stopped at {trainer.state.global_step}", flush=True)
