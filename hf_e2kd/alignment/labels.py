"""Classes of two models, matched by name."""

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import ConcatDataset, Subset


@dataclass(frozen=True)
class LabelAlignment:
    """The classes that teacher and student share, by their indices in both.

    Args:
        teacher: Indices (shared,) of the shared classes in the teacher's logits.
        student: Indices (shared,) of the same classes in the student's logits.
        teacher_classes, student_classes: Number of classes of each model.
    """

    teacher: torch.Tensor
    student: torch.Tensor
    teacher_classes: int
    student_classes: int

    @property
    def is_identity(self) -> bool:
        """Tell whether both models have the same classes in the same order, so that nothing must be selected."""
        everything = torch.arange(self.student_classes)
        return (
            self.teacher_classes == self.student_classes
            and len(self.student) == self.student_classes
            and torch.equal(self.teacher, everything)
            and torch.equal(self.student, everything)
        )

    def teacher_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """The shared classes' logits (B, shared) of the teacher's (B, teacher_classes)."""
        _check_count("teacher", logits, self.teacher_classes)
        return logits if self.is_identity else logits.index_select(1, self.teacher.to(logits.device))

    def student_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """The shared classes' logits (B, shared) of the student's (B, student_classes)."""
        _check_count("student", logits, self.student_classes)
        return logits if self.is_identity else logits.index_select(1, self.student.to(logits.device))

    def to_teacher(self, shared: torch.Tensor) -> torch.Tensor:
        """Convert positions among the shared classes to classes of the teacher; −1 stays."""
        return _looked_up(self.teacher, shared)

    def to_student(self, shared: torch.Tensor) -> torch.Tensor:
        """Convert positions among the shared classes to classes of the student; −1 stays."""
        return _looked_up(self.student, shared)

    def student_to_shared(self, labels: torch.Tensor) -> torch.Tensor:
        """Convert classes of the student to positions among the shared classes; −1 where a class isn't shared."""
        lookup = torch.full((self.student_classes,), -1, device=labels.device)
        lookup[self.student.to(labels.device)] = torch.arange(len(self.student), device=labels.device)
        known = (labels >= 0) & (labels < self.student_classes)
        return torch.where(known, lookup[labels.where(known, 0)], -1)


def _check_count(side: str, logits: torch.Tensor, classes: int) -> None:
    """Refuse logits of more or fewer classes than were matched: names would stand for other logits."""
    if logits.shape[1] != classes:
        raise ValueError(
            f"The {side} gives {logits.shape[1]} logits, and its configuration names {classes} classes. Name all of "
            f"its classes in `id2label`, or load it with num_labels={classes}."
        )


def _looked_up(classes: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return classes.to(positions.device)[positions.clamp(min=0)].where(positions >= 0, -1)


def choose_positive(labels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """One of each sample's classes, each as likely as the others, to be explained at a training step.

    References:
        Rao et al., "Studying How to Efficiently and Effectively Guide Models with Explanations", ICCV 2023: one
        ground-truth class an image and step.

    Args:
        labels: Labels (B, classes), above zero where a sample has the class (and it may be chosen).
        noise: Random numbers (B,) in [0, 1).

    Returns:
        (B,); −1 for a sample without a class.

    Example:
        >>> labels = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0]])
        >>> choose_positive(labels, torch.tensor([0.7, 0.7, 0.7]))
        tensor([ 2,  0, -1])
    """
    shown = labels > 0
    count = shown.sum(1)
    # The product may round up to the count.
    rank = (noise * count).long().minimum(count - 1)
    chosen = shown & (shown.cumsum(1) == rank[:, None] + 1)
    return torch.where(count > 0, chosen.long().argmax(1), -1)


def list_positives(labels: torch.Tensor) -> torch.Tensor:
    """All of each sample's classes, ascending: (B, classes) to (B, K), padded by −1; K is at least 1.

    Example:
        >>> list_positives(torch.tensor([[0, 1, 1], [1, 0, 0]]))
        tensor([[ 1,  2],
                [ 0, -1]])
    """
    shown = labels > 0
    most = max(1, int(shown.sum(1).max())) if len(shown) else 1
    order = (~shown).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
    return order.where(shown.gather(1, order), -1)


def class_names(model: nn.Module) -> list[str] | None:
    """A model's class names in the order of its logits; None where its configuration has only `LABEL_0`, …."""
    id2label = getattr(getattr(model, "config", None), "id2label", None)
    if not id2label:
        return None
    numbers = {str(index) for index in id2label} if isinstance(id2label, Mapping) else set()
    if numbers != {str(index) for index in range(len(id2label))}:
        raise ValueError(
            f"config.id2label of {type(model).__name__} must name the classes by their numbers from 0 on, as "
            f"{{0: 'cat', 1: 'dog'}}, not {str(id2label)[:80]}. Of a list: dict(enumerate(names))."
        )
    names = [str(id2label[index]) for index in sorted(id2label, key=int)]
    return None if all(name == f"LABEL_{index}" for index, name in enumerate(names)) else names


def class_count(model: nn.Module) -> int | None:
    """The number of logits that a model gives, as far as its configuration or timm says so."""
    config = getattr(model, "config", None)
    return getattr(config, "num_labels", None) or getattr(model, "num_classes", None)


def is_multi_label(model: nn.Module) -> bool:
    """Tell whether a model decides each class for itself, as its configuration's `problem_type` says."""
    return getattr(getattr(model, "config", None), "problem_type", None) == "multi_label_classification"


def is_score(model: nn.Module) -> bool:
    """Tell whether a model gives one logit, a score, and not one of a single label's presence."""
    return class_count(model) == 1 and not is_multi_label(model)


def align_labels(teacher: nn.Module, student: nn.Module) -> LabelAlignment:
    """Match the classes of two models.

    By name where both have names (letter case and surrounding blanks don't matter). Where a side has none, by index if
    both have equally many classes, with a warning. Two models of one score each match whatever it is called.

    Raises:
        ValueError: the match is ambiguous, empty, or there is nothing to match by.
    """
    scores = is_score(teacher) and is_score(student)
    return align_names(class_names(teacher), class_names(student), class_count(teacher), class_count(student), scores)


def align_names(
    teacher_names: list[str] | None,
    student_names: list[str] | None,
    teacher_classes: int | None = None,
    student_classes: int | None = None,
    scores: bool = False,
) -> LabelAlignment:
    """`align_labels` from names (None where there are none) and counts (None where unknown).

    Args:
        scores: True where both models give one logit that is a score, whose name is no class's.
    """
    if scores:
        return LabelAlignment(torch.tensor([0]), torch.tensor([0]), 1, 1)
    if teacher_names is not None and student_names is not None:
        if [name_key(name) for name in teacher_names] == [name_key(name) for name in student_names]:
            # The same list is no puzzle, even with a name twice in it (ImageNet's two cranes).
            everything = torch.arange(len(student_names))
            return LabelAlignment(everything, everything, len(teacher_names), len(student_names))
        teacher_ids = _by_name(teacher_names, "teacher", student_names)
        student_ids = _by_name(student_names, "student", teacher_names)
        shared = [name for name in student_ids if name in teacher_ids]
        if not shared:
            raise ValueError(
                f"Teacher and student share no label. The teacher's {len(teacher_names)} begin with "
                f"{teacher_names[:5]}, the student's {len(student_names)} with {student_names[:5]}. Where they mean "
                "the same, give both the same names in `id2label`; where the teacher knows other classes, give it a "
                "classifier for the student's: hf-e2kd distill --teacher-head fit (in Python "
                "hf_e2kd.experiments.fit_head), or --finetune-teacher EPOCHS."
            )
        return LabelAlignment(
            torch.tensor([teacher_ids[name] for name in shared]),
            torch.tensor([student_ids[name] for name in shared]),
            len(teacher_names),
            len(student_names),
        )
    if student_classes is None and student_names is None:
        raise ValueError(
            "The student doesn't say what it classifies: it has no `config` and no `num_classes`. Give it the names of "
            "its classes, as student.config = PreTrainedConfig(id2label={0: 'cat', 1: 'dog'})."
        )
    if teacher_classes is None or teacher_classes != student_classes:
        raise ValueError(
            f"The teacher has {teacher_classes} classes and the student {student_classes}, and at least one of them "
            "has no label names to match by. Set `id2label` on both."
        )
    warnings.warn(
        f"No label names on {'both sides' if teacher_names is student_names else 'one side'}: the {teacher_classes} "
        "classes of teacher and student are matched by index. Set `id2label` on both to match them by name.",
        stacklevel=3,
    )
    everything = torch.arange(teacher_classes)
    return LabelAlignment(everything, everything, teacher_classes, teacher_classes)


def name_key(name: str) -> str:
    """The form in which names of classes are compared: upper and lower case alike, without outer spaces."""
    return name.strip().casefold()


def _by_name(names: list[str], side: str, others: list[str]) -> dict[str, int]:
    """Number the names; refuse one that stands twice, unless the other side lacks it and nothing is matched by it."""
    ids: dict[str, int] = {}
    known = {name_key(name) for name in others}
    for index, name in enumerate(names):
        key = name_key(name)
        if key in ids and key in known:
            raise ValueError(
                f"The {side}'s classes {ids[key]} and {index} are both named '{name.strip()}', so labels can't be "
                "matched by name. Make the names in `id2label` unique."
            )
        ids[key] = index
    return ids


def dataset_label_names(dataset: Any, label_column: str | None = None) -> list[str] | None:
    """The class names that a `datasets.Dataset` states for its column of labels, or None.

    The column is the one that the data set's transform reads (`DistillationTransform`), or `label_column`, where that
    is there; else `labels` or `label`.

    A `torch.utils.data.Subset` states those of the data set that it is a part of, a `ConcatDataset` those in which its
    parts agree.
    """
    names = _names_of_parts(dataset, label_column)
    return names[0] if len(names) == 1 else None


def _names_of_parts(dataset: Any, label_column: str | None) -> list[list[str]]:
    """The different lists of class names that a data set's parts state."""
    parts = [_names_of_part(part, label_column) for part in parts_of(dataset)]
    return [names for number, names in enumerate(parts) if names is not None and names not in parts[:number]]


def _names_of_part(dataset: Any, label_column: str | None) -> list[str] | None:
    features: Mapping[str, Any] = getattr(dataset, "features", None) or {}
    named = (getattr(transform_of(dataset), "label_column", None), label_column)
    read = next((column for column in named if column is not None and column in features), None)
    for column in ("labels", "label") if read is None else (read,):
        feature = features.get(column)
        # Several labels a sample are a list of classes.
        names = getattr(getattr(feature, "feature", feature), "names", None)
        if names:
            return list(names)
    return None


def transform_of(dataset: Any) -> Any:
    """The function by which a `datasets.Dataset`, or what wraps one and states its format, makes samples, or None."""
    form = getattr(without_subsets(dataset), "format", None)
    return (form.get("format_kwargs") or {}).get("transform") if isinstance(form, Mapping) else None


def without_subsets(dataset: Any) -> Any:
    """The data set that a `torch.utils.data.Subset`, or a subset of one, is a part of; others are given back."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


def parts_of(dataset: Any) -> list[Any]:
    """The data sets that `torch.utils.data.ConcatDataset` has put together, without subsets; or the one that it is.

    Ours, which add to another's samples, name it as their `labelled_dataset`.
    """
    dataset = without_subsets(dataset)
    if isinstance(dataset, ConcatDataset):
        return [part for own in dataset.datasets for part in parts_of(own)]
    whole = getattr(dataset, "labelled_dataset", None)
    return [dataset] if whole is None else parts_of(whole)


@dataclass(frozen=True)
class DataLabels:
    """Labels of a data set as classes of a model; a call takes a batch of them there.

    Args:
        classes: Number of the model's classes; None where it isn't known.
        order: (data set's classes,) their indices in the model's logits; None where both are numbered alike.
        checked: Whether labels are numbers of classes, which must be in range; False for a model of scores.

    Raises:
        ValueError: on a call, labels of no class.
    """

    classes: int | None
    order: torch.Tensor | None = None
    checked: bool = True

    def __call__(self, labels: torch.Tensor) -> torch.Tensor:
        """Take labels (B,), -100 for none, or shares (B, classes) of a data set to the model's classes.

        Shares are in the data set's order, and 0 for classes beyond its own.
        """
        if not self.checked:
            return labels
        if labels.ndim == 2 and self.order is not None:
            count = len(self.order)
            if labels.shape[1] < count or labels[:, count:].any():
                raise ValueError(
                    f"Labels with shares of {labels.shape[1]} classes, and the data set numbers {count}, which the "
                    "model orders otherwise. Give shares of the data set's classes, in its own order."
                )
            shares = labels.new_zeros(len(labels), self.classes or count)
            return shares.index_copy(1, self.order, labels[:, :count])
        if labels.ndim == 2 and self.classes is not None and labels.shape[1] != self.classes:
            raise _no_class(f"have the shape {tuple(labels.shape)}", self.classes)
        if labels.ndim != 1:
            return labels
        known = self.classes if self.order is None else len(self.order)
        if labels.dtype == torch.bool or labels.is_floating_point():
            raise _no_class(f"are of the type {str(labels.dtype).removeprefix('torch.')}", known)
        labels = labels.long()
        wrong = (labels < 0) & (labels != NO_LABEL) | (labels >= known if known is not None else labels > labels)
        if wrong.any():
            raise _no_class(f"hold the numbers {labels[wrong].unique().tolist()[:8]}", known)
        return labels if self.order is None else torch.where(labels < 0, labels, self.order[labels.clamp(min=0)])

    def of_boxes(self, labels: torch.Tensor) -> torch.Tensor:
        """Take the classes (B, N) of boxes, padded by −1, to the model's classes."""
        return self(labels.masked_fill(labels == -1, NO_LABEL).flatten()).view_as(labels).clamp(min=-1)


NO_LABEL = -100
"""Label of a sample without one, as in torch and transformers."""


def _no_class(found: str, known: int | None) -> ValueError:
    numbers = "from 0 on" if known is None else f"0 to {known - 1}"
    return ValueError(
        f"The labels {found}, and the classes are numbered {numbers}, as integers; -100 alone means a sample without "
        "label. Renumber them, for example by dataset.class_encode_column, or leave the column out."
    )


def data_labels(dataset: Any, model: nn.Module, label_column: str | None = None) -> DataLabels | None:
    """Match a data set's labels with a model's classes: by name where both state names, else by number.

    Returns:
        The match; None for labels of another label space or of several, or of classes that the model lacks.
    """
    of_parts, known, count = _names_of_parts(dataset, label_column), class_names(model), class_count(model)
    if len(of_parts) > 1:  # which number their classes otherwise
        return None
    stated = of_parts[0] if of_parts else None
    checked = count != 1 and getattr(getattr(model, "config", None), "problem_type", None) != "regression"
    own = DataLabels(count, checked=checked)
    if stated is None:
        return own
    if known is None:
        return own if len(stated) == count else None
    theirs, ours = [name_key(name) for name in stated], [name_key(name) for name in known]
    if theirs == ours:
        return own
    # A name that stands twice says no number; one that the data don't have does no harm.
    count_of = Counter(ours)
    if len(set(theirs)) < len(theirs) or any(count_of[name] != 1 for name in theirs):
        return None
    return DataLabels(len(ours), torch.tensor([ours.index(name) for name in theirs]))


def labels_belong_to(dataset: Any, model: nn.Module, label_column: str | None = None) -> bool:
    """Tell whether a data set's labels are classes of the model, as far as both state names (`data_labels`).

    Labels of another label space (distilling a model of birds on photographs of furniture) must never be scored.
    """
    return data_labels(dataset, model, label_column) is not None
