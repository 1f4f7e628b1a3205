"""Processes that build a store together, and buildings that wait for each other."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from filelock import FileLock, Timeout

from ..logs import get_logger
from .files import STORE_FILE

logger = get_logger(__name__)

LOCK_FILE = ".building.lock"


def launched_processes() -> PartialState:
    """The processes that `accelerate launch` has started, or this process alone.

    A process may have whole shards more to make than another that waits for it, so nobody gives up after minutes.
    """
    # Unless it is told so, Accelerate takes processes on a machine without accelerators for so many single ones.
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=30))


@contextmanager
def building_alone(folder: Path, finished: bool, state: PartialState) -> Iterator[None]:
    """Let one building at a time write into a folder: another waits, and then finds the store finished.

    The lock of a building that was killed is gone with it. A finished store may lie where nobody may write.

    Args:
        folder: Folder of the store.
        finished: Whether the store in it is finished already.
        state: The processes that build together.
    """
    lock = FileLock(folder / LOCK_FILE)
    if state.is_main_process and not finished:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning(f"The store {folder} is being built by another process, which is waited for.")
            lock.acquire()
    state.wait_for_everyone()
    try:
        yield
    finally:
        # Whoever waits for the deleted file's lock finds a finished store.
        if lock.is_locked and (folder / STORE_FILE).is_file():
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
