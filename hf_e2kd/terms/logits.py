"""Losses between a student's and a teacher's logits, each (B, classes) → (B,)."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..alignment.labels import is_multi_label, is_score
from ..alignment.precision import at_least_float32
from ..choices import unknown_choice
from .base import ReferenceOutput, StepOutput, Term

LogitsLoss = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
"""(student (B, classes), teacher (B, classes), temperature) → (B,); both in at least float32."""

NEAREST = 1e-6
"""Distance from 0 and 1 to which a probability is clamped before its logarithm [the official code]."""

HINTON = r"""@misc{hinton2015distilling,
    title = {Distilling the Knowledge in a Neural Network},
    author = {Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff},
    year = {2015},
    eprint = {1503.02531},
    archivePrefix = {arXiv}
}"""

MARGIN_MSE = r"""@misc{hofstatter2020improving,
    title = {Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation},
    author = {Hofst{\"a}tter, Sebastian and Althammer, Sophia and Schr{\"o}der, Michael and Sertkan, Mete and
        Hanbury, Allan},
    year = {2020},
    eprint = {2010.02666},
    archivePrefix = {arXiv}
}"""


def kl_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Soft-label loss: τ²·KL(softmax(teacher/τ) ‖ softmax(student/τ)) (Hinton et al., 2015, Sec. 2; e²KD, Eq. 1).

    It differs from the cross-entropy that the papers print by the teacher's entropy, a constant.
    """
    divergence = F.kl_div(
        (student / temperature).log_softmax(dim=1),
        (teacher / temperature).log_softmax(dim=1),
        reduction="none",
        log_target=True,
    )
    return divergence.sum(dim=1) * temperature**2


def multi_label_kl_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Multi-label loss: τ²·Σ_classes [KL(t‖s) + KL(1−t‖1−s)], t and s = sigmoid(logits/τ) (e²KD's code, for VOC)."""
    s, t = ((logits / temperature).sigmoid().clamp(NEAREST, 1 - NEAREST) for logits in (student, teacher))
    divergence = t * (t.log() - s.log()) + (1 - t) * ((1 - t).log() - (1 - s).log())
    return divergence.sum(dim=1) * temperature**2


def mse_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean over classes of (z_S − z_T)² (Ba & Caruana, NeurIPS 2014, Eq. 1, with a mean in place of half the sum).

    The temperature has no effect.
    """
    return (student - teacher).square().mean(dim=1)


def margin_mse_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean over the batch's other samples j of ((s_i − s_j) − (t_i − t_j))², for scores s and t (B, 1).

    Margin-MSE (Hofstätter et al., 2020, Eq. 2) compares the margins of a query's two passages; here every two samples
    of the batch are a pair. A shift of all scores costs nothing. A batch of one sample has no pair and costs 0. The
    temperature has no effect.

    Raises:
        ValueError: the logits are of several classes.
    """
    if student.shape[1] != 1:
        raise ValueError(
            f"The loss 'margin_mse' compares scores (B, 1), and these are logits {tuple(student.shape)}. Take 'kl' or "
            "'mse' for classes."
        )
    difference = (student - teacher)[:, 0]
    pairs = (difference[:, None] - difference).square().sum(1)
    return pairs / max(1, len(difference) - 1)


_LOSSES: dict[str, LogitsLoss] = {"kl": kl_loss, "margin_mse": margin_mse_loss, "mse": mse_loss}

_CITATIONS = {"margin_mse": MARGIN_MSE}

# Losses of distributions over classes need another form where each class is decided for itself.
_MULTI_LABEL: dict[str, LogitsLoss] = {"kl": multi_label_kl_loss}


def register_logits_loss(name: str, loss: LogitsLoss) -> None:
    """Register a loss between logits by `name`, for the argument `logits_loss`.

    Args:
        name: Name of the loss; an earlier loss of that name is replaced.
        loss: Function (student (B, classes), teacher (B, classes), temperature) → (B,); both in at least float32.
    """
    _LOSSES[name] = loss


def available_logits_losses() -> list[str]:
    """List the names of the losses between logits."""
    return sorted(_LOSSES)


def logits_citation(loss: str) -> str:
    """The BibTeX entry of the paper of a loss between logits; of a registered one, of distillation itself."""
    return _CITATIONS.get(loss, HINTON)


def logits_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    loss: str = "kl",
    temperature: float = 1.0,
    multi_label: bool = False,
) -> torch.Tensor:
    """Compute the loss between two models' logits.

    Args:
        student, teacher: Logits (B, classes) over the same classes.
        loss: Name of the loss, one of `available_logits_losses()`.
        temperature: Temperature τ > 0.
        multi_label: True where each class is decided for itself, by a sigmoid.

    Returns:
        Losses (B,) in at least float32.

    Raises:
        ValueError: unknown loss.

    Example:
        >>> logits_loss(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]]), "mse")
        tensor([2.5000])
    """
    if loss not in _LOSSES:
        raise ValueError(unknown_choice("logits loss", loss, available_logits_losses()))
    function = _MULTI_LABEL.get(loss, _LOSSES[loss]) if multi_label else _LOSSES[loss]
    return function(at_least_float32(student), at_least_float32(teacher), temperature)


class Logits(Term):
    """Loss between the student's and a teacher's logits over the classes that they share.

    Args:
        weight: Weight; None for the argument `logits_weight`.
        reference: Name of the reference.
        loss: One of `available_logits_losses()`; `"auto"` for `"kl"` of classes and `"mse"` of scores.
        temperature: Temperature τ.
    """

    name = "logits"
    citation = HINTON
    needs = frozenset({"logits"})
    weight_argument = "logits_weight"

    def __init__(
        self,
        weight: float | None = None,
        reference: str | None = None,
        loss: str = "auto",
        temperature: float = 1.0,
    ):
        super().__init__(weight, reference)
        self.loss = loss
        self.temperature = temperature
        self.multi_label = False

    def attach(self, student: nn.Module, reference: Any) -> None:
        self.multi_label = is_multi_label(student)
        scores = is_score(student)
        if self.loss == "auto":
            self.loss = "mse" if scores else "kl"
        if self.loss == "kl" and scores:
            raise ValueError(
                f"{type(student).__name__} gives one score (num_labels=1), whose softmax is always 1, so the loss 'kl' "
                "would be zero. Take logits_loss='mse' or 'margin_mse', or leave it out."
            )
        if self.loss == "margin_mse" and not scores:
            raise ValueError(
                f"The loss 'margin_mse' compares scores, and {type(student).__name__} gives several classes. Take "
                "logits_loss='kl' or 'mse'."
            )
        self.citation = logits_citation(self.loss)
        self._shared = reference.student_logits

    def forward(
        self, output: StepOutput, reference_output: ReferenceOutput | None, inputs: Mapping[str, Any]
    ) -> torch.Tensor | None:
        assert reference_output is not None
        if reference_output.logits is None:
            return None
        student = self._shared(output.logits)
        return logits_loss(student, reference_output.logits, self.loss, self.temperature, self.multi_label)
