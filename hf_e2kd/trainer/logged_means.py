"""Averages of logged values."""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from ..logs import get_logger

logger = get_logger(__name__)

_OF_ZERO_MAPS = {
    "student": "These pairs cost the loss's worst value and give no gradient, so that the explanation term can't "
    "revive them. Lower the learning rate, or start from a trained student.",
    "teacher": "There is nothing to match for these samples. Choose another target layer or explainer (`explainer`, "
    "`explainer_options`).",
}
MOST_ZERO_MAPS = 0.5
"""Share of all-zero maps above which a training warns."""


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


class ZeroMapWarning:
    """One warning for each side, student and teacher, when most of its maps are all-zero."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def check(self, logs: Mapping[str, float]) -> None:
        """Warn of the logged shares above `MOST_ZERO_MAPS`, of a training or an evaluation."""
        for side, remedy in _OF_ZERO_MAPS.items():
            shares = [value for name, value in logs.items() if f"zero_{side}_maps" in name]
            if side not in self._warned and max(shares, default=0.0) > MOST_ZERO_MAPS:
                self._warned.add(side)
                logger.warning(f"{max(shares):.0%} of the {side}'s attribution maps are all-zero. {remedy}")
