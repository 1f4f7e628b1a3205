"""One batch's loss: the sum of a task term and of each reference's terms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.nn import functional as F

from ..alignment.grids import common_size, resize_maps, sample_maps
from ..alignment.labels import is_multi_label
from ..explainers import ExplainedOutput
from ..references import Reference, ReferenceOutput
from . import distillation_loss, explanation_loss, guidance_loss, multi_label_distillation_loss


@dataclass
class Objective:
    """One batch's loss, and all that it was made of.

    Args:
        loss: What is minimised, a mean over the batch.
        terms: The unweighted terms by their logged name.
        logits: (B, classes) of the student.
        explained: By reference, the student's explanation of its target; empty where none was made.
        references: What each reference said.
    """

    loss: torch.Tensor
    terms: dict[str, torch.Tensor]
    logits: torch.Tensor
    explained: dict[str, ExplainedOutput] = field(default_factory=dict)
    references: dict[str, ReferenceOutput] = field(default_factory=dict)

    def add(self, name: str, weight: float, value: torch.Tensor) -> None:
        """Adds weight · value to the loss, and the value to the terms."""
        self.terms[name] = value
        self.loss = self.loss + weight * value

    def add_logits(
        self,
        name: str,
        weight: float,
        reference: Reference,
        reference_output: ReferenceOutput,
        temperature: float,
        multi_label: bool = False,
    ) -> None:
        """Adds the distillation of the reference's logits, where it has some and they count.

        Args:
            multi_label: Whether each class is decided for itself.
        """
        if reference_output.logits is not None and weight > 0:
            distance = multi_label_distillation_loss if multi_label else distillation_loss
            losses = distance(reference.student_logits(self.logits), reference_output.logits, temperature)
            self.add(name, weight, losses.mean())

    def add_explanation(
        self,
        name: str,
        weight: float,
        explained: ExplainedOutput,
        reference_output: ReferenceOutput,
        loss: str,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Adds the explanation loss of the student's maps, or of its vectors: the mean over the explained samples.

        A sample with several targets counts by the mean over them.

        Args:
            rows: (B,) bool, the samples that were to be explained; None for all.

        Returns:
            The share of these that had an all-zero map, and counted 0 (but for an annotation).
        """
        single, single_reference = flatten_targets(explained, reference_output)
        if single_reference.annotation is not None:
            assert single.maps is not None
            losses = guidance_loss(single.maps, single_reference.annotation, loss)
            empty = (single.maps == 0).flatten(1).all(1) & (single_reference.target >= 0)
        else:
            student, reference, counted = align_maps(single, single_reference)
            losses, empty = explanation_loss(student, reference, loss, mask=counted)
        losses, empty = (_mean_of_targets(values, reference_output.target) for values in (losses, empty.float()))
        if rows is not None:
            losses, empty = losses[rows], empty[rows]
        self.add(name, weight, losses.mean())
        return empty.mean()


class TermMeans:
    """Each term's mean since it was last logged, over micro-batches and processes."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets what was added."""
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, terms: Mapping[str, torch.Tensor]) -> None:
        """Adds a micro-batch's terms."""
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """By name; every process must ask, and have added something since the last time, or none."""
        if not self._sums:
            return {}
        # A rank whose batches had no labels has no such term.
        names = list(dict.fromkeys(gather_object(list(self._sums))))
        sums = [torch.as_tensor(self._sums.get(name, 0.0), device=accelerator.device) for name in names]
        counts = [torch.tensor(float(self._counts.get(name, 0)), device=accelerator.device) for name in names]
        total, count = accelerator.reduce(torch.stack([torch.stack(sums), torch.stack(counts)]))
        return dict(zip(names, (total / count).tolist(), strict=True))


def classification_loss(student: nn.Module, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A classifier's own loss, a mean over the batch: binary cross-entropies where it is a multi-label one.

    Args:
        student: Its `config.problem_type` and `loss_function` decide, as in transformers.
        logits: (B, classes).
        labels: (B,) classes, −100 where none counts; of a multi-label student (B, classes) of zeros and ones.

    Raises:
        ValueError: labels of another shape or type.
    """
    if is_multi_label(student):
        if labels.shape != logits.shape:
            raise ValueError(
                f"A multi-label student's labels are zeros and ones of the logits' shape {tuple(logits.shape)}, "
                f"not {tuple(labels.shape)}. Give DistillationTransform the number of `classes`."
            )
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(
            f"The loss on labels takes one class a sample, not {labels.dtype} of shape {tuple(labels.shape)}. "
            "For several labels set config.problem_type='multi_label_classification', for soft ones give a "
            "`compute_loss_func`, or set task_weight to 0."
        )
    if (labels < 0).all():
        # The mean over no labels would be NaN.
        return logits.sum() * 0.0
    if hasattr(student, "loss_function"):
        return student.loss_function(labels, logits, student.config)
    return F.cross_entropy(logits, labels)


def concat_targets(
    targets: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, list[int | slice | None]]:
    """The targets (B,) or (B, K) of several references as one target, and the place of each in it.

    Returns:
        (B,) with the place None where there is one reference of one target; else (B, ΣK), with each reference's column
        or columns.
    """
    if len(targets) == 1:
        return targets[0], [None]
    columns = [target[:, None] if target.ndim == 1 else target for target in targets]
    places: list[int | slice | None] = []
    start = 0
    for target, own in zip(targets, columns, strict=True):
        places.append(start if target.ndim == 1 else slice(start, start + own.shape[1]))
        start += own.shape[1]
    return torch.cat(columns, dim=1), places


def flatten_targets(
    explained: ExplainedOutput, reference_output: ReferenceOutput
) -> tuple[ExplainedOutput, ReferenceOutput]:
    """Turns the explanations of K targets a sample, (B, K, …), into those of B·K samples with one."""
    if reference_output.target.ndim == 1:
        return explained, reference_output
    count = reference_output.target.shape[1]

    def of_targets(values: torch.Tensor | None) -> torch.Tensor | None:
        return None if values is None else values.flatten(0, 1)

    def of_samples(values: torch.Tensor | None) -> torch.Tensor | None:
        return None if values is None else values.repeat_interleave(count, 0)

    single = replace(
        explained,
        maps=of_targets(explained.maps),
        vectors=of_targets(explained.vectors),
        mask=of_samples(explained.mask),
    )
    return single, replace(
        reference_output,
        target=reference_output.target.flatten(),
        maps=of_targets(reference_output.maps),
        vectors=of_targets(reference_output.vectors),
        annotation=of_targets(reference_output.annotation),
        mask=of_samples(reference_output.mask),
        view_matrix=of_samples(reference_output.view_matrix),
    )


def _mean_of_targets(values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(B) or (B·K) values → (B), the mean over each sample's targets; 0 where it has none."""
    if target.ndim == 1:
        return values
    exists = target >= 0
    return (values.view_as(target) * exists).sum(1) / exists.sum(1).clamp(min=1)


def align_maps(
    student: ExplainedOutput, reference_output: ReferenceOutput
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """What is compared, on one grid: the student's and the reference's maps (B, *grid), or vectors (B, C, *grid).

    Args:
        student, said: Of one target a sample.

    Returns:
        Both, 0 in the cells that don't count, and which count (the same shape, or None for all).

    Raises:
        ValueError: two texts' maps have different numbers of cells.
    """
    assert student.maps is not None and reference_output.maps is not None
    if student.maps.ndim == 2:
        return _compared_texts(student, reference_output)
    own, reference = student.maps, reference_output.maps
    if student.vectors is not None and reference_output.vectors is not None:
        own, reference = student.vectors, reference_output.vectors
    size = common_size(own, reference)
    own, reference, inside = resize_maps(own, size), *_seen(reference, reference_output, size)
    mask = (
        None if reference_output.mask is None else _seen(reference_output.mask.float(), reference_output, size)[0] > 0.5
    )
    masks = [each for each in (mask, inside) if each is not None]
    if not masks:
        return own, reference, None
    counted = masks[0] & masks[-1]
    counted = counted if own.ndim == 3 else counted[:, None].expand_as(own)
    return own * counted, reference * counted, counted


def _seen(
    maps: torch.Tensor, reference_output: ReferenceOutput, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A reference's maps in the student's view, and which cells of it they reach; None for all."""
    if reference_output.view_matrix is None:
        return resize_maps(maps, size), None
    return sample_maps(maps, reference_output.view_matrix, size)


def _compared_texts(
    student: ExplainedOutput, reference_output: ReferenceOutput
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Words that both have seen; without words, the tokens, which must then be the same."""
    assert student.maps is not None and reference_output.maps is not None
    if student.maps.shape != reference_output.maps.shape:
        raise ValueError(
            f"The student's explanation has {student.maps.shape[-1]} cells and the reference's "
            f"{reference_output.maps.shape[-1]}: they are of different texts, or of different tokenizers. Make the "
            "batches by hf_e2kd.TextCollator(tokenizer, teacher_tokenizer), which matches words."
        )
    masks = [mask for mask in (student.mask, reference_output.mask) if mask is not None]
    counted = masks[0] & masks[-1] if masks else torch.ones_like(student.maps, dtype=torch.bool)
    return student.maps * counted, reference_output.maps * counted, counted
