"""Base of the methods that run the model on random coalitions of an input's parts, through captum."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .base import PerturbationExplainer, require_count
from .variants import BATCH_SIZE, is_padded_before, text_units, unit_counts, variant_values


class CoalitionExplainer(PerturbationExplainer):
    """A method that scores an input's parts by a linear model of the logits of random coalitions of them.

    Args:
        samples: Number of coalitions.
        seed: Seed of the coalitions.
        words, filling, batch_size: As in `PerturbationExplainer`.
    """

    def __init__(
        self,
        samples: int,
        seed: int = 0,
        words: str = "left_out",
        filling: float = 0.0,
        batch_size: int = BATCH_SIZE,
    ):
        super().__init__(words, filling, batch_size)
        require_count("samples", samples)
        self.samples = samples
        self.seed = seed

    @abstractmethod
    def estimator(self, values: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        """Make captum's explainer of a function from coalitions (n, parts) to logits (n,)."""

    @property
    def forward_passes(self) -> int:  # type: ignore[override]
        return 1 + self.samples

    def passes(self, inputs: Mapping[str, Any]) -> int:
        name = "input_ids" if inputs.get("pixel_values") is None else "pixel_values"
        return len(inputs[name]) * self.forward_passes

    def check(self, model: nn.Module, compiled: bool = False, trained: bool = True) -> None:
        super().check(model, compiled, trained)
        self._require_captum()

    def text_scores(
        self, model: nn.Module, inputs: Mapping[str, Any], target: torch.Tensor, whole: torch.Tensor
    ) -> torch.Tensor:
        counts = unit_counts(text_units(inputs)).tolist()
        most, before = max(counts), is_padded_before(model, inputs)

        def without(some: dict[str, Any], _: torch.Tensor, kept: torch.Tensor) -> dict[str, Any]:
            every = F.pad(kept.bool(), (0, most - kept.shape[1]), value=True)
            return self.text_without(model, some, every, before)

        return self.coalition_scores(model, inputs, target, counts, without).to(whole)

    def coalition_scores(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        target: torch.Tensor,
        counts: list[int],
        without: Callable[[dict[str, Any], torch.Tensor, torch.Tensor], dict[str, Any]],
    ) -> torch.Tensor:
        """Compute the scores (B, K, U) of each sample's parts.

        Args:
            counts: Number of each sample's parts.
            without: Function of inputs of n samples, their rows (n,) in the batch and the coalitions (n, parts) that
                gives the inputs with these parts alone.
        """
        if max(counts) + 2 > self.samples:
            raise ValueError(
                f"The scores of {max(counts)} parts can't be told from {self.samples} coalitions. Raise `samples` to "
                f"several times {max(counts)}."
            )
        self._require_captum()
        scores = torch.zeros(*target.shape, max(counts))
        for row, count in enumerate(counts):
            for column in range(target.shape[1]):

                def values(kept: torch.Tensor, row: int = row, column: int = column) -> torch.Tensor:
                    """The logit (n,) of each coalition (n, parts)."""
                    found = variant_values(
                        model,
                        inputs,
                        target[:, column : column + 1],
                        torch.full((len(kept),), row, device=target.device),
                        torch.arange(len(kept), device=target.device),
                        lambda some, rows, numbers: without(
                            some, rows, kept[numbers.to(kept.device)].to(target.device)
                        ),
                        batch_size=self.batch_size,
                    )
                    return found[:, 0].cpu()

                if count == 1:  # nothing to share out
                    both = values(torch.tensor([[1.0], [0.0]]))
                    scores[row, column, 0] = both[0] - both[1]
                elif count > 1 and target[row, column] >= 0:
                    with torch.random.fork_rng():
                        torch.manual_seed(self.seed)
                        found = self.estimator(values).attribute(
                            torch.ones(1, count), n_samples=self.samples, perturbations_per_eval=self.batch_size
                        )
                    scores[row, column, :count] = found[0]
        return scores

    def _require_captum(self) -> None:
        if find_spec("captum") is None:
            raise ValueError(f"'{self.name}' takes captum, which isn't installed: pip install 'hf-e2kd[perturbation]'.")
