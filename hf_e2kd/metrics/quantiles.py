"""Upper quantiles of many streams of numbers at once, in fixed memory and with a known error."""

import math

import torch
from torch import Tensor


class QuantileSketch:
    """Upper quantiles of several streams that grow in step, as the activations of a layer's units do.

    Only values that may still lie above the lowest quantile asked are taken in: once `needed` larger ones have been
    seen, a value can't. They are exact while these fit into half a buffer. Beyond that a full buffer is sorted, and
    every second entry of it goes on to the next level with twice the weight, as Manku, Rajagopalan and Lindsay do
    ("Approximate medians and other quantiles in one pass and with limited memory", SIGMOD 1998).

    **Error.** Where c entries of a sorted buffer lie above a value, ⌈c/2⌉ of those that stay do, or ⌊c/2⌋, by turns. A
    compaction at level l (entries of weight 2^l) therefore adds at most 2^l to the count above any value, and the next
    one there takes at most 2^l away. So the count is off by at most `error` = Σ_l ⌈compactions at l / 2⌉ · 2^l, for
    every value and every order of the stream. It is counted as it arises, not estimated.

    Libraries of sketches (Apache DataSketches and others) hold a stream each and on the CPU; here all units are sorted
    in one call, where the activations are.

    Args:
        quantile: Lowest quantile that will be asked, between 0 and 1.
        total: Number of values that each stream will have.
        size: Number of entries of a buffer of one stream; there is a buffer for each doubling of what is taken in.

    Raises:
        ValueError: the quantile isn't between 0 and 1, or so near to 1 that none of `total` values lies above it.

    Example:
        >>> sketch = QuantileSketch(0.9, total=100)
        >>> sketch.update(torch.arange(100.0).flip(0)[None])
        >>> sketch.quantile(0.9), sketch.error
        (tensor([89.]), 0)
    """

    def __init__(self, quantile: float, total: int, size: int = 4096):
        check_quantile(quantile)
        if size < 2:
            raise ValueError(f"size is {size}. Give at least 2 entries to a buffer, such as 4096.")
        above = values_above(quantile, total)
        if above == 0:
            raise ValueError(
                f"None of {total} values lies above the quantile {quantile}. Give at least "
                f"{math.ceil(1 / (1 - quantile))} values, or a lower quantile."
            )
        self.lowest, self.total, self.size = quantile, total, size
        self.needed = above + 1
        self.seen = 0
        self.taken = 0
        self.levels: list[Tensor] = []
        self.compactions: list[int] = []
        self.cutoff: Tensor | None = None
        self._next_cutoff = self.needed

    def update(self, values: Tensor) -> None:
        """Take in values (streams, n), the next n of each stream.

        Raises:
            ValueError: there are more than `total`, or a value isn't finite.
        """
        self.seen += values.shape[1]
        if self.seen > self.total:
            raise ValueError(f"The streams have more values than the {self.total} that were announced.")
        # A NaN or an infinite value makes the sum so; a look at each value takes longer.
        if not values.sum().isfinite() and not values.isfinite().all():
            raise ValueError("A value is NaN or infinite, which has no rank.")
        if self.cutoff is not None:
            count = int((values > self.cutoff[:, None]).sum(dim=1).max())
            if count == 0:
                return
            # Of other streams smaller values come along, which change no rank above the cutoff.
            values = values.topk(count, dim=1, sorted=False).values
        self.taken += values.shape[1]
        self._push(0, values)
        self._compact()

    def quantile(self, quantile: float) -> Tensor:
        """The smallest value of each stream that at most a share 1 − `quantile` of its values exceeds, (streams,).

        It is that of `numpy.quantile(..., method="inverted_cdf")` up to the error: at most `error` values more exceed
        it, or `error` fewer reach it.

        Raises:
            ValueError: the quantile is below the lowest, or there are no values yet.
        """
        check_quantile(quantile)
        if quantile < self.lowest or self.seen == 0:
            raise ValueError(
                f"The sketch of {self.seen} values has no quantile {quantile}. Build it with quantile={quantile} or "
                "lower, and update it first."
            )
        values = self._at_rank(values_above(quantile, self.seen) + 1)
        # What lies below the cutoff isn't all there, and the quantile can't.
        return values if self.cutoff is None else values.maximum(self.cutoff)

    @property
    def error(self) -> int:
        """By how many values the count above any value is off at most."""
        return sum(-(-count // 2) << level for level, count in enumerate(self.compactions))

    def state(self) -> dict[str, Tensor]:
        """Return the state as tensors, from which `load_state` goes on exactly."""
        numbers = torch.tensor([self.seen, self.taken, self._next_cutoff, *self.compactions])
        levels = {f"level {number}": level for number, level in enumerate(self.levels)}
        return {"numbers": numbers, **levels} | ({} if self.cutoff is None else {"cutoff": self.cutoff})

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a state of a sketch with the same arguments."""
        self.seen, self.taken, self._next_cutoff, *self.compactions = state["numbers"].tolist()
        self.levels = [state[f"level {number}"] for number in range(len(self.compactions))]
        self.cutoff = state.get("cutoff")

    def _push(self, level: int, values: Tensor) -> None:
        if level == len(self.levels):
            self.levels.append(values[:, :0])
            self.compactions.append(0)
        self.levels[level] = torch.cat([self.levels[level], values], dim=1)

    def _compact(self) -> None:
        if self.needed <= self.size // 2:
            if self.levels[0].shape[1] >= self.size:
                self.levels[0] = self.levels[0].topk(self.needed, dim=1).values
                self.cutoff = self.levels[0][:, -1]
            return
        level = 0
        while level < len(self.levels) and (count := self.levels[level].shape[1]) >= self.size:
            ordered = self.levels[level].sort(dim=1, descending=True).values
            even = count // 2 * 2
            self.levels[level] = ordered[:, even:]
            self._push(level + 1, ordered[:, self.compactions[level] % 2 : even : 2])
            self.compactions[level] += 1
            level += 1
        # Sorting all that is there takes longer than the cutoff would save, if it were moved at each update.
        if self.taken >= self._next_cutoff + self.error:
            self.cutoff = self._at_rank(self.needed + self.error)
            self._next_cutoff = self.taken + self.taken // 8

    def _at_rank(self, rank: int) -> Tensor:
        """The value at a rank from the top, from 1, in each stream."""
        entries, order = torch.cat(self.levels, dim=1).sort(dim=1, descending=True)
        weights = [torch.full((level.shape[1],), 1 << number) for number, level in enumerate(self.levels)]
        ranks = torch.cat(weights).to(entries.device)[order].cumsum(dim=1)
        place = (ranks < rank).sum(dim=1, keepdim=True).clamp(max=entries.shape[1] - 1)
        return entries.gather(1, place)[:, 0]


def values_above(quantile: float, total: int) -> int:
    """The number of `total` values that may lie above a quantile: ⌊(1 − quantile) · total⌋, free of rounding.

    Example:
        >>> values_above(0.995, 200), int((1 - 0.995) * 200)
        (1, 1)
        >>> values_above(0.9, 10), int((1 - 0.9) * 10)
        (1, 0)
    """
    return total - math.ceil(round(quantile * total, 6))


def check_quantile(quantile: float) -> None:
    """Refuse what is no quantile of an activation.

    Raises:
        ValueError: it isn't between 0 and 1.
    """
    if not 0 < quantile < 1:
        raise ValueError(
            f"quantile is {quantile}. Give a number between 0 and 1, such as 0.995: above the quantile 0 lies "
            "everything, above 1 nothing."
        )
