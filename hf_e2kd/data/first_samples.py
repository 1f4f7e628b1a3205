"""A look at a data set's first samples that leaves no trace in the random numbers of a training."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from transformers.trainer_utils import has_length


def first_samples(dataset: Any, count: int) -> list[Any]:
    """Return the first samples of a data set or stream, at most `count`."""
    if has_length(dataset):
        return [dataset[number] for number in range(min(count, len(dataset)))]
    return list(islice(dataset, count))


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
