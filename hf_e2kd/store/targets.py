"""The classes that a store explains, as the teacher's and as the student's."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..alignment.labels import DataLabels, LabelAlignment, align_names, class_count, class_names, list_positives
from .files import StoreError
from .shards import Shards

TARGETS = ("teacher_top", "label", "positives")


class TargetRule:
    """The rule by which the explained classes are chosen among the teacher's.

    Args:
        rule: One of `TARGETS`.
        teacher: The classifier that is explained.
        data_names: Names of the classes that the data's labels stand for; None where the data doesn't state them, and
            the labels are taken to be the teacher's classes.
        classes: Names of the classes that may be explained; None for all.
    """

    def __init__(self, rule: str, teacher: nn.Module, data_names: list[str] | None, classes: Sequence[str] | None):
        self.rule = rule
        names, count = class_names(teacher), class_count(teacher)
        self.count = count
        self.allowed: torch.Tensor | None = None
        if classes is not None:
            self.allowed = align_names(names, list(classes), count, len(classes)).teacher
        self.labels = None
        if rule != "teacher_top" and data_names is not None and names is not None:
            self.labels = align_names(names, data_names, count, len(data_names))

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """The explained classes (B,) of the teacher; (B, K), padded by −1, for the rule "positives".

        Raises:
            ValueError: logits of another number of classes than the teacher states, or labels that are no classes.
        """
        if self.count not in (None, logits.shape[1]):
            raise StoreError(
                f"The teacher gives {logits.shape[1]} logits, and its configuration names {self.count} classes. Name "
                f"all of its classes in `id2label`, or load it with num_labels={self.count}."
            )
        if self.rule == "positives":
            return self._positives(logits, labels)
        top = logits.argmax(1)
        if self.allowed is not None:
            allowed = self.allowed.to(logits.device)
            top = allowed[logits[:, allowed].argmax(1)]
        if self.rule == "teacher_top":
            return top
        if labels is None or labels.ndim != 1 or labels.is_floating_point():
            raise StoreError(
                "target='label' needs one label a sample, as whole numbers in a column `labels`, −100 for none; name "
                "it by `label_column`, or use 'teacher_top'."
            )
        known = logits.shape[1] if self.labels is None else self.labels.student_classes
        labels = DataLabels(known)(labels)
        own = labels if self.labels is None else self._of_teacher(labels)
        valid = (own >= 0) & (own < logits.shape[1])
        if self.allowed is not None:
            valid &= torch.isin(own, self.allowed.to(own.device))
        return torch.where(valid, own, top)

    def _of_teacher(self, labels: torch.Tensor) -> torch.Tensor:
        assert self.labels is not None
        shared = self.labels.student_to_shared(labels)
        return torch.where(shared >= 0, self.labels.to_teacher(shared.clamp(min=0)), -1)

    def _positives(self, logits: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        expected = logits.shape[1] if self.labels is None else self.labels.student_classes
        if labels is None or labels.ndim != 2 or labels.shape[1] != expected:
            found = None if labels is None else tuple(labels.shape)
            raise StoreError(
                f"target='positives' needs labels of shape ({len(logits)}, {expected}), 1 where a class is present, "
                f"not {found}."
            )
        present = torch.zeros_like(logits, dtype=torch.bool)
        if self.labels is None:
            present = labels > 0
        else:
            teacher, data = self.labels.teacher.to(labels.device), self.labels.student.to(labels.device)
            present[:, teacher] = labels[:, data] > 0
        if self.allowed is not None:
            keep = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
            keep[self.allowed.to(logits.device)] = True
            present = present & keep
        return list_positives(present)


def student_classes(alignment: LabelAlignment, target: torch.Tensor) -> torch.Tensor:
    """Classes of the teacher as classes of the student; −1 where it has none."""
    lookup = torch.full((alignment.teacher_classes + 1,), -1, device=target.device)
    lookup[alignment.teacher.to(target.device)] = alignment.student.to(target.device)
    # −1 is the last place.
    return lookup[target]


def refuse_mixed(labels: torch.Tensor, folder: Path) -> None:
    """Refuse labels that are shares of classes, by which mixed images are known: they have no stored explanation.

    Raises:
        StoreError: naming the store.
    """
    if labels.is_floating_point() and ((labels > 0) & (labels < 1)).any():
        raise StoreError(
            f"The labels are shares of classes, as of images that MixUp or CutMix mixed, and the store {folder} "
            "explains each image by itself. Leave the mixing (or the label smoothing) out, or give the trainer a live "
            "`teacher_model`, which explains mixed images."
        )


def warn_of_unknown_targets(shards: Shards, alignment: LabelAlignment) -> None:
    """Warn of samples that explain a class that the student lacks, and so explain nothing."""
    unknown = unknown_targets(shards, alignment)
    if unknown:
        warnings.warn(
            f"{unknown} of the explained classes in the store {shards.folder} are not classes of the student; nothing "
            "is learned from their maps. Build the store with `classes`, the names of the student's classes.",
            stacklevel=3,
        )


def unknown_targets(shards: Shards, alignment: LabelAlignment) -> int:
    """The number of explained classes that are none of the student's."""
    if len(alignment.teacher) == alignment.teacher_classes:
        return 0
    unknown = 0
    for first in range(0, len(shards), 4096):
        rows = np.arange(first, min(first + 4096, len(shards)))
        targets = shards.read(rows, ["target"])["target"]
        for own in targets if isinstance(targets, list) else [targets]:
            unknown += int((~np.isin(own, alignment.teacher.numpy())).sum())
    return unknown
