"""The first samples of a data set, and a look at them that leaves no trace in a training's random numbers."""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import IterableDataset
from transformers.trainer_utils import has_length


def first_samples(dataset: Any, count: int) -> list[Any]:
    """Return the first samples of a data set or stream, at most `count`."""
    if has_length(dataset) and not isinstance(dataset, IterableDataset):
        return [dataset[number] for number in range(min(count, len(dataset)))]
    return list(islice(dataset, count))


def first_of_each(data: Dataset, count: int | None) -> Dataset:
    """Select the first samples of each class in the column `label`, at most `count` of one; None keeps all."""
    if count is None:
        return data
    seen: Counter[int] = Counter()
    rows = []
    for row, label in enumerate(data["label"]):
        seen[label] += 1
        if seen[label] <= count:
            rows.append(row)
    return data.select(rows)


@contextmanager
def keeping_random_state(device: torch.device) -> Iterator[None]:
    """Leave the random generators of Python, numpy and torch as they were before."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
