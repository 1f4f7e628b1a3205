"""Description of a student's training, from its trainer."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers.integrations.integration_utils import CodeCarbonCallback

from ..alignment.labels import transform_of, without_subsets
from ..data.collate import MixingCollator
from ..references import AnnotationReference, Reference, TeacherReference
from ..store import StoredReference
from .describe import describe_data, describe_explainer, describe_transform, hardware, license_of
from .protocol import MeasuredTrainer
from .record import OTHER_STEPS, TrainingRecord

ARGUMENTS = (
    *("task_weight", "task_loss", "logits_weight", "logits_loss", "logits_loss_options", "temperature", "terms"),
    *("explanation_weight", "explanation_weight_mode", "explanation_weight_interval", "explanation_loss"),
    *("comparison_grid", "explanation_target", "explanation_fraction", "explanation_interval"),
    *("explanation_warmup_ratio", "learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "weight_decay"),
    *("max_grad_norm", "per_device_train_batch_size", "gradient_accumulation_steps", "bf16", "fp16", "seed"),
)
"""The training arguments that a card shows."""

OWN_LOSS = "compute_loss_func"
"""Stands for `task_loss` where the trainer was given a loss on the labels of the user's own."""


def recorded_arguments(args: Any, names: Sequence[str] = ARGUMENTS) -> dict[str, Any]:
    """Select training arguments by name, as far as there are some, with enumerations as their values."""
    # `accelerate launch --mixed_precision bf16` leaves the argument bf16 as it is.
    launched = getattr(args, "mixed_precision", None)
    return {name: name == launched or _plain(getattr(args, name)) for name in names if hasattr(args, name)}


def describe_training(trainer: MeasuredTrainer, base_model: str | None) -> TrainingRecord | None:
    """Describe the training so far; None if there was none.

    Args:
        trainer: The trainer of the student.
        base_model: Hub id of the checkpoint that the student started from; None after any other start.
    """
    state, args = trainer.state, trainer.args
    if state.global_step == 0:
        return None
    ended: dict[str, Any] = next((entry for entry in reversed(state.log_history) if "train_runtime" in entry), {})
    arguments = recorded_arguments(args)
    if further := _further_terms(trainer.terms, args):
        arguments["terms"] = further
    # In the middle of a training its weights are the last step's.
    if args.load_best_model_at_end and state.best_model_checkpoint and ended:
        # The best evaluation's step may have none, where fewer steps are saved than evaluated.
        arguments["best_model_of_step"] = int(state.best_model_checkpoint.rsplit("-", 1)[1])
    if trainer.steps_of_other_trainings:
        arguments[OTHER_STEPS] = trainer.steps_of_other_trainings
    if getattr(trainer, "compute_loss_func", None) is not None:
        arguments["task_loss"] = OWN_LOSS
    if args.label_smoothing_factor and not trainer.is_multi_label:  # of several labels it has no effect
        arguments["label_smoothing_factor"] = args.label_smoothing_factor
    if args.auto_find_batch_size:
        arguments["per_device_train_batch_size"] = getattr(trainer, "_train_batch_size", state.train_batch_size)
    arguments |= _own_optimization(trainer)
    # Of a training that was resumed, the time and the emissions until then aren't known.
    is_whole = not getattr(trainer, "_initial_global_step", 0)
    return TrainingRecord(
        base_model=base_model,
        base_license=license_of(base_model) if base_model else None,
        data=describe_data(trainer.train_dataset),
        references={name: _describe_reference(reference, trainer) for name, reference in trainer.references.items()},
        arguments=arguments,
        augmentation=_augmentation(trainer),
        hardware=hardware(args.world_size, args.device),
        seconds=ended.get("train_runtime") if is_whole else None,
        steps=state.global_step,
        epochs=state.epoch,
        co2_kg=_emissions(trainer) if is_whole else None,
    )


def _further_terms(terms: Mapping[str, Any], args: Any) -> dict[str, Any]:
    """Describe the terms that arguments or objects have added, with the options that are known."""
    stated = getattr(args, "terms", None) or {}
    found = {}
    for name, term in terms.items():
        if term.weight_argument is None:
            found[name] = {**stated.get(name, {}), "weight": term.weight}
    return found


def _describe_reference(reference: Reference, trainer: MeasuredTrainer) -> dict[str, Any]:
    matched = trainer.explanation_weight_of(reference)
    description: dict[str, Any] = {"kind": type(reference).__name__, "explanation_weight": matched}
    if matched:
        annotates = isinstance(reference, AnnotationReference)
        description["explanation_loss"] = reference.explanation_loss or trainer.args.explanation_loss
        description["explains"] = "label" if annotates else getattr(reference, "target", None)
    if isinstance(reference, TeacherReference | StoredReference):
        description["logits_weight"] = trainer.logits_weight_of(reference)
    explainers = reference.explainers()
    if explainers and matched:
        description["explainer"] = describe_explainer(explainers[0])
    return description


def _own_optimization(trainer: MeasuredTrainer) -> dict[str, Any]:
    """Describe an optimizer and a scheduler that the trainer was given, in the place of the arguments' ones."""
    found: dict[str, Any] = {}
    if trainer.optimizer_is_given:
        optimizer = trainer.optimizer
        found["optim"] = type(getattr(optimizer, "optimizer", optimizer)).__name__
        groups = optimizer.param_groups
        found["learning_rate"] = _one_or_all(group.get("initial_lr", group["lr"]) for group in groups)
        found["weight_decay"] = _one_or_all(group.get("weight_decay", 0) for group in groups)
    scheduler = trainer.lr_scheduler
    if scheduler is not None and not getattr(trainer, "_created_lr_scheduler", True):
        found |= {"lr_scheduler_type": type(scheduler).__name__, "warmup_steps": None}
    return found


def _one_or_all(values: Iterable[Any]) -> Any:
    """Return the value of all groups of parameters, or the list of their values."""
    different = list(dict.fromkeys(float(value) for value in values))
    return different[0] if len(different) == 1 else different


def _augmentation(trainer: MeasuredTrainer) -> str | None:
    """Describe how the training's images are changed: by the data set's transform, and by mixing those of a batch."""
    data = trainer.train_dataset
    transform = transform_of(data) or getattr(without_subsets(data), "transform", None)
    collator = getattr(trainer.data_collator, "collator", None)
    steps = [
        getattr(transform, "augmentation", None),
        collator.mixing if isinstance(collator, MixingCollator) else None,
    ]
    return ", ".join(filter(None, map(describe_transform, steps))) or None


def _emissions(trainer: MeasuredTrainer) -> float | None:
    """Read the kilograms of CO2, where codecarbon has tracked the training."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, CodeCarbonCallback):
            return getattr(callback.tracker, "final_emissions", None)
    return None


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)
