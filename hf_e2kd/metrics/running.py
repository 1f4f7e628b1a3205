"""Values of samples that come batch by batch: their means alone, or all of them."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor


class RunningMeans:
    """Means of per-sample values without keeping these, so that memory doesn't grow with the data set.

    Args:
        gather: Function that joins a tensor (B, …) of every process along its first axis, without a padded last batch's
            repeats.
    """

    def __init__(self, gather: Callable[[Tensor], Tensor]):
        self.gather = gather
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def update(self, values: Mapping[str, Tensor]) -> None:
        """Add a batch.

        Args:
            values: Tensors by name, (B,), or (B, K) of K values a sample, on one device; NaN where a value doesn't
                count. The same names on every process.
        """
        if not values:
            return
        # One tensor, so that one collective serves all metrics.
        each = [value.float().view(len(value), -1) for value in values.values()]
        sums = [value.nansum(1) for value in each]
        counts = [(~value.isnan()).float().sum(1) for value in each]
        # Processes may have batches of another K, so each sample's values are added up before.
        totals = self.gather(torch.stack([*sums, *counts], dim=1)).double().sum(dim=0).tolist()
        for name, total, count in zip(values, totals, totals[len(each) :], strict=False):
            self.sums[name] = self.sums.get(name, 0.0) + total
            self.counts[name] = self.counts.get(name, 0) + round(count)

    def means(self) -> dict[str, float]:
        """The averages, without names for which no value counted."""
        return {name: self.sums[name] / count for name, count in self.counts.items() if count}


class SampleValues:
    """All per-sample values, where `RunningMeans` has their means alone.

    Args:
        gather: Function that joins a tensor (B, …) of every process along its first axis, without a padded last batch's
            repeats.
    """

    def __init__(self, gather: Callable[[Tensor], Tensor]):
        self.gather = gather
        self.batches: list[dict[str, tuple[np.ndarray, np.ndarray]]] = []

    def update(self, values: Mapping[str, Tensor]) -> None:
        """Add a batch: (B,) or (B, K) by name, on one device; NaN where a value doesn't count.

        Raises:
            ValueError: there are no values.
        """
        if not values:
            raise ValueError(
                "A batch has nothing to measure: neither labels, nor a reference's logits or explanations. Give data "
                "with a column 'labels', or the trainer a `teacher_model`."
            )
        each = [value.double().view(len(value), -1) for value in values.values()]
        sums = [value.nansum(1) for value in each]
        counts = [(~value.isnan()).double().sum(1) for value in each]
        joined = self.gather(torch.stack([*sums, *counts], dim=1)).cpu().numpy()
        names = list(values)
        self.batches.append(
            {name: (joined[:, place], joined[:, len(names) + place]) for place, name in enumerate(names)}
        )

    def means(self) -> dict[str, float]:
        """The averages, without names for which no value counted."""
        found = {name: self.of(name) for name in self.names if not name.startswith("_")}
        return {name: sums.sum() / counts.sum() for name, (sums, counts) in found.items() if counts.sum()}

    @property
    def names(self) -> list[str]:
        """Names of the values that were measured of any sample."""
        return list(dict.fromkeys(name for batch in self.batches for name in batch))

    def of(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums (N,) and counts (N,) of a metric's values, one a sample."""
        nothing = [next(iter(batch.values()))[0] * 0 for batch in self.batches]
        pairs = [batch.get(name, (zero, zero)) for batch, zero in zip(self.batches, nothing, strict=True)]
        return np.concatenate([sums for sums, _ in pairs]), np.concatenate([counts for _, counts in pairs])

    def where(self, rows: np.ndarray) -> "SampleValues":
        """Return the values of some samples, (N,) bool."""
        chosen = SampleValues(self.gather)
        pairs = {name: self.of(name) for name in self.names}
        chosen.batches = [{name: (sums[rows], counts[rows]) for name, (sums, counts) in pairs.items()}]
        return chosen
