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
            values: By name, (B,) on one device; NaN where a sample doesn't count. The same names on every process.
        """
        if not values:
            return
        # One tensor, so that one collective serves all metrics.
        gathered = self.gather(torch.stack([value.float() for value in values.values()], dim=1)).double()
        counted = ~gathered.isnan()
        sums = gathered.nan_to_num(0.0).sum(dim=0).tolist()
        for name, total, count in zip(values, sums, counted.sum(dim=0).tolist(), strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + total
            self.counts[name] = self.counts.get(name, 0) + count

    def means(self) -> dict[str, float]:
        """The averages, without names for which no sample counted."""
        return {name: self.sums[name] / count for name, count in self.counts.items() if count}
