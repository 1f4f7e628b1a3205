"""Checks on collated batches."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch


class FiniteBatches:
    """A collator that refuses NaN and infinite inputs, in the data loader, before they reach a device.

    Args:
        collator: What makes a batch of samples.

    Raises:
        ValueError: on a call, naming the column and the samples of the batch.
    """

    def __init__(self, collator: Callable[[Sequence[Any]], Mapping[str, Any]]):
        self.collator = collator
        # `Trainer` saves the tokenizer that it finds on its collator.
        self.tokenizer = getattr(collator, "tokenizer", None)
        self.label_column: str | None = getattr(collator, "label_column", None)
        # Columns of the data set that the collator reads, which the trainer must keep.
        self.columns: tuple[str, ...] = tuple(getattr(collator, "columns", ()))

    def __call__(self, samples: Sequence[Any]) -> Mapping[str, Any]:
        batch = self.collator(samples)
        for name, values in batch.items():
            if isinstance(values, torch.Tensor) and values.is_floating_point() and not values.isfinite().all():
                rows = (~values.isfinite()).flatten(1).any(1) if values.ndim > 1 else ~values.isfinite()
                raise ValueError(
                    f"'{name}' holds NaN or infinite values in the samples {rows.nonzero().flatten().tolist()[:8]} of "
                    f"a batch of {len(values)}. Remove these samples, or mend the transform that made them."
                )
        return batch
