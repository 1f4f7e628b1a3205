"""Trains small students in however many processes it is started in, and keeps what they did.

`work` runs in each of several processes; `collect` does the same in the process that calls it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.utils.data import IterableDataset
from transformers import AutoModelForImageClassification, ViTImageProcessor

from hf_e2kd import ExplanationDistillTrainer
from hf_e2kd.fidelity import Control, measure_fidelity
from hf_e2kd.references import TeacherReference
from tests.bcos.networks import network
from tests.distributed.on_cpu import deepspeed_on_cpu, shard_on_cpu
from tests.distributed.recipe import run_recipe
from tests.models import CLASSES, build, images
from tests.text_models import build_text, token_batch, token_rows
from tests.training import CHECKPOINTING, Gradients, arguments, flat, logged, samples

GLOBAL_BATCH = 8
EVALUATION_SIZES = (13, 3, 1)
PLACES = ("sea", "land", "sea")


def bert() -> nn.Module:
    """Without dropout, which each process would draw for itself."""
    return build_text("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def swin() -> nn.Module:
    """Without dropped paths, for the same reason."""
    model = build("swin")
    for module in model.modules():
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    return model


ACCUMULATED = {"gradient_accumulation_steps": 2}
STUDENTS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "vit": (lambda: build("vit"), {"gradient_accumulation_steps": 2}),
    "convnext": (lambda: build("convnext"), {}),
    "wrapped_vit": (lambda: build("wrapped_vit"), {"explanation_interval": 2, "gradient_accumulation_steps": 2}),
    "vit_by_hook": (lambda: build("vit"), {"explainer_options": {"target_layer": "vit.layers.1"}}),
    "vit_bf16": (lambda: build("vit"), {"bf16": True, CHECKPOINTING: True}),
    "vit_attention": (lambda: build("vit"), {"explainer": "attention_gradient"}),
    "bert": (bert, {"explainer": "input_x_gradient", "gradient_accumulation_steps": 2}),
    # Its first block runs as the model's own, the others in the open.
    "bert_lrp": (bert, {"explainer": "lrp", "explainer_options": {"layer": 1}, "gradient_accumulation_steps": 2}),
    "bcos": (lambda: network("vit"), {"explainer": "bcos", "gradient_accumulation_steps": 2}),
    "vit_hint": (lambda: build("vit"), {"terms": {"hint": {"weight": 0.1}}, "gradient_accumulation_steps": 2}),
    # By the statistics of a batch norm over both ranks' rows.
    "vit_norms": (
        lambda: build("vit"),
        {"terms": {"review_kd": {"mid_channels": 4}, "activation_boundary": {}}, "gradient_accumulation_steps": 2},
    ),
    # Weights that are used outside the wrapped forward too.
    "swin_cat": (swin, {"terms": {"cat_kd": {}}, "gradient_accumulation_steps": 2}),
    # With a stage, and banks or a comparison of all ranks' samples.
    "vit_factors": (lambda: build("vit"), {"terms": {"factor_transfer": {"weight": 10.0}}, **ACCUMULATED}),
    "vit_crd": (lambda: build("vit"), {"terms": {"crd": {"weight": 0.1, "dim": 8, "negatives": 20}}, **ACCUMULATED}),
    "vit_sskd": (lambda: build("vit"), {"terms": {"sskd": {"weight": 0.1, "stage_epochs": 0.5}}, **ACCUMULATED}),
    # By the mean of the ranks' squared norms, which isn't the norm of the whole batch's gradient.
    "vit_relative": (lambda: build("vit"), {"explanation_weight_mode": "relative", **ACCUMULATED}),
    # Each rank draws its own samples and points, so one process alone does something else.
    "bert_share": (bert, {"explainer": "integrated_gradients", "explanation_fraction": 0.5}),
}
# Under FSDP2: blocks before the explanation's layer and behind it, and explanations of the whole student.
SHARDED = ("vit", "convnext", "vit_by_hook", "vit_attention", "bert", "bert_lrp", "bcos")
# With a teacher explained behind its last blocks, and at its word embeddings.
SHARDED_TEACHERS = ("vit", "bert", "bert_lrp")
# Under ZeRO-2: accumulated gradients, and an explanation of the whole student.
ZERO = ("vit", "vit_attention")


def texts(count: int) -> list[dict[str, Any]]:
    return [{**tokens, "labels": row % CLASSES} for row, tokens in enumerate(token_rows(count))]


class Stream(IterableDataset):
    """Samples one after the other, which one process reads for all."""

    def __init__(self, rows: list[dict[str, Any]]):
        self.rows = rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


def teacher_of(name: str) -> nn.Module:
    if name == "bcos":
        return network("vit", seed=1)
    return (
        build_text("bert", seed=1)
        if name.startswith("bert")
        else build("swin" if name == "swin_cat" else "vit", seed=1)
    )


def trainer_of(name: str, folder: Path, processes: int, **keywords: Any) -> ExplanationDistillTrainer:
    make, settings = STUDENTS[name]
    if "references" not in keywords:
        keywords["teacher_model"] = teacher_of(name)
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
        **keywords,
    )


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A parameter or a gradient, gathered where it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def weights(model: nn.Module) -> torch.Tensor:
    return flat(map(whole, model.parameters()))


class WholeGradients(Gradients):
    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.steps.append(flat(whole(p.grad) for p in model.parameters() if p.grad is not None))


def trained(
    name: str, folder: Path, processes: int, **keywords: Any
) -> tuple[ExplanationDistillTrainer, dict[str, Any]]:
    gradients = WholeGradients()
    trainer = trainer_of(name, folder, processes, callbacks=[gradients], **keywords)
    trainer.set_up_terms()
    before = flat([torch.zeros(0), *trainer.terms.parameters()])
    trainer.train()
    return trainer, {
        "gradients": gradients.steps,
        # By plain gradient descent it shows the gradients of the terms' own parameters.
        "moved terms": flat([torch.zeros(0), *trainer.terms.parameters()]) - before,
        "statistics": flat([torch.zeros(0), *(b for b in trainer.terms.buffers() if b.is_floating_point())]),
        "weights": weights(trainer.student),
        "terms": {term: logged(trainer, term) for term in ("loss", "loss_task", "loss_logits", "loss_explanation")},
        "sharded": [name for name, module in trainer.model.named_modules() if isinstance(module, FSDPModule)],
    }


def collect(folder: Path, processes: int) -> dict[str, dict[str, Any]]:
    """By scenario: gradients, weights, logged terms and metrics."""
    results: dict[str, dict[str, Any]] = {name: trained(name, folder, processes)[1] for name in STUDENTS}
    for size in EVALUATION_SIZES:
        trainer = trainer_of("vit", folder, processes)
        metrics = trainer.evaluate(samples(size, mask=True, seed=7))
        results[f"evaluate {size}"] = {"metrics": metrics}
        places = [{**sample, "place": PLACES[row % 3]} for row, sample in enumerate(samples(size, mask=True, seed=7))]
        results[f"groups {size}"] = trainer.evaluate(places, group_column="place")
        predicted = trainer.predict(samples(size, mask=True, seed=7))
        results[f"stream {size}"] = {"metrics": trainer.evaluate(Stream(samples(size, mask=True, seed=7)))}
        results[f"predict {size}"] = {"metrics": predicted.metrics, "logits": torch.tensor(predicted.predictions)}
    results["fidelity"] = fidelity(folder, processes)
    trainer = trainer_of("vit", folder, processes)
    trainer.evaluate(samples(5))
    trainer.train()
    results["evaluate first"] = {"weights": weights(trainer.student)}
    results["trained twice"] = trained_twice(folder, processes)
    results["stage without the student"] = stage_without_the_student(folder, processes)
    if processes > 1:
        results["labels on one rank"] = labels_on_one_rank(folder)
    return results


def fidelity(folder: Path, processes: int) -> dict[str, Any]:
    """Figures of 13 samples, of which two processes of batches of 4 fill up the last."""
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    trainer = trainer_of("vit", folder, processes, processing_class=processor)
    options: dict[str, Any] = {"explainers": ["saliency"], "control": Control(sigma=200), "costs": False}
    record = measure_fidelity(trainer, samples(13, seed=7), **options)
    assert record.control is not None and record.batch_size == 4
    held_out = record.held_out[0]
    groups = {"figures": record.figures, "control": record.control.figures, "chance": record.chance}
    groups |= {"held out": held_out.figures, "held-out chance": held_out.chance}
    return {
        f"{group}, {name}": (found.value, found.low, found.high, found.samples)
        for group, figures in groups.items()
        for name, found in figures.items()
    }


def stage_without_the_student(folder: Path, processes: int) -> dict[str, Any]:
    """A term's first stage by an optimizer with weight decay, of a student with batch norms."""
    trainer = ExplanationDistillTrainer(
        build("resnet"),
        arguments(
            folder,
            per_device_train_batch_size=GLOBAL_BATCH // processes,
            terms={"factor_transfer": {"weight": 10.0}},
            optim="adamw_torch",
            weight_decay=0.5,
        ),
        train_dataset=samples(32),
        teacher_model=build("resnet", seed=1),
    )
    trainer.set_up_terms()
    term = trainer.terms["factor_transfer"]
    student, own = flat(trainer.student.state_dict().values()), flat(term.state_dict().values())
    term.prepare(trainer)
    after = flat(trainer.student.state_dict().values()), flat(term.state_dict().values())
    trainer.train()
    return {"student": (student, after[0]), "term": (own, after[1]), "weights": weights(trainer.student)}


def trained_twice(folder: Path, processes: int) -> dict[str, Any]:
    trainer, _ = trained("vit", folder, processes)
    trainer.evaluate(samples(5))
    trainer.train()
    return {"weights": weights(trainer.student)}


def labels_on_one_rank(folder: Path) -> dict[str, Any]:
    """The task term has samples on the first rank alone."""
    trainer = trainer_of("vit", folder, 2, data_collator=without_labels if dist.get_rank() else None)
    trainer.train()
    return {"weights": weights(trainer.student), "task": logged(trainer, "loss_task"), "all": logged(trainer, "loss")}


def without_labels(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.stack([row["pixel_values"] for row in rows])}


def collect_sharded(folder: Path) -> dict[str, dict[str, Any]]:
    """The same of sharded students, with what is saved of them."""
    results: dict[str, dict[str, Any]] = {}
    for name in SHARDED:
        trainer, results[name] = trained(name, folder, 2)
        if name in ("vit", "vit_attention"):
            metrics = trainer.evaluate(samples(13, mask=True, seed=7))
            results[name] |= {"metrics": metrics, "weights after": weights(trainer.student)}
    for name in SHARDED_TEACHERS:
        results[f"{name} and teacher"] = with_sharded_teacher(name, folder)
    results["trained twice"] = trained_twice(folder, 2)
    try:
        trainer_of("vit", folder, 2).evaluate(samples(5))
    except ValueError as error:
        results["evaluate first"] = {"message": str(error)}
    results["saved"] = saved(folder)
    return results


def with_sharded_teacher(name: str, folder: Path) -> dict[str, Any]:
    """The same training, and what the teacher says of a batch before it is sharded and afterwards."""
    teacher = TeacherReference(teacher_of(name), shard=True)
    trainer, results = trained(name, folder, 2, references={"teacher": teacher})
    whole_teacher = TeacherReference(teacher_of(name))
    whole_teacher.setup(trainer.student, trainer.explainer)
    batch = token_batch(4) if name.startswith("bert") else {"pixel_values": images(4)}
    parameters = list(teacher.model.parameters())
    own = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in parameters)
    return results | {
        "reference outputs": [
            (reference_output.logits, reference_output.maps)
            for reference_output in (teacher(batch), whole_teacher(batch))
        ],
        "without maps": [each(batch, with_maps=False).logits for each in (teacher, whole_teacher)],
        "share": own / sum(p.numel() for p in parameters),
    }


def saved(folder: Path) -> dict[str, Any]:
    """Trains with a checkpoint at every step, resumes from the second, loads the best, and saves."""
    settings = {"optim": "adamw_torch", "learning_rate": 1e-3, "max_steps": 3, "save_strategy": "steps"}
    settings |= {"save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "task_weight": 0.5}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "explanation_similarity"}

    def made(output: Path, **more: Any) -> ExplanationDistillTrainer:
        data = {"train_dataset": samples(32), "eval_dataset": samples(8, seed=7)}
        return ExplanationDistillTrainer(
            build("vit"), arguments(output, **settings, **more), teacher_model=build("vit", seed=1), **data
        )

    trainer = made(folder / "whole")
    trainer.train()
    resumed = made(folder / "resumed")
    resumed.train(resume_from_checkpoint=str(folder / "whole" / "checkpoint-2"))
    trainer.save_model(str(folder / "student"))
    dist.barrier()
    loaded = AutoModelForImageClassification.from_pretrained(folder / "student")
    chosen = made(folder / "best", **best, greater_is_better=False)
    chosen.train()
    (expected,) = {chosen.state.best_model_checkpoint}
    return {
        "weights": weights(trainer.student),
        "resumed": weights(resumed.student),
        "loaded": flat(loaded.parameters()),
        "class": loaded.config.architectures,
        "logits": loaded.eval()(images(4)).logits.detach(),
        "best": weights(chosen.student),
        "best checkpoint": flat(AutoModelForImageClassification.from_pretrained(expected).parameters()),
        "best step": chosen.state.best_global_step,
    }


def collect_zero(folder: Path) -> dict[str, dict[str, Any]]:
    """Weights alone: DeepSpeed keeps the gradients for itself."""
    deepspeed_on_cpu()
    results: dict[str, dict[str, Any]] = {}
    for name in ZERO:
        STUDENTS[name][1]["use_cpu"] = False  # with which Accelerate would take DDP
        trainer = trainer_of(name, folder, 2)
        trainer.train()
        results[name] = {"weights": weights(trainer.student), "engine": type(trainer.model_wrapped).__name__}
    return results


def work(folder: Path, kind: str) -> None:
    """Saves what this process of several saw, as `rank0.pt` or `rank1.pt`.

    Args:
        folder: Where all processes write.
        kind: `ddp`, `fsdp2` or `zero2`.
    """
    torch.set_num_threads(1)
    if kind == "zero2":
        results = collect_zero(folder)
        torch.save(results, folder / f"rank{dist.get_rank()}.pt")
        return
    shard_on_cpu()
    trainer_of("vit", folder, 1)  # starts the process group
    results = collect_sharded(folder) if kind == "fsdp2" else collect(folder, dist.get_world_size())
    results["recipe"] = {"summary": run_recipe(folder / "outputs"), "outputs": folder / "outputs"}
    torch.save(results, folder / f"rank{dist.get_rank()}.pt")
    dist.barrier()
    dist.destroy_process_group()
