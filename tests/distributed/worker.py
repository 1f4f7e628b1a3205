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
from tests.models import CLASSES, build
from tests.text_models import build_text, token_batch
from tests.training import CHECKPOINTING, Gradients, arguments, logged, samples, weights

GLOBAL_BATCH = 8
EVALUATION_SIZES = (13, 3, 1)


def bert() -> nn.Module:
    """Without dropout, which each process would draw for itself."""
    return build_text("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


STUDENTS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "vit": (lambda: build("vit"), {"gradient_accumulation_steps": 2}),
    "convnext": (lambda: build("convnext"), {}),
    "wrapped_vit": (lambda: build("wrapped_vit"), {"explanation_every": 2, "gradient_accumulation_steps": 2}),
    "vit_by_hook": (lambda: build("vit"), {"explainer_options": {"target_layer": "vit.layers.1"}}),
    "vit_bf16": (lambda: build("vit"), {"bf16": True, CHECKPOINTING: True}),
    "vit_attention": (lambda: build("vit"), {"explainer": "attention_gradient"}),
    "bert": (bert, {"explainer": "input_x_gradient", "gradient_accumulation_steps": 2}),
    # Each rank draws its own samples and points, so one process alone does something else.
    "bert_share": (bert, {"explainer": "integrated_gradients", "explanation_share": 0.5}),
}


def texts(count: int) -> list[dict[str, Any]]:
    batch = token_batch(count)
    return [
        {"input_ids": ids, "attention_mask": mask, "labels": row % CLASSES}
        for row, (ids, mask) in enumerate(zip(batch["input_ids"], batch["attention_mask"], strict=True))
    ]


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
        train_dataset=texts(32) if name.startswith("bert") else samples(32),
        teacher_model=build_text("bert", seed=1) if name.startswith("bert") else build("vit", seed=1),
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
