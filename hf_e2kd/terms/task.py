"""Loss on the labels."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..alignment.labels import is_multi_label, is_score
from ..alignment.precision import at_least_float32
from ..alignment.scores import is_regression
from .base import ReferenceOutput, StepOutput, Term

TASK_LOSSES = ("auto", "mse")
"""Losses on the labels: that which suits the student, or the mean squared error of its probabilities."""


class Task(Term):
    """The student's own loss on the labels, as the stock `Trainer` computes it, a mean over the batch.

    Args:
        weight: Weight; None for the argument `task_weight`.
        loss: Loss of the model's output and the labels, in the place of `classification_loss`.
    """

    name = "task"
    needs = frozenset({"labels"})
    weight_argument = "task_weight"

    def __init__(self, weight: float | None = None, loss: Callable[[Any, torch.Tensor], torch.Tensor] | None = None):
        super().__init__(weight)
        self.loss = loss

    def attach(self, student: nn.Module, reference: Any) -> None:
        # Not the student itself, which would become a part of this module.
        self._classification_loss = partial(classification_loss, student)

    def forward(
        self, output: StepOutput, reference_output: ReferenceOutput | None, inputs: Mapping[str, Any]
    ) -> torch.Tensor | None:
        labels = inputs.get("labels")
        if labels is None:
            return None
        if self.loss is not None:
            return self.loss(output.model_output, labels)
        return self._classification_loss(output.logits, labels)


def probability_mse(student: nn.Module, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of the softmax and the one-hot class, over samples and classes.

    XDistillation (Alharbi et al., IEEE Big Data 2021, Sec. IV-A) trains LeNet's teacher by it.

    Args:
        student: Classifier with one class a sample.
        logits: (B, classes).
        labels: (B,) classes; negative ones, as −100, don't count.

    Raises:
        ValueError: a student of several labels or of a score, or labels of another shape or type.

    Example:
        >>> probability_mse(nn.Linear(1, 2), torch.zeros(1, 2), torch.tensor([1]))
        tensor(0.2500)
    """
    if is_multi_label(student) or is_score(student):
        raise ValueError(
            f"task_loss='mse' compares the probabilities of one class a sample, which {type(student).__name__} doesn't "
            "give. Take task_loss='auto'."
        )
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(
            f"task_loss='mse' takes one class a sample (integers), not {labels.dtype} of shape {tuple(labels.shape)}. "
            "Take task_loss='auto' for shares of classes."
        )
    known = labels >= 0
    wanted = F.one_hot(labels.clamp(min=0), logits.shape[1])
    errors = (at_least_float32(logits).softmax(dim=1) - wanted).square().mean(dim=1)
    return (errors * known).sum() / known.sum().clamp(min=1)


def classification_loss(
    student: nn.Module, logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Mean cross-entropy of a classifier as transformers chooses it; binary cross-entropy for a multi-label one.

    A student of one logit takes the mean squared error, if its configuration says that it is a regressor.

    Args:
        student: Classifier whose `config.problem_type` and `loss_function` decide, as in transformers.
        logits: (B, classes).
        labels: (B,) classes, −100 where none counts, or (B, classes) shares of each sample, which sum to 1 (mixed
            images); of a multi-label student (B, classes) of zeros and ones; of a regressor (B,) or (B, 1) numbers.
        label_smoothing: Share of the truth that is spread over all classes; of shares alone.

    Raises:
        ValueError: labels of another shape or type, or a student of one logit that doesn't say what its labels mean.
    """
    if is_multi_label(student):
        if labels.shape != logits.shape:
            raise ValueError(
                f"A multi-label student's labels are zeros and ones of the logits' shape {tuple(logits.shape)}, "
                f"not {tuple(labels.shape)}. Give DistillationTransform the number of `classes`."
            )
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    if is_score(student):
        if not is_regression(student):
            raise ValueError(
                f"{type(student).__name__} has one logit (num_labels=1) and doesn't say what its labels mean: "
                "config.problem_type is None. Set student.config.problem_type='regression' for the mean squared error, "
                "give a `compute_loss_func` for another loss, or set task_weight to 0."
            )
        if labels.shape not in (logits.shape, logits.shape[:1]):
            raise ValueError(f"A regressor's labels are one number a sample, not of shape {tuple(labels.shape)}.")
        return F.mse_loss(logits.view(-1), labels.view(-1).to(logits.dtype))
    if labels.shape == logits.shape and labels.is_floating_point():
        if ((labels.sum(dim=1) - 1).abs() > 1e-2).any():
            raise ValueError(
                f"The loss on labels takes one class a sample, or shares of classes that sum to 1, and these sum to "
                f"{labels.sum(dim=1).tolist()[:4]}. For several labels set "
                "config.problem_type='multi_label_classification', or set task_weight to 0."
            )
        return F.cross_entropy(logits, labels.to(logits.dtype), label_smoothing=label_smoothing)
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(
            f"The loss on labels takes one class a sample (integers), or shares of the classes of the shape "
            f"{tuple(logits.shape)}, not {labels.dtype} of shape {tuple(labels.shape)}. For several labels set "
            "config.problem_type='multi_label_classification', or set task_weight to 0."
        )
    if (labels < 0).all():
        # The mean over no labels would be NaN.
        return logits.sum() * 0.0
    if isinstance(student, PreTrainedModel) and (student.loss_type is not None or hasattr(student, "_loss_function")):
        return student.loss_function(labels, logits, student.config)
    # Of a class of the user's own, whose name says nothing, transformers' loss would be that of a language model.
    return F.cross_entropy(logits, labels)
