"""Distillation with self-supervision (SSKD; Xu et al., ECCV 2020)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ...alignment.inputs import ANNOTATION_COLUMNS, first_tensor
from ...alignment.labels import is_multi_label, is_score
from ...alignment.precision import at_least_float32
from ..base import ReferenceOutput, StepOutput
from ..logits import kl_loss
from ..numbers import read_number
from ..processes import gather_rows, of_all_processes
from .base import FeatureTerm, pool_places, train_teacher_module

PARTS = ("labels", "logits", "similarities", "rotated")


class SSKD(FeatureTerm):
    """Loss on labels and logits of the images as they are, on the similarities of rotated images, and on their logits.

    Each image joins the batch turned by 90, 180 and 270 degrees as well. A head of two layers on pooled features embeds
    them, the teacher's trained in a first stage to find, by the cosine, a turned image's own upright one, the student's
    with the student. Then (Eqs. 3–8 and the authors' code)

    w₁·CE(labels) + w₂·KL(logits) + w₃·KL(similarities of turned to upright images) + w₄·KL(logits of turned images),

    each KL at its own temperature τ and times τ². Of the similarities and of the turned images' logits those count that
    the teacher has right and, in the order of the right answer's rank, a share of those that it has wrong. All four
    parts are here, as in the paper: give the training task_weight=0 and logits_weight=0, or the first two weights 0. On
    several processes the images of all are compared. The parts are logged as `sskd_labels`, `sskd_logits`,
    `sskd_similarities` and `sskd_rotated`. Unlike in the authors' code, an image is turned after its augmentation.

    Args:
        weight: Weight of the whole.
        layers: Path of the student's layer and of the teacher's; by default the last stage, or block, of both.
        reference: Name of the teacher.
        weights: Weights w₁ to w₄ [Han et al., ICML 2023].
        temperatures: Temperatures of the logits, the similarities and the turned images' logits.
        ratios: Shares of the wrong answers that are kept, of the similarities and of the turned images' logits.
        stage_epochs: Epochs of the teacher's head's stage.

    Raises:
        ValueError: an option is out of range, or several layers are given; a student without one class a sample; in
            `setup`, inputs that are no square images; in training, labels that aren't one class a sample.
    """

    name = "sskd"
    needs = frozenset({"features", "labels", "logits"})
    citation = r"""@inproceedings{xu2020knowledge,
    title = {Knowledge Distillation Meets Self-Supervision},
    author = {Xu, Guodong and Liu, Ziwei and Li, Xiaoxiao and Loy, Chen Change},
    booktitle = {European Conference on Computer Vision},
    year = {2020}
}"""

    def __init__(
        self,
        weight: float = 1.0,
        layers: Mapping[str, str] | None = None,
        reference: str | None = None,
        weights: Sequence[float] = (1.0, 0.9, 10.0, 2.7),
        temperatures: Sequence[float] = (4.0, 0.5, 4.0),
        ratios: Sequence[float] = (0.75, 1.0),
        stage_epochs: float = 30.0,
    ):
        super().__init__(weight, layers, reference)
        if self.layers is not None and len(self.layers) != 1:
            raise ValueError(f"The term '{self.name}' compares one pair of layers, and {len(self.layers)} are given.")
        self.weights = _numbers("weights", weights, 4, at_least=0)
        self.temperatures = _numbers("temperatures", temperatures, 3, above=0)
        self.ratios = _numbers("ratios", ratios, 2, at_least=0)
        if max(self.ratios) > 1:
            raise ValueError(f"ratios are shares from 0 to 1, not {ratios!r}.")
        self.stage_epochs = read_number("stage_epochs", stage_epochs, above=0)

    def default_layers(self, student: list[str], teacher: list[str]) -> dict[str, str]:
        return {student[-1]: teacher[-1]}

    def attach(self, student: nn.Module, reference: Any) -> None:
        if is_multi_label(student) or is_score(student):
            raise ValueError(
                f"The term '{self.name}' ranks classes by one label a sample, and {type(student).__name__} gives "
                "several labels or a score. Take 'hint' or 'crd'."
            )
        super().attach(student, reference)
        self._shared = reference.student_logits

    def setup(
        self, output: StepOutput, reference_output: ReferenceOutput, inputs: Mapping[str, Any], dataset: Any
    ) -> None:
        self.views(inputs)
        own, theirs = output.features[self.taps[0]], reference_output.features[self.reference_taps[0]]
        self.student_head, self.teacher_head = _head(own.shape[-1]), _head(theirs.shape[-1])
        self.teacher_head.requires_grad_(False)

    def views(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Turn the images by 90, 180 and 270 degrees: three rows an image, with its labels."""
        rows = len(first_tensor(inputs))
        view = {}
        for name, value in inputs.items():
            if name.endswith("pixel_values"):
                if value.shape[-1] != value.shape[-2]:
                    raise ValueError(
                        f"The term '{self.name}' turns images by 90 degrees, and '{name}' has the shape "
                        f"{tuple(value.shape)}. Give square images."
                    )
                view[name] = torch.stack([value.rot90(turns, (-2, -1)) for turns in (1, 2, 3)], dim=1).flatten(0, 1)
            elif name == "labels" or name not in ANNOTATION_COLUMNS:
                is_row = isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == rows
                view[name] = value.repeat_interleave(3, dim=0) if is_row else value
        if not any(name.endswith("pixel_values") for name in view):
            raise ValueError(
                f"The term '{self.name}' turns images, and the batch has none. Its columns: {sorted(inputs)}. Take "
                "'hint' or 'crd' for texts."
            )
        return view

    def prepare(self, trainer: Any) -> None:
        train_teacher_module(self, self.teacher_head, trainer, self.stage_epochs)

    def forward(
        self, output: StepOutput, reference_output: ReferenceOutput | None, inputs: Mapping[str, Any]
    ) -> torch.Tensor | None:
        assert reference_output is not None
        with torch.autocast(output.logits.device.type, enabled=False):
            return self.compare(output, reference_output, inputs)

    def compare(
        self, output: StepOutput, reference_output: ReferenceOutput, inputs: Mapping[str, Any]
    ) -> torch.Tensor | None:
        """Sum the parts over the images of all processes, or return the loss of the first stage, in full precision."""
        assert reference_output.view is not None
        path = self.reference_taps[0]
        with torch.set_grad_enabled(self.in_first_stage):
            theirs = similarities(
                self.embed(self.teacher_head, reference_output.features[path]),
                self.embed(self.teacher_head, reference_output.view.features[path]),
            )
        upright = torch.arange(len(theirs), device=theirs.device) // 3
        if self.in_first_stage:
            return of_all_processes(F.cross_entropy(theirs, upright))
        labels, shared_labels = inputs.get("labels"), reference_output.shared_labels
        if labels is None and not self.training:
            return None  # an evaluation without labels measures the rest
        if labels is None or labels.ndim != 1 or shared_labels is None:
            found = "none" if labels is None else f"of the shape {tuple(labels.shape)}"
            raise ValueError(
                f"The term '{self.name}' takes one label a sample, (B,), and a batch's labels are {found}. Leave out "
                "what mixes images, and give labels with every batch."
            )
        assert output.view is not None
        own = similarities(
            self.embed(self.student_head, output.features[self.taps[0]]),
            self.embed(self.student_head, output.view.features[self.taps[0]]),
        )
        logits, turned_logits = (_scores(self._shared(each.logits)) for each in (output, output.view))
        knowledge, turned_knowledge = (_scores(each.logits) for each in (reference_output, reference_output.view))
        truth = gather_rows(shared_labels).repeat_interleave(3)
        labels = gather_rows(labels)
        errors = F.cross_entropy(_scores(output.logits), labels, reduction="sum")
        parts = (
            errors / (labels >= 0).sum().clamp(min=1),
            kl_loss(logits, knowledge, self.temperatures[0]).mean(),
            kept_mean(kl_loss(own, theirs, self.temperatures[1]), keep_by_rank(theirs, upright, self.ratios[0])),
            kept_mean(
                kl_loss(turned_logits, turned_knowledge, self.temperatures[2]),
                keep_by_rank(turned_knowledge, truth, self.ratios[1]),
            ),
        )
        self.logged = {f"{self.name}_{name}": part.detach() for name, part in zip(PARTS, parts, strict=True)}
        return of_all_processes(torch.stack(parts) @ parts[0].new_tensor(self.weights))

    def embed(self, head: nn.Module, features: torch.Tensor) -> torch.Tensor:
        """Embed the pooled features of all processes: (rows, dim)."""
        return gather_rows(head(pool_places(at_least_float32(features))))


def similarities(upright: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
    """Cosines (R, B) of embeddings (R, dim) of turned images with those (B, dim) of upright ones (Eq. 3)."""
    return F.normalize(turned, dim=1) @ F.normalize(upright, dim=1).T


def keep_by_rank(scores: torch.Tensor, truth: torch.Tensor, ratio: float) -> torch.Tensor:
    """Choose the rows whose right answer scores highest, and a share of the others, by the right answer's rank.

    Args:
        scores: Scores (R, C).
        truth: Right answers (R,); −1 for unknown ones, which rank last.
        ratio: Share of the rows with wrong answers that is kept, rounded down.

    Returns:
        (R,) bool.
    """
    rank = (scores > scores.gather(1, truth.clamp(min=0)[:, None])).sum(dim=1).masked_fill(truth < 0, scores.shape[1])
    wrong = (rank > 0).sum()
    count = len(rank) - wrong + (wrong.double() * ratio).floor()
    place = rank.argsort(stable=True).argsort()
    return place < count


def kept_mean(values: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Average values (R,) over the rows of a mask (R,) bool; 0 where there are none."""
    return (values * kept).sum() / kept.sum().clamp(min=1)


def _scores(logits: torch.Tensor | None) -> torch.Tensor:
    """Gather the logits of all processes' samples."""
    assert logits is not None
    return gather_rows(at_least_float32(logits))


def _head(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels))


def _numbers(name: str, values: Any, count: int, **bounds: float) -> tuple[float, ...]:
    if not isinstance(values, list | tuple) or len(values) != count:
        raise ValueError(f"{name} of the term 'sskd' are {count} numbers, not {values!r}.")
    return tuple(read_number(f"Each of {name}", value, **bounds) for value in values)
