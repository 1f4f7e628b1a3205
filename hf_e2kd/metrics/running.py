"""Means over samples that come batch by batch."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class RunningMeans:
    """Averages per-sample values without keeping them, so that memory doesn't grow with the data set.

    Args:
        gather: Joins a tensor (B, …) of every process along its first axis, without a padded last batch's repeats.
    """

    def __init__(self, gather: Callable[[Tensor], Tensor]):
        self.gather = gather
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def update(self, values: Mapping[str, Tensor]) -> None:
        """Adds a batch.

        Args:
            values: By name, (B,), or (B, K) of K values a sample, on one device; NaN where a value doesn't count. The
                same names on every process.
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
