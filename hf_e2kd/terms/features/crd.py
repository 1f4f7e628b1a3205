"""Contrastive representation distillation (Tian et al., ICLR 2020)."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import IterableDataset
from transformers.trainer_utils import has_length

from ...logs import get_logger
from ..base import SAMPLE_ID, ReferenceOutput, StepOutput
from ..numbers import read_count, read_number
from ..processes import gather_rows
from .base import FeatureTerm, pool_places, token_mask

logger = get_logger(__name__)


class CRD(FeatureTerm):
    """Contrastive loss of the student's embeddings and the teacher's, against memory banks of all training samples.

    Each side's embedding g (pooled features, a linear layer, length 1) must tell the other side's of the same sample
    from those of many others, which stand in two banks and follow the training with a momentum:
    `crd_loss(g_S, teacher's bank) + crd_loss(g_T, student's bank)` (Eqs. 10 and 18). Samples of the same class are no
    negatives, as far as labels are known; a class is known from a sample's first batch on. Unlike in the authors' code,
    a batch shares its random negatives: a matrix product takes the place of as many vectors gathered for each sample.
    The constants Z are those of the first batch. Han et al. (ICML 2023) take the weight 0.8.

    The samples are known by their positions in the training data, which the trainer adds to each batch. Banks, classes
    and constants are equal on all processes, are saved in checkpoints and go on as they were in a resumed training. In
    an evaluation the sample's own embeddings stand in for its rows of the banks, which stay as they are.

    Args:
        weight: Weight in the loss.
        layers: Path of the student's layer and of the teacher's; by default the last stage, or block, of both.
        reference: Name of the teacher.
        dim: Dimension of the embeddings. The banks take 8 · dim bytes a training sample.
        negatives: Number of random rows of a bank in each batch; all of a smaller one.
        temperature: Temperature τ of the scores.
        momentum: Share of a bank's row that stays when its sample comes again.

    Raises:
        ValueError: an option is out of range, or several layers are given; in `setup`, training data without a length
            (a stream) or none; in training, a batch without `sample_id`.
    """

    name = "crd"
    needs = frozenset({"features", "ids"})
    columns = (SAMPLE_ID,)
    student_bank: torch.Tensor
    teacher_bank: torch.Tensor
    classes: torch.Tensor
    log_constants: torch.Tensor
    seed_and_draws: torch.Tensor
    citation = r"""@inproceedings{tian2020contrastive,
    title = {Contrastive Representation Distillation},
    author = {Tian, Yonglong and Krishnan, Dilip and Isola, Phillip},
    booktitle = {International Conference on Learning Representations},
    year = {2020}
}"""

    def __init__(
        self,
        weight: float = 1.0,
        layers: Mapping[str, str] | None = None,
        reference: str | None = None,
        dim: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
    ):
        super().__init__(weight, layers, reference)
        if self.layers is not None and len(self.layers) != 1:
            raise ValueError(f"The term '{self.name}' compares one pair of layers, and {len(self.layers)} are given.")
        self.dim, self.negatives = read_count("dim", dim), read_count("negatives", negatives)
        self.temperature = read_number("temperature", temperature, above=0)
        self.momentum = read_number("momentum", momentum, at_least=0)
        if self.momentum >= 1:
            raise ValueError(f"momentum is {momentum}, with which the banks would never change. Give less than 1.")

    def default_layers(self, student: list[str], teacher: list[str]) -> dict[str, str]:
        return {student[-1]: teacher[-1]}

    def setup(
        self, output: StepOutput, reference_output: ReferenceOutput, inputs: Mapping[str, Any], dataset: Any
    ) -> None:
        is_stream = isinstance(dataset, IterableDataset)
        if dataset is None or is_stream or not has_length(dataset):
            kind = "there is no training data" if dataset is None else f"a {type(dataset).__name__} has no length"
            kind = f"a {type(dataset).__name__} is a stream" if is_stream and has_length(dataset) else kind
            raise ValueError(
                f"The term '{self.name}' keeps a row for each training sample, known by its position, and {kind}. Give "
                "a train_dataset with a length, such as a datasets.Dataset in the place of a stream, or leave the term "
                "out."
            )
        count, ((student, teacher),) = len(dataset), self.pairs(output, reference_output)
        logger.warning(
            f"The term '{self.name}' makes two banks of {count:,} × {self.dim} numbers, {8 * count * self.dim:,} "
            "bytes, which lie beside the student and in each checkpoint."
        )
        self.embeddings = nn.ModuleList(nn.Linear(side.shape[-1], self.dim) for side in (student, teacher))
        # Uniform with the variance of a unit vector's components, as in the authors' code.
        limit = math.sqrt(3 / self.dim)
        self.register_buffer("student_bank", torch.empty(count, self.dim).uniform_(-limit, limit))
        self.register_buffer("teacher_bank", torch.empty(count, self.dim).uniform_(-limit, limit))
        self.register_buffer("classes", torch.full((count,), -1))
        self.register_buffer("log_constants", torch.full((2,), math.nan))
        self.register_buffer("seed_and_draws", torch.tensor([int(torch.randint(2**31, ())), 0]))

    def forward(
        self, output: StepOutput, reference_output: ReferenceOutput | None, inputs: Mapping[str, Any]
    ) -> torch.Tensor:
        assert reference_output is not None
        ids = inputs.get(SAMPLE_ID)
        if ids is None and self.training:
            raise ValueError(
                f"The term '{self.name}' finds its samples by their positions, and the batch has no '{SAMPLE_ID}'. The "
                "trainer adds them to the batches of its own data loader: leave get_train_dataloader as it is, or let "
                f"your batches have '{SAMPLE_ID}' (B,), the samples' positions in train_dataset."
            )
        # Divided by a low temperature, half-precision scores would differ by more than one from what they are.
        with torch.autocast(output.logits.device.type, enabled=False):
            own, theirs = self.embed(output, reference_output, inputs)
            return self.compare(own, theirs, ids, inputs.get("labels"))

    def compare(
        self, own: torch.Tensor, theirs: torch.Tensor, ids: torch.Tensor | None, labels: torch.Tensor | None
    ) -> torch.Tensor:
        """Compare both sides' embeddings (B, dim) with the banks, and in a training move these: losses (B,)."""
        classes = _classes(labels, len(own), own.device)
        rows = self.draw(own.device)
        excluded = (self.classes[rows] == classes[:, None]) & (classes >= 0)[:, None]
        if ids is None:
            positives = theirs.detach(), own.detach()
        else:
            positives = self.teacher_bank[ids], self.student_bank[ids]
            excluded |= rows == ids[:, None]
        scores = [
            (torch.linalg.vecdot(anchor, positive) / self.temperature, anchor @ bank[rows].T / self.temperature)
            for anchor, positive, bank in zip(
                (own, theirs), positives, (self.teacher_bank, self.student_bank), strict=True
            )
        ]
        constants = self.constants(scores, excluded)
        if self.training and ids is not None:
            self.update(ids, classes, own, theirs)
        count = len(self.classes)
        losses = [
            crd_loss(positive - constant, negative - constant, ~excluded, count)
            for (positive, negative), constant in zip(scores, constants, strict=True)
        ]
        return losses[0] + losses[1]

    def embed(
        self, output: StepOutput, reference_output: ReferenceOutput, inputs: Mapping[str, Any]
    ) -> list[torch.Tensor]:
        """Embed student and teacher: (B, dim) each, of length 1."""
        ((student, teacher),) = self.pairs(output, reference_output)
        tokens = {"attention_mask": inputs.get("teacher_attention_mask", inputs.get("attention_mask"))}
        pooled = pool_places(student, token_mask(student, inputs)), pool_places(teacher, token_mask(teacher, tokens))
        return [F.normalize(layer(side), dim=1) for layer, side in zip(self.embeddings, pooled, strict=True)]

    def draw(self, device: torch.device) -> torch.Tensor:
        """Draw the rows of the batch's negatives: the same on all processes, and in a resumed training."""
        count = len(self.classes)
        if self.negatives >= count:
            return torch.arange(count, device=device)
        seed = np.random.SeedSequence(self.seed_and_draws.tolist()).generate_state(1)
        if self.training:
            self.seed_and_draws[1] += 1
        return torch.randint(count, (self.negatives,), generator=torch.Generator().manual_seed(int(seed[0]))).to(device)

    @torch.no_grad()
    def constants(
        self, scores: list[tuple[torch.Tensor, torch.Tensor]], excluded: torch.Tensor
    ) -> torch.Tensor | list[torch.Tensor]:
        """Return log Z of both sides: N times the mean of exp(score), of the first training batch."""
        if not self.log_constants.isnan().any():
            return self.log_constants
        found = []
        for positive, negative in scores:
            kept = torch.cat([positive[:, None], negative.masked_fill(excluded, -math.inf)], dim=1).flatten()
            sums = torch.stack([kept.logsumexp(0), kept.isfinite().sum().log().to(kept)])
            sum_of_all, count = gather_rows(sums[None]).logsumexp(0) if self.training else sums
            found.append(sum_of_all - count + math.log(len(self.classes)))
        if self.training:
            self.log_constants.copy_(torch.stack(found))
        return found

    @torch.no_grad()
    def update(self, ids: torch.Tensor, classes: torch.Tensor, own: torch.Tensor, theirs: torch.Tensor) -> None:
        """Move the banks' rows of all processes' samples towards the new embeddings."""
        ids, classes = gather_rows(torch.stack([ids, classes], dim=1)).unbind(1)
        own, theirs = gather_rows(torch.cat([own, theirs], dim=1)).split(self.dim, dim=1)
        # A sample may stand twice in a batch; which of several writes lasts is undefined on some devices.
        first = ~(ids[:, None] == ids).tril(-1).any(dim=1)
        ids = ids[first]
        self.classes[ids] = classes[first]
        for bank, new in ((self.student_bank, own[first]), (self.teacher_bank, theirs[first])):
            bank[ids] = F.normalize(self.momentum * bank[ids] + (1 - self.momentum) * new, dim=1)


def _classes(labels: torch.Tensor | None, count: int, device: torch.device) -> torch.Tensor:
    """Read the samples' classes (B,), −1 for unknown ones; those of several labels a sample aren't read."""
    if labels is None or labels.ndim != 1 or labels.is_floating_point():
        return torch.full((count,), -1, device=device)
    return labels.clamp(min=-1)


EPSILON = 1e-7
"""Added to the denominators [the authors' code]."""


def crd_loss(positive: torch.Tensor, negatives: torch.Tensor, counted: torch.Tensor, samples: int) -> torch.Tensor:
    """Contrastive loss: −log h(positive) − Σ_negatives log(1 − h(negative)), h(s) = eˢ / (eˢ + m/N) (Eqs. 10 and 18).

    m is the number of negatives. As in the authors' code, 10⁻⁷ is added to the denominators.

    Args:
        positive: Scores (B,) of the samples' own pairs: embeddings' product over the temperature, less log Z.
        negatives: Scores (B, K) with other samples.
        counted: Mask (B, K) bool of the negatives that count.
        samples: Number N of training samples.

    Returns:
        Losses (B,).
    """
    noise = counted.sum(dim=1, keepdim=True) / samples
    below = (noise + EPSILON).log().to(positive)
    log_right = positive - torch.logaddexp(positive, below[:, 0])
    log_wrong = noise.log().to(positive) - torch.logaddexp(negatives, below)
    return -log_right - log_wrong.masked_fill(~counted, 0).sum(dim=1)
