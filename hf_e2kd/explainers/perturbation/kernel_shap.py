"""KernelSHAP (Lundberg & Lee, 2017) through captum: Shapley values of an image's squares or a text's words."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .base import PerturbationExplainer, require_count
from .variants import BATCH_SIZE, text_units, unit_counts, variant_values


class KernelShap(PerturbationExplainer):
    """KernelSHAP: Shapley values of the parts of an input for a logit, estimated by captum from random coalitions.

    An image's parts are the squares of a grid, which is the map; a text's are its words, or its tokens without them.
    The scores sum to the logit's rise from the input without any part.

    Args:
        samples: Number of coalitions: more than there are parts, and for good estimates several times as many.
        cells: Squares along each side of an image.
        seed: Seed of the coalitions.
        words, filling, batch_size: As in `PerturbationExplainer`.

    Raises:
        ValueError: more parts than coalitions; or captum isn't installed: `pip install 'hf-e2kd[perturbation]'`.

    References:
        Lundberg & Lee, "A Unified Approach to Interpreting Model Predictions", NeurIPS 2017, section 4.1.
    """

    name = "kernel_shap"

    def __init__(
        self,
        samples: int = 512,
        cells: int = 7,
        seed: int = 0,
        words: str = "left_out",
        filling: float = 0.0,
        batch_size: int = BATCH_SIZE,
    ):
        super().__init__(words, filling, batch_size)
        require_count("samples", samples)
        require_count("cells", cells)
        self.samples = samples
        self.cells = cells
        self.seed = seed

    @property
    def forward_passes(self) -> int:  # type: ignore[override]
        return 1 + self.samples

    def passes(self, inputs: Mapping[str, Any]) -> int:
        name = "input_ids" if inputs.get("pixel_values") is None else "pixel_values"
        return len(inputs[name]) * self.forward_passes

    def check(self, model: nn.Module, compiled: bool = False, trained: bool = True) -> None:
        super().check(model, compiled, trained)
        _require_captum()

    def image_scores(
        self, model: nn.Module, inputs: Mapping[str, Any], target: torch.Tensor, whole: torch.Tensor
    ) -> torch.Tensor:
        pixels = inputs["pixel_values"]

        def without(some: dict[str, Any], kept: torch.Tensor) -> dict[str, Any]:
            squares = kept.view(len(kept), 1, self.cells, self.cells).to(pixels.dtype)
            return self.image_without(some, F.interpolate(squares, size=pixels.shape[-2:], mode="nearest")[:, 0])

        counts = [self.cells**2] * len(pixels)
        scores = self._scores(model, inputs, target, counts, without).to(whole)
        return scores.view(*target.shape, self.cells, self.cells)

    def text_scores(
        self, model: nn.Module, inputs: Mapping[str, Any], target: torch.Tensor, whole: torch.Tensor
    ) -> torch.Tensor:
        counts = unit_counts(text_units(inputs)).tolist()
        most = max(counts)

        def without(some: dict[str, Any], kept: torch.Tensor) -> dict[str, Any]:
            return self.text_without(model, some, F.pad(kept.bool(), (0, most - kept.shape[1]), value=True))

        return self._scores(model, inputs, target, counts, without).to(whole)

    def _scores(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        target: torch.Tensor,
        counts: list[int],
        without: Callable[[dict[str, Any], torch.Tensor], dict[str, Any]],
    ) -> torch.Tensor:
        """Compute the scores (B, K, U) of each sample's parts, of which there are `counts`."""
        if max(counts) + 2 > self.samples:
            raise ValueError(
                f"The scores of {max(counts)} parts can't be told from {self.samples} coalitions. Raise `samples` to "
                f"several times {max(counts)}."
            )
        _require_captum()
        from captum.attr import KernelShap as CaptumKernelShap

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
                        lambda some, _, numbers: without(some, kept[numbers.to(kept.device)].to(target.device)),
                        batch_size=self.batch_size,
                    )
                    return found[:, 0].cpu()

                if count == 1:  # nothing to share out
                    both = values(torch.tensor([[1.0], [0.0]]))
                    scores[row, column, 0] = both[0] - both[1]
                elif count > 1 and target[row, column] >= 0:
                    with torch.random.fork_rng():
                        torch.manual_seed(self.seed)
                        found = CaptumKernelShap(values).attribute(
                            torch.ones(1, count), n_samples=self.samples, perturbations_per_eval=self.batch_size
                        )
                    scores[row, column, :count] = found[0]
        return scores


def _require_captum() -> None:
    if find_spec("captum") is None:
        raise ValueError("'kernel_shap' takes captum, which isn't installed: pip install 'hf-e2kd[perturbation]'.")
