"""Interrupted trainings: a checkpoint when the process receives SIGTERM, and the last finished checkpoint."""

import json
import signal
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import reduce
from safetensors import SafetensorError, safe_open
from transformers import Trainer, TrainerCallback
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME

from ..logs import get_logger

logger = get_logger(__name__)

WEIGHTS = ("*model*.safetensors",)
RESUMED = (*WEIGHTS, OPTIMIZER_NAME, SCHEDULER_NAME, "rng_state*.pth")
"""Files of a checkpoint from which a training is resumed, as patterns."""

TERMS_FILE = "terms.safetensors"
"""File of a checkpoint that holds the terms' parameters and buffers."""

INDEX = "*.safetensors.index.json"
"""List, as a pattern, of the files of weights that are too large for one."""

SHARDED = ("global_step*", "pytorch_model_fsdp*", "optimizer_*", "optimizer.bin")
"""Files and folders of DeepSpeed's and FSDP's checkpoints, as patterns."""


class StoppedInStage(Exception):
    """A stage before the training was told to stop, and has saved its checkpoint: the training doesn't begin."""


class StopAfterStep(TrainerCallback):
    """Save and stop at the end of the step in which a signal arrived, whichever process it reached."""

    requested = stopped = False

    @classmethod
    def of(cls, trainer: Trainer) -> "StopAfterStep | None":
        """Return the one that a trainer trains with."""
        return next((each for each in trainer.callback_handler.callbacks if isinstance(each, cls)), None)

    def request(self, *_: Any) -> None:
        # Nothing else: a signal arrives anywhere, and more than once where a launcher passes it on.
        self.requested = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # Processes that stopped at two steps would wait for each other for ever.
        requested = reduce(torch.tensor(float(self.requested), device=args.device), reduction="sum")
        if requested > 0:
            logger.warning(f"Told to stop: a checkpoint is saved at step {state.global_step}.")
            control.should_save = control.should_training_stop = self.stopped = True
            # The time until the process is killed belongs to the checkpoint.
            control.should_evaluate = False


@contextmanager
def checkpoint_on_sigterm(trainer: Trainer) -> Iterator[None]:
    """Context in which SIGTERM makes the trainer save a checkpoint at the end of the step and stop.

    transformers' `enable_jit_checkpoint` saves within a step, when the random state is already that of the next, and
    each of several processes decides by a clock of its own.

    Raises:
        ValueError: not in the main thread, which alone receives signals.
    """
    callback = StopAfterStep()
    before = signal.signal(signal.SIGTERM, callback.request)
    trainer.add_callback(callback)
    try:
        yield
    finally:
        trainer.remove_callback(callback)
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def last_checkpoint(folder: str | Path, needed: Sequence[str] = RESUMED, since: float = 0.0) -> str | None:
    """Return the last complete checkpoint in a trainer's output folder; None where there is none.

    A process that is killed while it saves leaves a checkpoint without the trainer's state, which is written last.

    Args:
        needed: Files, as patterns, without which a training would go on otherwise than it was.
        since: Time in seconds since the epoch; checkpoints that were written before it are of another training.
    """
    steps = {}
    folders = [path for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.stat().st_mtime >= since]
    if any((path / TERMS_FILE).is_file() for path in folders):
        needed = [*needed, TERMS_FILE]  # terms that own something are saved with every checkpoint
    for path in folders:
        step = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if not step.isdecimal():
            continue
        lacking = missing_files(path, needed)
        if not lacking:
            steps[int(step)] = path
        else:
            logger.warning(f"The checkpoint {path} is not complete: it has no whole {lacking[0]}. It is passed over.")
    return str(steps[max(steps)]) if steps else None


def missing_files(checkpoint: str | Path, needed: Sequence[str] = RESUMED) -> list[str]:
    """Name the files that a checkpoint lacks, or that are empty or cut off.

    One that FSDP or DeepSpeed has sharded, whose optimizer lies in folders of its own, needs the trainer's state alone.
    """
    checkpoint = Path(checkpoint)
    sharded = any(True for pattern in SHARDED for _ in checkpoint.glob(pattern))
    patterns = [TRAINER_STATE_NAME, *(() if sharded else needed)]
    if not sharded and any(checkpoint.glob("adapter_*")):
        patterns = ["adapter_config.json" if pattern == CONFIG_NAME else pattern for pattern in patterns]
    patterns += [path.name for path in checkpoint.glob("*.safetensors")]  # what terms own, too
    if any(checkpoint.glob("*-of-*.safetensors")):
        patterns.append(INDEX)
    for index in checkpoint.glob(INDEX):
        if is_whole(index):
            patterns += sorted({*json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    found = {pattern: [path for path in checkpoint.glob(pattern) if path.is_file()] for pattern in patterns}
    return [pattern for pattern, paths in found.items() if not paths or not all(is_whole(path) for path in paths)]


def is_whole(path: Path) -> bool:
    """Tell whether a file of a checkpoint has its end: what a full disk or a broken copy cuts off."""
    if not path.stat().st_size:
        return False
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt"):  # compares the size with that in the header
                return True
        except SafetensorError:
            return False
    if path.suffix in (".pt", ".pth"):
        return zipfile.is_zipfile(path)  # whose directory stands at the end
    if path.suffix == ".json":
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return False
    return True
