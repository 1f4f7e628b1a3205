"""Averages of logged values."""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object


class LoggedMeans:
    """Means of logged values since they were last logged, over micro-batches and processes."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget what was added."""
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, torch.Tensor]) -> None:
        """Add a micro-batch's values, scalars by name."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Return the means by name.

        Every process must call it, and all or none must have added values since the last call.
        """
        if not self._sums:
            return {}
        # A rank whose batches had no labels has no loss on them.
        names = list(dict.fromkeys(gather_object(list(self._sums))))
        sums = [torch.as_tensor(self._sums.get(name, 0.0), device=accelerator.device) for name in names]
        counts = [torch.tensor(float(self._counts.get(name, 0)), device=accelerator.device) for name in names]
        total, count = accelerator.reduce(torch.stack([torch.stack(sums), torch.stack(counts)]))
        return dict(zip(names, (total / count).tolist(), strict=True))
