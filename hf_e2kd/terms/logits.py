"""Losses between a student's and a teacher's logits, each (B, classes) → (B,)."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..alignment.labels import is_multi_label, is_score
from ..alignment.precision import at_least_float32
from ..choices import unknown_choice
from .base import ReferenceOutput, StepOutput, Term
from .numbers import read_number

LogitsLoss = Callable[..., torch.Tensor]
"""(student (B, classes), teacher (B, classes), temperature) → (B,); both in at least float32.

Further parameters are the loss's options. One named `labels` is no option: it is given the labels (B,) among the
classes, −1 where there is none, or None.
"""

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

DKD = r"""@inproceedings{zhao2022decoupled,
    title = {Decoupled Knowledge Distillation},
    author = {Zhao, Borui and Cui, Quan and Song, Renjie and Qiu, Yiyu and Liang, Jiajun},
    booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
    year = {2022}
}"""

DIST = r"""@inproceedings{huang2022knowledge,
    title = {Knowledge Distillation from A Stronger Teacher},
    author = {Huang, Tao and You, Shan and Wang, Fei and Qian, Chen and Xu, Chang},
    booktitle = {Advances in Neural Information Processing Systems},
    year = {2022}
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


def dkd_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    temperature: float,
    labels: torch.Tensor | None = None,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> torch.Tensor:
    """Decoupled distillation: τ²·(α·KL of the target class and the rest + β·KL among the rest) (DKD, Eq. 7).

    Args:
        student, teacher: Logits (B, classes).
        temperature: Temperature τ.
        labels: Target classes (B,); the teacher's top class where there is none (−1, or None).
        alpha, beta: Weights of both parts; the authors take β = 8, τ = 4 on CIFAR-100 and β = 0.5, τ = 1 on ImageNet.
    """
    top = teacher.argmax(dim=1)
    target = top if labels is None else torch.where(labels >= 0, labels, top)
    rest = torch.ones_like(teacher, dtype=torch.bool).scatter(1, target[:, None], False)

    def parts(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = logits / temperature
        others = logits[rest].view(len(logits), -1)
        binary = torch.cat([logits.gather(1, target[:, None]), others.logsumexp(dim=1, keepdim=True)], dim=1)
        return binary.log_softmax(dim=1), others.log_softmax(dim=1)

    of_target, of_rest = (
        F.kl_div(own, theirs, reduction="none", log_target=True).sum(dim=1)
        for own, theirs in zip(parts(student), parts(teacher), strict=True)
    )
    return (alpha * of_target + beta * of_rest) * temperature**2


def dist_loss(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float, beta: float = 1.0, gamma: float = 1.0
) -> torch.Tensor:
    """Relations of the probabilities: τ²·(β·(1 − ρ of a sample's classes) + γ·(1 − mean ρ of a class's samples)).

    ρ is Pearson's correlation of the student's and the teacher's softmax(logits/τ) (DIST). The second part
    is the batch's, so that it depends on the size of the (micro-)batch; a batch of one sample has no such relation, and
    its ρ counts 0. The authors' code adds 1e-8 to the product of norms, which shrinks the ρ of rare classes.

    Args:
        student, teacher: Logits (B, classes).
        temperature: Temperature τ.
        beta, gamma: Weights of both parts.
    """
    own, theirs = ((logits / temperature).softmax(dim=1) for logits in (student, teacher))
    classes, samples = (
        F.cosine_similarity(own - own.mean(dim, keepdim=True), theirs - theirs.mean(dim, keepdim=True), dim=dim)
        for dim in (1, 0)
    )
    return (beta * (1 - classes) + gamma * (1 - samples.mean())) * temperature**2


def hard_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Cross-entropy of the teacher's top class, as if it were the label. The temperature has no effect."""
    return F.cross_entropy(student, teacher.argmax(dim=1), reduction="none")


def multi_label_hard_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean over classes of the binary cross-entropy of the teacher's decisions, as if they were the labels."""
    return F.binary_cross_entropy_with_logits(student, (teacher > 0).to(student), reduction="none").mean(dim=1)


_LOSSES: dict[str, LogitsLoss] = {
    "dist": dist_loss,
    "dkd": dkd_loss,
    "hard": hard_loss,
    "kl": kl_loss,
    "margin_mse": margin_mse_loss,
    "mse": mse_loss,
}

_CITATIONS = {"dist": DIST, "dkd": DKD, "margin_mse": MARGIN_MSE}

# Losses of distributions over classes need another form where each class is decided for itself, or have none.
_MULTI_LABEL: dict[str, LogitsLoss] = {"hard": multi_label_hard_loss, "kl": multi_label_kl_loss}
_ONE_LABEL = frozenset({"dist", "dkd"})
_CLASSES = frozenset({"dist", "dkd", "hard", "kl"})


def register_logits_loss(name: str, loss: LogitsLoss) -> None:
    """Register a loss between logits by `name`, for the argument `logits_loss`.

    Args:
        name: Name of the loss; an earlier loss of that name is replaced.
        loss: Function (student (B, classes), teacher (B, classes), temperature) → (B,); both in at least float32. Its
            further parameters are the options of `logits_loss_options`; one named `labels` is given the labels (B,), −1
            where there is none, or None.
    """
    _LOSSES[name] = loss


def available_logits_losses() -> list[str]:
    """List the names of the losses between logits."""
    return sorted(_LOSSES)


def logits_citation(loss: str) -> str:
    """The BibTeX entry of the paper of a loss between logits; of a registered one, of distillation itself."""
    return _CITATIONS.get(loss, HINTON)


def read_loss_options(loss: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Read the options of a loss between logits; numbers may be strings.

    Raises:
        ValueError: an option that the loss doesn't have, or a number below 0; the valid ones are listed.
    """
    known = {name: each.default for name, each in _parameters(loss).items() if name != "labels"}
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        valid = ", ".join(known) or "none"
        raise ValueError(f"The logits loss '{loss}' has no option '{unknown[0]}'. Its options: {valid}.")
    return {
        name: read_number(f"The option '{name}' of the logits loss '{loss}'", value, at_least=0)
        if isinstance(known[name], float)
        else value
        for name, value in options.items()
    }


def _parameters(loss: str) -> dict[str, inspect.Parameter]:
    """The parameters of a loss behind student, teacher and temperature."""
    return dict(list(inspect.signature(_LOSSES[loss]).parameters.items())[3:])


def logits_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    loss: str = "kl",
    temperature: float = 1.0,
    multi_label: bool = False,
    labels: torch.Tensor | None = None,
    **options: Any,
) -> torch.Tensor:
    """Compute the loss between two models' logits.

    Args:
        student, teacher: Logits (B, classes) over the same classes.
        loss: Name of the loss, one of `available_logits_losses()`.
        temperature: Temperature τ > 0.
        multi_label: True where each class is decided for itself, by a sigmoid.
        labels: Labels (B,) among these classes, −1 where there is none; for a loss that reads them.
        options: The loss's own options.

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
    given = {"labels": labels} if "labels" in _parameters(loss) else {}
    return function(at_least_float32(student), at_least_float32(teacher), temperature, **given, **options)


class Logits(Term):
    """Loss between the student's and a teacher's logits over the classes that they share.

    Args:
        weight: Weight; None for the argument `logits_weight`.
        reference: Name of the reference.
        loss: One of `available_logits_losses()`; `"auto"` for `"kl"` of classes and `"mse"` of scores.
        temperature: Temperature τ.
        loss_options: Options of the loss.

    Raises:
        ValueError: the weight is out of range; on `attach`, a loss or an option that doesn't fit the student.
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
        loss_options: Mapping[str, Any] | None = None,
    ):
        super().__init__(weight, reference)
        self.loss = loss
        self.temperature = temperature
        self.loss_options = dict(loss_options or {})
        self.multi_label = False

    def attach(self, student: nn.Module, reference: Any) -> None:
        self.multi_label = is_multi_label(student)
        scores = is_score(student)
        if self.loss == "auto":
            self.loss = "mse" if scores else "kl"
        if self.loss in _CLASSES and scores:
            raise ValueError(
                f"{type(student).__name__} gives one score (num_labels=1), whose softmax is always 1, so the loss "
                f"'{self.loss}' would teach nothing. Take logits_loss='mse' or 'margin_mse', or leave it out."
            )
        if self.loss in _ONE_LABEL and self.multi_label:
            raise ValueError(
                f"The loss '{self.loss}' compares distributions over classes that exclude each other, and "
                f"{type(student).__name__} decides each class for itself. Take logits_loss='kl', 'hard' or 'mse'."
            )
        if self.loss == "margin_mse" and not scores:
            raise ValueError(
                f"The loss 'margin_mse' compares scores, and {type(student).__name__} gives several classes. Take "
                "logits_loss='kl' or 'mse'."
            )
        self.loss_options = read_loss_options(self.loss, self.loss_options)
        self.citation = logits_citation(self.loss)
        self._shared = reference.student_logits

    def forward(
        self, output: StepOutput, reference_output: ReferenceOutput | None, inputs: Mapping[str, Any]
    ) -> torch.Tensor | None:
        assert reference_output is not None
        if reference_output.logits is None:
            return None
        student = self._shared(output.logits)
        return logits_loss(
            student,
            reference_output.logits,
            self.loss,
            self.temperature,
            self.multi_label,
            reference_output.shared_labels,
            **self.loss_options,
        )
