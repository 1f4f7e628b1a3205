"""The processes that share the building of a store."""

from datetime import timedelta

import torch
from accelerate import PartialState


def launched_processes() -> PartialState:
    """What `accelerate launch` has started, or this process alone.

    A process may have whole shards more to make than another that waits for it, so nobody gives up after minutes.
    """
    # Unless it is told so, Accelerate takes processes on a machine without accelerators for so many single ones.
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=30))
