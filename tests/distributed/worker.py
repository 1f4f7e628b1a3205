"""Trains small students in however many processes it is started in, and keeps what they did.

Started by `accelerate launch` with the path of a folder; `collect` does the same work in the process that calls it.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from hf_e2kd import ExplanationDistillTrainer
from tests.models import build
from tests.training import CHECKPOINTING, Gradients, arguments, logged, samples, weights

GLOBAL_BATCH = 8
EVALUATION_SIZES = (13, 3, 1)

STUDENTS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "vit": (lambda: build("vit"), {"gradient_accumulation_steps": 2}),
    "convnext": (lambda: build("convnext"), {}),
    "wrapped_vit": (lambda: build("wrapped_vit"), {"explanation_every": 2, "gradient_accumulation_steps": 2}),
    "vit_by_hook": (lambda: build("vit"), {"explainer_options": {"target_layer": "vit.layers.1"}}),
    "vit_bf16": (lambda: build("vit"), {"bf16": True, CHECKPOINTING: True}),
}


def trainer_of(name: str, folder: Path, processes: int, **keywords: Any) -> ExplanationDistillTrainer:
    make, settings = STUDENTS[name]
    settings = {
        "per_device_train_batch_size": GLOBAL_BATCH // processes,
        "max_steps": 2,
        "task_weight": 0.5,
        **settings,
    }
    return ExplanationDistillTrainer(
        make(),
        arguments(folder, **settings),
        train_dataset=samples(32),
        teacher_model=build("vit", seed=1),
        **keywords,
    )


def collect(folder: Path, processes: int) -> dict[str, dict[str, Any]]:
    """By scenario: gradients, weights, logged terms and metrics."""
    results: dict[str, dict[str, Any]] = {}
    for name in STUDENTS:
        gradients = Gradients()
        trainer = trainer_of(name, folder, processes, callbacks=[gradients])
        trainer.train()
        results[name] = {
            "gradients": gradients.steps,
            "weights": weights(trainer.student),
            "terms": {term: logged(trainer, term) for term in ("loss", "loss_task", "loss_logits", "loss_explanation")},
        }
    for size in EVALUATION_SIZES:
        trainer = trainer_of("vit", folder, processes)
        metrics = trainer.evaluate(samples(size, mask=True, seed=7))
        results[f"evaluate {size}"] = {"metrics": metrics}
        predicted = trainer.predict(samples(size, mask=True, seed=7))
        results[f"predict {size}"] = {"metrics": predicted.metrics, "logits": torch.tensor(predicted.predictions)}
    trainer = trainer_of("vit", folder, processes)
    trainer.evaluate(samples(5))
    trainer.train()
    results["evaluate first"] = {"weights": weights(trainer.student)}
    return results


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    trainer_of("vit", folder, 1)  # starts the process group
    results = collect(folder, dist.get_world_size())
    torch.save(results, folder / f"rank{dist.get_rank()}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
