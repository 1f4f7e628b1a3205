"""Models and first batches that would train wrongly without a word, or fail far from their cause."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import IterableDataset
from transformers import IntervalStrategy, TrainingArguments
from transformers.trainer_utils import has_length

from ..alignment.inputs import ANNOTATION_COLUMNS
from ..alignment.labels import NO_LABEL, class_count, is_score, without_subsets
from ..alignment.scores import is_regression
from ..logs import get_logger

logger = get_logger(__name__)


def refuse_shared_weights(student: nn.Module, teacher: nn.Module) -> None:
    """Refuse a student with parameters or buffers of its teacher: the teacher would freeze them, or change with them.

    Raises:
        ValueError: naming the student's first shared tensors.
    """
    theirs = {_memory(tensor) for tensor in _state(teacher).values()}
    shared = [name for name, tensor in _state(student).items() if tensor.numel() and _memory(tensor) in theirs]
    if shared:
        more = f" and {len(shared) - 5} more" if len(shared) > 5 else ""
        raise ValueError(
            f"Teacher and student share the weights {', '.join(shared[:5])}{more}, which would be frozen as the "
            "teacher's or trained as the student's. Give the student its own copy: copy.deepcopy(layer), or "
            "copy.deepcopy(teacher) before an adapter is put into it."
        )


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _memory(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Name of a tensor's memory; that of a tensor subclass or of a tensor without data is the tensor itself."""
    plain = type(tensor.data) is torch.Tensor and not tensor.is_meta
    return (str(tensor.device), tensor.data_ptr()) if plain else (id(tensor),)


def refuse_several_scores(student: nn.Module) -> None:
    """Refuse a regressor of several outputs, which losses and figures would take for the logits of classes.

    Raises:
        ValueError: with the remedies.
    """
    if is_regression(student) and not is_score(student):
        raise ValueError(
            f"{type(student).__name__} is a regressor (config.problem_type='regression') of {class_count(student)} "
            "outputs, and their softmax means nothing. Distil regressors of one score each (num_labels=1). If these "
            "are classes, set student.config.problem_type='single_label_classification'."
        )


def refuse_virtual_tokens(student: nn.Module) -> None:
    """Refuse an adapter that puts trained tokens before a text: the student inside it is given no tokens any more.

    Raises:
        ValueError: with the remedies.
    """
    for config in (getattr(student, "peft_config", None) or {}).values():
        if getattr(config, "is_prompt_learning", False):
            raise ValueError(
                f"An adapter of the kind {config.peft_type.value} puts tokens of its own before each text, between "
                "which the text's words can't be explained. Take LoRA, or another adapter inside the layers, or "
                "distil without explanations: explanation_weight=0, evaluate_explanations=False."
            )


def refuse_loaded_shards(student: nn.Module) -> None:
    """Refuse a student that transformers has sharded as it was loaded: it frees blocks between an explanation's passes.

    Raises:
        ValueError: with the remedies.
    """
    if getattr(student, "is_distributed_loading_by_transformers", False):
        raise ValueError(
            f"{type(student).__name__} was sharded as it was loaded (distributed_config), and its blocks are freed "
            "before an explanation has been differentiated twice. Load it without, and start several processes by "
            "`accelerate launch`, with DDP or with distributed_type: FSDP and fsdp_version: 2."
        )


def refuse_metric_of_no_set(args: TrainingArguments, evaluated: Any) -> None:
    """Refuse a metric for the best checkpoint that none of several evaluation sets gives, before the first evaluation
    ends the training.

    Args:
        args: Training arguments.
        evaluated: Evaluation data, a dictionary where there are several sets.

    Raises:
        ValueError: naming the metric as the sets have it.
    """
    metric = args.metric_for_best_model
    if not isinstance(evaluated, dict) or metric is None or args.eval_strategy == IntervalStrategy.NO:
        return
    metric = metric.removeprefix("eval_")
    if not any(metric.startswith(f"{name}_") for name in evaluated):
        raise ValueError(
            f"metric_for_best_model is '{metric}', and the metrics of several evaluation sets begin with the set's "
            f"name. Set it to {' or '.join(f'{name}_{metric}' for name in evaluated)}."
        )


def refuse_metric_without_terms(args: TrainingArguments, evaluated: Iterable[str]) -> None:
    """Refuse the loss as the metric for the best checkpoint, where evaluations compute no term of it.

    Args:
        args: Training arguments.
        evaluated: Names of the terms that evaluations compute.

    Raises:
        ValueError: with the remedies.
    """
    if args.metric_for_best_model in ("loss", "eval_loss") and not list(evaluated):
        raise ValueError(
            "The loss has explanations alone, and evaluate_explanations=False leaves evaluations without them, and so "
            f"without the loss, which metric_for_best_model='{args.metric_for_best_model}' chooses by. Set "
            "evaluate_explanations=True, or choose by another metric, such as 'agreement'."
        )


def refuse_missing_labels(
    accelerator: Accelerator, batch: Mapping[str, Any], terms: Iterable[str], dataset: Any
) -> None:
    """Refuse a first batch without labels, on all processes, where a term with a weight takes them.

    Args:
        batch: The batch as collated.
        terms: Names of the terms that take labels.
        dataset: Training data, whose columns the error names.

    Raises:
        ValueError: naming the columns and the remedy.
    """
    terms = list(terms)
    # A process whose data have no labels takes part without them.
    if not terms or any(gather_object(["labels" in batch])):
        return
    columns, kept = dataset_columns(dataset), sorted(batch)
    found = f"The data's columns are {columns}, of which the batch keeps {kept}." if columns else f"It holds {kept}."
    raise ValueError(
        f"The first batch has no labels, which the term {' and '.join(terms)} of the loss takes. {found} Name the "
        "column of labels 'label' or 'labels', with the classes' numbers: dataset.rename_column('fine_label', "
        "'labels'), or label_column of TextCollator. Names of classes become numbers by "
        "dataset.class_encode_column('labels'). Without labels set task_weight=0."
    )


def warn_of_unlabelled(accelerator: Accelerator, batch: Mapping[str, Any], terms: Iterable[str]) -> None:
    """Warn of a first batch in which no sample of any process has a label, as may be in partly labelled data.

    Args:
        batch: The batch as collated.
        terms: Names of the terms that take labels, or annotations of them.
    """
    terms, labels = list(terms), batch.get("labels")
    if not terms:
        return
    found = gather_object([None if labels is None else bool((labels == NO_LABEL).all())])
    if True in found and False not in found and accelerator.is_main_process:
        logger.warning(
            f"No sample of the first batch has a label: all are {NO_LABEL}. From such a batch the term "
            f"{' and '.join(terms)} of the loss learns nothing. If the data are labelled, see what the transform or "
            "the collator makes of the column of labels."
        )


def refuse_missing_inputs(batch: Mapping[str, Any], dataset: Any, removes_columns: bool) -> None:
    """Refuse a batch that holds nothing a model could read.

    Raises:
        ValueError: naming the columns that were dropped and the remedy.
    """
    if any(isinstance(value, torch.Tensor) for name, value in batch.items() if name not in ANNOTATION_COLUMNS):
        return
    raise ValueError(missing_inputs(sorted(batch), dataset_columns(dataset), removes_columns))


def refuse_uneven_batches(accelerator: Accelerator, dataset: Any, batch_size: int, drop_last: bool) -> None:
    """Refuse data that leave one process fewer samples than the others, which would wait for it.

    Args:
        accelerator: The trainer's `Accelerator`.
        dataset: Data of a training or an evaluation.
        batch_size: Batch size of the data loader.
        drop_last: Whether an incomplete last batch is left out.

    Raises:
        ValueError: with the remedies.
    """
    if accelerator.num_processes == 1 or accelerator.even_batches or drop_last or not has_length(dataset):
        return
    total = batch_size * (1 if accelerator.split_batches else accelerator.num_processes)
    if len(dataset) % total:
        raise ValueError(
            f"{len(dataset)} samples don't fill {accelerator.num_processes} processes' batches of {total} together, "
            "and accelerator_config's even_batches=False leaves a process fewer than the others, which wait for it. "
            "Leave even_batches True (samples that fill up a last batch don't count in evaluations), or set "
            "dataloader_drop_last=True."
        )


def refuse_unread_columns(dataset: Any, read: Iterable[str]) -> None:
    """Refuse a data set of which removing the columns that a model's forward doesn't name leaves no inputs.

    Raises:
        ValueError: naming the columns that would be dropped and the remedy.
    """
    columns = dataset_columns(dataset)
    kept = sorted(set(columns) & set(read))
    if not set(kept) - {*ANNOTATION_COLUMNS, "label", "label_ids"}:
        raise ValueError(missing_inputs(kept, columns, removes_columns=True))


def missing_inputs(kept: list[str], columns: list[str], removes_columns: bool) -> str:
    """Say that data give a model no inputs: which columns were kept and dropped, and what to do."""
    dropped = [column for column in columns if column not in kept]
    why = (
        "Columns that the model's forward doesn't name are removed: set remove_unused_columns=False where a transform "
        "or a collator reads them, or the forward takes its images by another name than `pixel_values`."
        if removes_columns
        else "The collator made no tensor of them."
    )
    return (
        f"The batch has no inputs for the model: it holds {kept or 'no column'}, and {dropped or 'nothing'} was "
        f"dropped. {why} Images become `pixel_values` by DistillationTransform(processor) with "
        "dataset.set_transform, texts become `input_ids` by data_collator=TextCollator(tokenizer)."
    )


def dataset_columns(dataset: Any) -> list[str]:
    """Return the columns of a data set, or of its first sample; nothing where that isn't known."""
    names = getattr(without_subsets(dataset), "column_names", None)
    if isinstance(names, list):
        return sorted(names)
    is_stream = isinstance(dataset, IterableDataset)  # which has a `__getitem__` too, that raises
    if is_stream or not hasattr(dataset, "__getitem__") or not has_length(dataset) or not len(dataset):
        return []
    first = dataset[0]
    return sorted(first) if isinstance(first, Mapping) else []
