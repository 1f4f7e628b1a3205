"""Random choices of a training step: the explained samples, points and classes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..alignment.inputs import first_tensor


class StepGenerator:
    """Generator of its own, so that the data's order and the student's dropout are those of plain distillation.

    It begins anew with each step, so that a resumed training draws what an uninterrupted one does.
    """

    def __init__(self) -> None:
        self._moment: tuple[int, ...] | None = None
        self._generator = torch.Generator()

    def at(self, seed: int, step: int, process: int) -> torch.Generator:
        """Return the step's generator, which goes on from micro-batch to micro-batch."""
        moment = (seed, step, process)
        if self._moment != moment:
            self._moment = moment
            self._generator.manual_seed(int(np.random.SeedSequence(moment).generate_state(1)[0]))
        return self._generator


def draw_noise(rows: int, inputs: Mapping[str, Any], generator: torch.Generator) -> torch.Tensor:
    """Draw random numbers (rows, B) in [0, 1), on the batch's device."""
    batch = first_tensor(inputs)
    return torch.rand(rows, len(batch), generator=generator).to(batch.device)


def draw_samples(share: float, inputs: Mapping[str, Any], generator: torch.Generator) -> torch.Tensor:
    """Draw a random fraction of the batch as a mask, (B,) bool on its device; at least one sample."""
    batch = first_tensor(inputs)
    count = max(1, round(share * len(batch)))
    return (torch.randperm(len(batch), generator=generator) < count).to(batch.device)
