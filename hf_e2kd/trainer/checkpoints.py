"""Loading and training of a student again: the parts that accelerate and transformers leave undone."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel, Trainer
from transformers.core_model_loading import revert_weight_conversion
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint
from transformers.utils import CONFIG_NAME

from ..architectures.functions import forget_preparation
from ..logs import get_logger
from .finite import DIVERGED, require_finite_weights
from .preemption import RESUMED, WEIGHTS, checkpoint_on_sigterm, last_checkpoint, missing_files
from .sharding import name_blocks
from .stages import stage_was_started

logger = get_logger(__name__)

MOST_FREE = 1 << 20
"""Free bytes of a disk up to which a failed write is taken for a full disk's."""
STEPS = "_distilled_steps"
"""Attribute of a student that counts the optimizer steps of its trainings in this process."""


class CheckpointsMixin(Trainer):
    """Mixin: resume from the last finished checkpoint with all weights; train a student that was prepared before."""

    model_wrapped: nn.Module
    runs_student: bool
    student: nn.Module
    connect_again: Any
    take_arguments: Any
    _check_settings: Any
    _steps_before = 0
    """Optimizer steps of earlier trainings of the student that the current one began with."""
    _resumes_stages = False
    _ran_stages = False

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self._is_sharded() or not load_weights(self.model, resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        # One that averages weights would take the loaded ones for the last step's, and change them.
        self._end_optimizer()
        if self._is_sharded() or not load_weights(self.model, self.state.best_model_checkpoint):
            super()._load_best_model()

    def _warn_of_a_best_step_without_weights(self) -> None:
        best, checkpoint = self.state.best_global_step, self.state.best_model_checkpoint
        if self.args.load_best_model_at_end and best and not (checkpoint or "").endswith(f"-{best}"):
            kept = f"has those of {Path(checkpoint).name}" if checkpoint else "keeps those of the last step"
            logger.warning(
                f"The best evaluation was at step {best}, whose weights were not saved: the student {kept}. Save as "
                "often as you evaluate (save_steps=eval_steps), or set save_strategy='best'."
            )

    def _end_optimizer(self) -> None:
        """Leave the student the weights that are evaluated, of an optimizer that trains others (schedule-free ones)."""
        if callable(getattr(self.optimizer, "eval", None)):
            self.optimizer.eval()

    @property
    def steps_of_other_trainings(self) -> int:
        """Optimizer steps that other trainings in this process took with the student, before this one or after it."""
        return self._steps_before if self.is_in_train else getattr(self.student, STEPS, 0) - self.state.global_step

    def _is_sharded(self) -> bool:
        return self.is_deepspeed_enabled or self.is_fsdp_enabled

    def _needed_files(self) -> list[str]:
        """Patterns of the files that a checkpoint of this training consists of."""
        if self._is_sharded():
            return []
        saved = isinstance(self.model, PreTrainedModel) or hasattr(self.model, "peft_config")
        config = [CONFIG_NAME] if saved else []
        return [*config, *(WEIGHTS if self.args.save_only_model else RESUMED)]

    def train(self, resume_from_checkpoint: str | bool | None = None, *arguments: Any, **keywords: Any) -> Any:
        if self.model is not None:
            self.take_arguments()
            self.connect_again()
            # The data may be others than at the start.
            self._check_settings()
        self._resumes_stages, self._ran_stages = bool(resume_from_checkpoint), False
        if resume_from_checkpoint is True:
            started = stage_was_started(self.args.output_dir)
            folder = self.args.output_dir
            resume_from_checkpoint = last_checkpoint(folder, self._needed_files()) or (None if started else True)
            if resume_from_checkpoint is True and get_last_checkpoint(folder) is not None:
                raise ValueError(
                    f"None of the checkpoints in '{folder}' is whole: see the warnings for the files that they lack. "
                    "Train from the start, or load a checkpoint's weights by from_pretrained."
                )
        elif resume_from_checkpoint and (lacking := missing_files(resume_from_checkpoint, self._needed_files())):
            raise ValueError(
                f"The checkpoint '{resume_from_checkpoint}' lacks {', '.join(lacking)}, without which the training "
                "would go on otherwise than it was. Give an earlier checkpoint, or load its weights by "
                "from_pretrained and train from the start."
            )
        # An evaluation before the first training marks the model as prepared, with which Accelerate would not wrap it
        # for several processes any more, and each would train a student of its own.
        wrapped = getattr(self.model_wrapped, "_orig_mod", self.model_wrapped)
        replicated = self.accelerator.num_processes > 1 and not self._is_sharded()
        if replicated and self.model is not None and wrapped is self.model:
            forget_preparation(self.model)
            self.model_wrapped = self.model
        if not self.runs_student:
            # Nothing of it is trained, which DDP refuses.
            cast(Any, self.model)._is_accelerate_prepared = True
        if self.is_fsdp_enabled and self.model is not None:
            name_blocks(self.student, self.accelerator.state.fsdp_plugin)
        with checkpoint_on_sigterm(self) if self.args.enable_jit_checkpoint else nullcontext():
            result = super().train(resume_from_checkpoint, *arguments, **keywords)
        self._end_optimizer()
        self._warn_of_a_best_step_without_weights()
        require_finite_weights(self.model, "student", DIVERGED)
        return result


@contextmanager
def full_disk_named(folder: str, step: int) -> Iterator[None]:
    """Context in which a full disk ends in an error that says so: torch and safetensors speak of positions in files.

    What was written of the checkpoint is removed.

    Raises:
        OSError: the disk is full.
    """
    try:
        yield
    except (RuntimeError, SafetensorError, OSError) as error:
        if not Path(folder).is_dir():
            raise
        free = shutil.disk_usage(folder).free
        if not (error.errno == errno.ENOSPC if isinstance(error, OSError) else free <= MOST_FREE):
            raise
        checkpoint = Path(folder) / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        if missing_files(checkpoint, ()):  # the trainer's state is written last
            shutil.rmtree(checkpoint, ignore_errors=True)
        raise OSError(
            errno.ENOSPC,
            f"{os.strerror(errno.ENOSPC)}: the checkpoint of step {step} could not be written, {free:,} bytes were "
            "free; earlier ones are whole. Make room, keep fewer (save_total_limit) or smaller ones, and go on by "
            "train(resume_from_checkpoint=True)",
            folder,
        ) from error


def load_weights(model: nn.Module, folder: str) -> bool:
    """Load a saved model's weights into a student of transformers; False if this isn't that kind of checkpoint.

    `save_pretrained` writes some families' weights (ViT's among them) under the names of the first release, and the
    stock `Trainer`, which knows only today's names, leaves those layers as they are with no more than a warning.
    `from_pretrained` reads both. A student may have been changed since it was made, as by a head of its own or fewer
    layers than its configuration says: what its class doesn't have bears today's names.

    Raises:
        ValueError: the checkpoint lacks weights.
    """
    if not isinstance(model, PreTrainedModel) or not (Path(folder) / CONFIG_NAME).is_file():
        return False
    own = model.state_dict()
    # The widest: a head in float32 on a backbone in bfloat16 would be rounded.
    kinds = [value.dtype for value in own.values() if value.is_floating_point()]
    saved, report = type(model).from_pretrained(
        folder,
        config=deepcopy(model.config),
        dtype=max(kinds, key=lambda kind: kind.itemsize),
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    absent = report["missing_keys"] | {name for name, *_ in report["mismatched_keys"]}
    state = {name: value for name, value in saved.state_dict().items() if name not in absent}
    if absent := sorted(own.keys() - state.keys()):
        files: dict[str, torch.Tensor] = {}
        for pattern in WEIGHTS:
            for file in Path(folder).glob(pattern):
                files |= load_file(file)
        # What a layer of the class was given, such as the masks of pruning, bears that layer's name in the files.
        marks = revert_weight_conversion(model, {name: torch.tensor(place) for place, name in enumerate(absent)})
        named = {absent[int(place)]: files[name] for name, place in marks.items() if name in files}
        state = files | named | state
    if lacking := sorted(own.keys() - state.keys()):
        raise ValueError(f"The checkpoint {folder} lacks the weights {lacking}.")
    model.load_state_dict({name: state[name] for name in own})
    return True
